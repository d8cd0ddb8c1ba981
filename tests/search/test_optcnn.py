import dataclasses
import itertools

import numpy as np
import pytest

from keras_soap.search import optcnn
from keras_soap.search.additive_costs import AdditiveCosts, leading
from keras_soap.search.problem import Budget
from keras_soap.strategy.strategy import Strategy
from tests.search import toys


def brute_force(nodes, edges):
    choices = itertools.product(*(range(len(cost)) for cost in nodes))
    return min(optcnn.total_cost(nodes, edges, list(chosen)) for chosen in choices)


def random_costs(rng, sizes, pairs):
    nodes = [rng.integers(0, 100, size).astype(float) for size in sizes]
    edges = {(i, j): rng.integers(0, 100, (sizes[i], sizes[j])).astype(float) for i, j in pairs}
    return nodes, edges


SERIES_PARALLEL = {
    "chain": [(0, 1), (1, 2), (2, 3), (3, 4)],
    "residual": [(0, 1), (1, 2), (0, 2), (2, 3), (3, 4), (2, 4)],
    "branches": [(0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 4)],
    "two pieces": [(0, 1), (2, 3), (3, 4)],
    "nested": [(0, 1), (1, 2), (1, 3), (2, 4), (3, 4), (0, 4)],
}


@pytest.mark.parametrize("name", SERIES_PARALLEL)
@pytest.mark.parametrize("seed", range(5))
def test_elimination_finds_the_least_sum(name, seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, 5).tolist()
    nodes, edges = random_costs(rng, sizes, SERIES_PARALLEL[name])
    chosen = optcnn.minimize(nodes, edges)
    assert optcnn.total_cost(nodes, edges, chosen) == brute_force(nodes, edges)


@pytest.mark.parametrize("seed", range(5))
def test_on_other_graphs_no_single_choice_is_better(seed):
    rng = np.random.default_rng(seed)
    nodes, edges = random_costs(rng, [4] * 5, list(itertools.combinations(range(5), 2)))
    chosen = optcnn.minimize(nodes, edges)
    for node, choice in itertools.product(range(5), range(4)):
        other = [choice if number == node else c for number, c in enumerate(chosen)]
        assert optcnn.total_cost(nodes, edges, chosen) <= optcnn.total_cost(nodes, edges, other)


@pytest.mark.parametrize("graph", [toys.chain((64, 128, 32)), toys.diamond()])
@pytest.mark.parametrize("bandwidth_bytes_per_s", [1e7, 1e9, 1e12])
def test_plan_is_the_cheapest_of_all_degrees(graph, bandwidth_bytes_per_s):
    problem = toys.problem(
        graph, toys.machine(2, bandwidth_bytes_per_s=bandwidth_bytes_per_s), dims="SAP"
    )
    costs = AdditiveCosts(problem)

    def cost_of(strategy):
        return sum(
            costs.family_ns(family, strategy.configs[members[0]].degrees)
            for family, members in enumerate(problem.space.families)
        ) + sum(
            costs.edge_ns(
                edge,
                strategy.configs[edge.producer.operator].degrees,
                strategy.configs[edge.consumer].degrees,
            )
            for edge in graph.edges
        )

    planned = optcnn.plan(problem)
    best = min(
        cost_of(Strategy(tuple(leading(degrees[f]) for f in problem.space.family_of)))
        for degrees in itertools.product(*problem.space.degrees)
    )
    assert cost_of(planned) == pytest.approx(best)


def test_cutting_and_joining_costs_where_devices_share_memory():
    graph, machine = toys.chain((64, 64, 64)), toys.machine(2)
    shared = dataclasses.replace(
        machine, devices=tuple(dataclasses.replace(d, pool="cores") for d in machine.devices)
    )
    # What one part made is read by two.
    edge = graph.edges[0]
    found = toys.problem(graph, machine).lowering.edge(edge, (1, 1), (2, 1))
    assert found.copied.tolist() == [[0, 0], [1, 1]]
    apart, beside = (
        AdditiveCosts(toys.problem(graph, m)).edge_ns(edge, (1, 1), (2, 1))
        for m in (machine, shared)
    )
    num_bytes = 4 * int(found.num_elements[0])
    route = machine.route(0, 1)
    assert apart == pytest.approx(2 * route.time_ns(num_bytes), abs=2)
    # There, nothing is copied; back, both halves are joined, one after the other by the same cores.
    expected = 2 * route.latency_ns + 2 * route.time_ns(num_bytes)
    assert beside == pytest.approx(expected, abs=4)


@pytest.mark.parametrize("graph", [toys.chain((512, 64)), toys.chain((64, 512))])
def test_on_chains_it_simulates_as_the_fastest_without_o(graph):
    problem = toys.problem(graph, toys.machine(2), dims="SAP")
    result = optcnn.search(problem, Budget(seconds=5), 0)
    assert result.evaluation.step_time_ns == toys.fastest(problem).step_time_ns
