"""MCMC as a sampler."""

import math
from collections import Counter

import numpy as np

from keras_soap.objective import Evaluation
from keras_soap.search.metropolis import ChainState, beta_per_ns, step
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.strategy.strategy import Strategy

COSTS_NS = {0: 1000, 1: 1700, 2: 2500}
EXCESS_BYTES = {0: 0, 1: 0, 2: 0}


class ThreeStrategies:
    """One operator on one of three devices, proposed with equal chances."""

    def __init__(self, excess_bytes=None):
        self.excess_bytes = excess_bytes or EXCESS_BYTES
        self.limits_ns = []

    def random_change(self, rng, strategy, shares):
        return {0: ParallelConfig((1,), (int(rng.random() * 3),))}

    def evaluate(self, strategy):
        (device,) = strategy.configs[0].devices
        return Evaluation(strategy, COSTS_NS[device], 0, self.excess_bytes[device])

    def update(self, evaluation, change, limit_ns=None):
        self.limits_ns.append(limit_ns)
        return self.evaluate(evaluation.strategy.replace(change))


def start_of(toy, device):
    start = toy.evaluate(Strategy((ParallelConfig((1,), (device,)),)))
    return ChainState(start, start)


def device_of(state):
    return state.current.strategy.configs[0].devices[0]


def test_visits_strategies_in_proportion_to_their_boltzmann_weights():
    toy = ThreeStrategies()
    rng = np.random.default_rng(0)
    beta = 1 / 1000
    state = start_of(toy, 2)
    visits = Counter()
    num_steps = 60_000
    for _ in range(num_steps):
        state, _ = step(rng, state, toy, toy, beta)
        visits[device_of(state)] += 1
    weights = {device: math.exp(-beta * cost) for device, cost in COSTS_NS.items()}
    for device, weight in weights.items():
        expected = weight / sum(weights.values())
        assert abs(visits[device] / num_steps - expected) < 0.01


def test_rejecting_returns_the_old_state():
    toy = ThreeStrategies()
    rng = np.random.default_rng(0)
    state = start_of(toy, 0)
    for _ in range(100):
        after, info = step(rng, state, toy, toy, beta_per_ns=1e6)
        if not info.accepted:
            assert after is state
        assert device_of(after) == 0


def test_the_best_is_kept_while_the_chain_moves_on():
    toy = ThreeStrategies()
    rng = np.random.default_rng(0)
    state = start_of(toy, 2)
    for _ in range(200):
        state, info = step(rng, state, toy, toy, beta_per_ns=1e-9)
        assert state.best.rank <= state.current.rank
        assert not info.improved or info.accepted
    assert state.best.step_time_ns == 1000


def test_the_limit_decides_as_the_exact_time_does():
    toy = ThreeStrategies()
    rng = np.random.default_rng(1)
    state = start_of(toy, 0)
    for _ in range(500):
        before = state.current
        state, info = step(rng, state, toy, toy, beta_per_ns=1 / 500)
        proposed = toy.update(before, info.change)
        assert info.accepted == (proposed.step_time_ns <= toy.limits_ns[-2])
        assert toy.limits_ns[-2] >= before.step_time_ns


def test_never_moves_from_what_fits_to_what_does_not():
    toy = ThreeStrategies(excess_bytes={0: 5, 1: 0, 2: 9})
    rng = np.random.default_rng(0)
    state = start_of(toy, 2)
    excess = [9]
    for _ in range(200):
        state, _ = step(rng, state, toy, toy, beta_per_ns=1e-9)
        excess.append(state.current.excess_bytes)
    assert excess == sorted(excess, reverse=True)
    assert device_of(state) == 1


def test_beta_means_the_same_for_slow_and_fast_models():
    toy = ThreeStrategies()
    fast, slow = start_of(toy, 0).current, start_of(toy, 2).current
    assert math.isclose(
        beta_per_ns(fast) * fast.step_time_ns, beta_per_ns(slow) * slow.step_time_ns
    )
