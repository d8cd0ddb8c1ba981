"""Compiled chains, against `search.metropolis.step`."""

import numpy as np
import pytest

from keras_soap.costs.roofline import Roofline
from keras_soap.graph.zoo import MODELS
from keras_soap.objective import Objective
from keras_soap.search.metropolis import ChainState, step
from keras_soap.strategy.moves import ONE_OPERATOR, USUAL, Shares, meet
from keras_soap.strategy.search_space import SearchSpace
from keras_soap.tasks.lowering import Costs, Lowering
from tests.simulator import random_problems

ALL_SHARES = (
    USUAL,
    Shares(layers=1.0),
    ONE_OPERATOR,
    Shares(nodes=0.8),
    Shares(crossover=0.9),
)


def assert_walks_as_defined(seed: int, num_steps: int = 25) -> int:
    """Steps of both kinds with the same chance; gives how many were accepted."""
    rng = np.random.default_rng(seed)
    topology = random_problems.machine(rng)
    lowering = Lowering(random_problems.operator_graph(rng))
    costs = Costs(lowering, topology, Roofline())
    training = bool(rng.random() < 0.8)
    dims = str(rng.choice(["SOAP", "SOAP", "SAP", "SO"]))
    walking, stepping = Objective(costs, training), Objective(costs, training)
    space = SearchSpace(lowering.graph, lowering.dimensions, topology, dims)
    start = stepping.evaluate(space.random_strategy(rng))
    state = ChainState(start, start)
    current = best = walking.evaluate(start.strategy)
    beta_per_ns = float(rng.choice([1, 30, 1000])) / max(start.step_time_ns, 1)
    accepted = 0
    meet(space.moves, space, space.random_strategy(rng))
    for number in range(num_steps):
        chance = [np.random.default_rng([seed, number]) for _ in range(2)]
        shares = ALL_SHARES[number % len(ALL_SHARES)]
        state, info = step(chance[0], state, space, stepping, beta_per_ns, shares)
        accepted += info.accepted
        current, best, made = walking.walk(
            current, best, space, chance[1], beta_per_ns, 1, None, shares
        )
        assert made == 1
        for found, expected in ((current, state.current), (best, state.best)):
            assert found.strategy == expected.strategy
            assert found.rank == expected.rank
            assert found.communication_bytes == expected.communication_bytes
    fresh = Objective(costs, training).evaluate(current.strategy)
    assert (fresh.rank, fresh.communication_bytes) == (current.rank, current.communication_bytes)
    return accepted


@pytest.mark.parametrize("block", range(6))
def test_a_walk_goes_where_its_definition_goes(block):
    accepted = sum(assert_walks_as_defined(1000 * block + seed) for seed in range(25))
    assert accepted > 25


def test_long_walks_end_where_a_fresh_evaluation_does():
    for seed in range(12):
        rng = np.random.default_rng(seed)
        topology = random_problems.machine(rng)
        lowering = Lowering(random_problems.operator_graph(rng))
        costs = Costs(lowering, topology, Roofline())
        space = SearchSpace(lowering.graph, lowering.dimensions, topology)
        objective = Objective(costs)
        start = objective.evaluate(space.random_strategy(rng))
        current, best, made = objective.walk(
            start, start, space, rng, 50 / start.step_time_ns, 2000, None
        )
        assert made == 2000
        for found in (current, best):
            fresh = Objective(costs).evaluate(found.strategy)
            assert found.rank == fresh.rank
            assert found.communication_bytes == fresh.communication_bytes
        assert best.rank <= min(start.rank, current.rank)


def test_what_was_refused_is_not_simulated_again_and_the_walk_is_the_same():
    graph = MODELS["alexnet"]()
    topology = random_problems.machine(np.random.default_rng(1))
    lowering = Lowering(graph)
    space = SearchSpace(graph, lowering.dimensions, topology)

    def walk(objective, strategy, seed):
        start = objective.evaluate(strategy)
        before = objective._simulator.tasks_simulated
        rng = np.random.default_rng(seed)
        beta_per_ns = 4000 / start.step_time_ns
        ends = objective.walk(start, start, space, rng, beta_per_ns, 2000, None)
        return ends, objective._simulator.tasks_simulated - before

    # Where a walk has come to, most is refused.
    found = walk(Objective(Costs(lowering, topology, Roofline())), space.whole(), 0)[0][1].strategy
    objective = Objective(Costs(lowering, topology, Roofline()))
    (first, simulated), (again, simulated_again) = (walk(objective, found, 1) for _ in range(2))
    fresh, simulated_afresh = walk(Objective(Costs(lowering, topology, Roofline())), found, 1)
    assert first == again == fresh
    assert simulated_again < simulated / 2
    assert simulated_afresh == simulated


def test_a_walk_stops_with_the_clock():
    graph = MODELS["lenet"]()
    topology = random_problems.machine(np.random.default_rng(0))
    lowering = Lowering(graph)
    space = SearchSpace(graph, lowering.dimensions, topology)
    objective = Objective(Costs(lowering, topology, Roofline()))
    start = objective.evaluate(space.whole())
    rng = np.random.default_rng(0)
    _, _, made = objective.walk(start, start, space, rng, 1 / start.step_time_ns, None, 0.05)
    assert made >= 1
