"""Changes one after the other, against building and simulating afresh."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from keras_soap.costs.roofline import Roofline
from keras_soap.graph.operator_graph import OperatorGraph
from keras_soap.simulator import reference
from keras_soap.simulator.simulator import Simulator
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.strategy.search_space import SearchSpace
from keras_soap.tasks import all_reduce
from keras_soap.tasks.build import build
from keras_soap.tasks.lowering import Costs, Lowering
from keras_soap.tasks.memory import peak_memory_bytes
from keras_soap.topology.presets import scaled_cluster
from tests import invariants
from tests.search import toys
from tests.simulator import random_problems


def assert_stands_at(simulator: Simulator, strategy, costs: Costs, training: bool) -> int:
    """Compares all that a simulator says with fresh results; gives the step time."""
    graph = build(costs, strategy, training)
    timeline = reference.simulate(graph)
    assert simulator.strategy == strategy
    ready_ns, end_ns = simulator.ready_and_end_ns()
    np.testing.assert_array_equal(ready_ns, timeline.ready_ns)
    np.testing.assert_array_equal(end_ns, timeline.end_ns)
    memory = peak_memory_bytes(costs, strategy, training)
    np.testing.assert_array_equal(simulator.peak_memory_bytes, memory)
    outcome = simulator.outcome
    assert outcome.step_time_ns == timeline.step_time_ns
    assert outcome.communication_bytes == graph.communication_bytes
    limits = [device.memory_bytes for device in costs.topology.devices]
    assert outcome.excess_bytes == np.maximum(memory - limits, 0).sum()
    return timeline.step_time_ns


def walk(
    seed: int,
    num_changes: int = 8,
    save_every: int | None = None,
    operator_graph: Callable[[np.random.Generator], OperatorGraph] = random_problems.operator_graph,
) -> None:
    """A random problem, and random proposals accepted, rejected and limited."""
    rng = np.random.default_rng(seed)
    topology = random_problems.machine(rng)
    lowering = Lowering(operator_graph(rng))
    costs = Costs(lowering, topology, Roofline())
    training = bool(rng.random() < 0.8)
    space = random_problems.Space(lowering, topology.num_devices)
    simulator = Simulator(costs, training)
    if save_every:
        simulator._state = simulator._state._replace(save_every=save_every)
    strategy = space.strategy(rng)
    simulator.set(strategy)
    step_ns = assert_stands_at(simulator, strategy, costs, training)
    for _ in range(num_changes):
        change = space.change(rng, 1 if rng.random() < 0.8 else int(rng.integers(1, 4)))
        fresh = build(costs, strategy.replace(change), training)
        fresh_ns = reference.simulate(fresh).step_time_ns
        near = [None, step_ns, fresh_ns, fresh_ns - 1, fresh_ns + 1, fresh_ns // 2]
        limit_ns = near[int(rng.integers(len(near)))]
        outcome = simulator.propose(change, limit_ns)
        assert outcome.exceeds == (limit_ns is not None and fresh_ns > limit_ns)
        assert outcome.communication_bytes == fresh.communication_bytes
        memory = peak_memory_bytes(costs, strategy.replace(change), training)
        np.testing.assert_array_equal(simulator.proposed_memory_bytes, memory)
        if outcome.exceeds:
            assert outcome.step_time_ns <= fresh_ns
        else:
            assert outcome.step_time_ns == fresh_ns
        if outcome.exceeds or rng.random() < 0.4:
            simulator.reject()
        else:
            simulator.accept()
            strategy = strategy.replace(change)
        step_ns = assert_stands_at(simulator, strategy, costs, training)


@pytest.mark.parametrize("block", range(10))
def test_any_sequence_of_changes_ends_where_a_fresh_simulation_does(block):
    for seed in range(40):
        walk(1000 * block + seed)


def test_parts_that_nobody_reads_do_not_wait_for_gradients():
    for seed in range(100):
        walk(seed, operator_graph=random_problems.striding_graph)


def test_reductions_of_any_size_cost_what_their_plans_do(monkeypatch):
    ways = Counter()
    plan = all_reduce.plan

    def noted(*arguments):
        found = plan(*arguments)
        ways[tuple(type(phase).__name__ for phase in found.phases)] += 1
        return found

    monkeypatch.setattr(all_reduce, "plan", noted)
    for seed in range(120):
        rng = np.random.default_rng(seed)
        topology = random_problems.machine(rng)
        lowering = Lowering(random_problems.reducing_graph(rng))
        costs = Costs(lowering, topology, Roofline())
        space = random_problems.Space(lowering, topology.num_devices)
        simulator = Simulator(costs)
        for _ in range(3):
            strategy = space.strategy(rng)
            simulator.set(strategy)
            assert_stands_at(simulator, strategy, costs, training=True)
    for phases in ["R", "E", "ERE", "EEE", "EE"]:
        names = tuple("Rings" if phase == "R" else "Exchange" for phase in phases)
        assert ways[names] >= 5, names


@pytest.mark.parametrize("save_every", [1, 2, 7])
def test_copies_of_the_resources_may_be_made_at_any_time(save_every):
    for seed in range(40):
        walk(100_000 * save_every + seed, save_every=save_every)


def test_built_graphs_obey_the_rules():
    for seed in range(40):
        rng = np.random.default_rng(seed)
        topology = random_problems.machine(rng)
        lowering = Lowering(random_problems.operator_graph(rng))
        costs = Costs(lowering, topology, Roofline())
        strategy = random_problems.Space(lowering, topology.num_devices).strategy(rng)
        graph = build(costs, strategy)
        invariants.check_links(graph, any(device.pool for device in topology.devices))
        invariants.check(graph, reference.simulate(graph))


def test_with_a_limit_a_proposal_of_very_many_pairs_counts_as_too_long():
    graph = toys.chain((512, 512, 512), 512)
    lowering = Lowering(graph)
    num_devices = 512
    simulator = Simulator(Costs(lowering, scaled_cluster(num_devices), Roofline()))
    space = SearchSpace(graph, lowering.dimensions, scaled_cluster(num_devices))
    before = simulator.set(space.whole())
    everywhere = tuple(range(num_devices))
    by_sample = ParallelConfig((num_devices, 1), everywhere)
    by_units = ParallelConfig((1, num_devices), everywhere)
    layers = [n for n, operator in enumerate(graph.operators) if operator.kind == "dense"]
    change = {layers[0]: by_sample, layers[1]: by_units}
    assert simulator.propose(change, limit_ns=10**15).exceeds
    simulator.reject()
    assert simulator.outcome == before
    outcome = simulator.propose(change)
    assert not outcome.exceeds
    simulator.reject()
    # Operators split alike have few pairs: those are simulated with a limit too.
    alike = dict.fromkeys(layers, by_sample)
    assert not simulator.propose(alike, limit_ns=10**15).exceeds
