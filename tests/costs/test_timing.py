"""Repetition and outliers, with a clock that the tests wind."""

import os
import threading

import numpy as np
import pytest

from keras_soap.costs.timing import (
    Precision,
    deviation,
    on_one_core,
    time_in_turn,
    without_outliers,
    work_in_turn,
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


def test_all_threads_share_one_core_for_a_while_and_then_have_theirs_again():
    usual, done = os.sched_getaffinity(0), threading.Event()
    threads = [threading.Thread(target=done.wait) for _ in range(2)]
    threads[0].start()

    def affinities():
        return [os.sched_getaffinity(thread.native_id or 0) for thread in threads]

    def start_and_fail():
        with on_one_core():
            threads[1].start()
            assert affinities() == [{min(usual)}] * 2
            raise KeyError

    with pytest.raises(KeyError):
        start_and_fail()
    assert [*affinities(), os.sched_getaffinity(0)] == [usual] * 3
    done.set()


def test_processor_time_is_that_of_one_core():
    seen = []
    work_in_turn([lambda: None, lambda: seen.append(os.sched_getaffinity(0))], Precision())
    assert set(map(len, seen)) == {1}
