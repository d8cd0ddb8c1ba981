"""Repetition and outliers, with a clock that the tests wind."""

import math

import numpy as np
import pytest

from keras_soap.costs.timing import (
    PATIENCE,
    Precision,
    deviation,
    time_in_turn,
    without_outliers,
)


class Clock:
    """Advances only by what the functions say they take."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now

    def function(self, times):
        times = iter(times)

        def run():
            self.now += next(times)

        return run


def endless(*times):
    while True:
        yield from times


def test_each_function_is_timed_beyond_the_one_before():
    clock = Clock()
    functions = [clock.function(endless(t)) for t in (100, 1_100, 4_100)]
    timing = time_in_turn(functions, Precision(), clock)
    assert timing.beyond_previous_ns == (1_000, 3_000)
    assert (timing.relative_spread, timing.num_runs) == (0.0, Precision().min_runs)


def test_noise_is_repeated_until_the_median_is_known_or_runs_are_out():
    noise = np.random.default_rng(0).integers(50_000, 150_000, 10_000).tolist()
    runs = []
    for relative_error in (0.5, 0.1, 0.001):
        clock = Clock()
        functions = [clock.function(endless(0)), clock.function(noise)]
        precision = Precision(relative_error, error_ns=0, max_runs=400, seconds=10)
        runs.append(time_in_turn(functions, precision, clock).num_runs)
    assert runs[0] < runs[1] < runs[2] == 400


def test_time_ends_what_noise_would_go_on_with():
    clock = Clock()
    functions = [clock.function(endless(0)), clock.function(endless(10**9, 3 * 10**9))]
    time_in_turn(functions, Precision(0.001, min_runs=4, seconds=1), clock)
    assert clock.now == 8 * 10**9


def test_a_round_that_something_interrupted_is_left_out():
    clock = Clock()
    functions = [clock.function(endless(0)), clock.function(endless(99, 100, 101, 98, 102, 9_999))]
    timing = time_in_turn(functions, Precision(error_ns=0, max_runs=12, min_runs=12), clock)
    assert (timing.beyond_previous_ns, timing.num_runs) == ((100,), 10)


def test_time_is_never_negative():
    clock = Clock()
    functions = [clock.function(endless(100)), clock.function(endless(90))]
    assert time_in_turn(functions, Precision(), clock).beyond_previous_ns == (0,)


def test_deviation_is_that_of_a_normal_distribution():
    values = np.random.default_rng(0).normal(5, 2, 100_000)
    np.testing.assert_allclose(deviation(values), 2, rtol=0.02)
    assert len(without_outliers(values[:, None])) > 99_990


class Together:
    """Cores of which is known how fast they are at the next moments, and then always."""

    def __init__(self, clock, *ratios):
        self.clock, self.ratios, self.best = clock, list(ratios), 1.0
        self.patience_s, self.waited_s = math.inf, 0.0

    def speed(self):
        self.clock.now += 1_000_000
        return self.ratios.pop(0) if len(self.ratios) > 1 else self.ratios[0]

    def enough(self, ratio):
        return ratio >= 0.9 * self.best

    def settle_for(self, ratio):
        self.best = ratio

    def wait(self, seconds):
        return seconds < self.patience_s

    def waited(self, seconds):
        self.waited_s += seconds


def test_rounds_in_which_cores_hinder_each_other_do_not_count():
    clock = Clock()
    functions = [clock.function(endless(100)), clock.function(endless(900, 900, 900, 500))]
    # Of four rounds the last is between two moments at which they are fast, ever again.
    cores = Together(clock, *(1.0, 0.5, 0.5, 1.0) * 10)
    timing = time_in_turn(functions, Precision(min_runs=5), clock, cores)
    assert (timing.beyond_previous_ns, timing.num_runs) == ((400,), 5)
    assert cores.best == 1.0


def test_where_cores_stay_slow_the_fastest_rounds_count_after_some_patience():
    clock = Clock()
    functions = [clock.function(endless(100)), clock.function(endless(1_000_100))]
    cores = Together(clock, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.5)
    precision = Precision(min_runs=5, seconds=0.1)
    timing = time_in_turn(functions, precision, clock, cores)
    assert timing.beyond_previous_ns == (1_000_000,)
    assert timing.num_runs == 5
    assert cores.best == 0.6
    # 2 ms each, for so many times as long as they would be repeated.
    assert clock.now == pytest.approx(PATIENCE * 1e8, rel=0.01)
    assert cores.waited_s == pytest.approx(PATIENCE * 0.1, rel=0.01)


def test_patience_of_all_that_is_timed_is_limited():
    clock = Clock()
    functions = [clock.function(endless(100)), clock.function(endless(1_000_100))]
    cores = Together(clock, 0.5)
    cores.patience_s = 0.3
    time_in_turn(functions, Precision(min_runs=5, seconds=0.1), clock, cores)
    assert clock.now == pytest.approx(3e8, rel=0.01)
