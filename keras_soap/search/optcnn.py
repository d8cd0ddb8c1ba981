"""Dynamic programming over S, A and P, as in OptCNN; a search without O.

Z. Jia, S. Lin, C. R. Qi, A. Aiken, "Exploring hidden dimensions in parallelizing convolutional
neural networks" (ICML 2018). Variables: the degrees of each family of operators; objective: the
sum of `additive_costs`. Two eliminations keep the minimum and shrink the graph:

1. Node elimination: a node w with two neighbours i, j becomes an edge,
   cost(i, j) = min over w of cost(i, w) + cost(w) + cost(w, j). With one neighbour it joins that.
2. Edge elimination: two edges between the same nodes become one, their sum.

Series-parallel graphs shrink to a single node, so the minimum is exact. Where every node left has
three or more neighbours, the one with most gets the degrees that look best, and it goes on; then
the minimum is not certain, and single changes improve it as far as they can.
"""

import time

import numpy as np

from keras_soap.search.additive_costs import AdditiveCosts, leading
from keras_soap.search.problem import NO_OPTIONS, Budget, Problem, RunOptions
from keras_soap.search.result import SearchResult, StopReason
from keras_soap.search.tracker import Tracker
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.strategy.strategy import Strategy

MAX_DEGREES = 32
"""Of each family only so many degrees are looked at: those that are cheapest on their own."""


def search(
    problem: Problem, budget: Budget, seed: int, options: RunOptions = NO_OPTIONS
) -> SearchResult:
    """Finds the strategy of least additive cost, and evaluates it."""
    tracker = Tracker(problem, budget, options)
    stopped_by = StopReason.COMPLETE
    if reason := tracker.spent():
        return tracker.result(problem, "optcnn", seed, reason)
    try:
        end = None if budget.seconds is None else tracker.started + budget.seconds
        strategy = plan(problem, end)
        tracker.proposals += 1
        if strategy is None:
            stopped_by = StopReason.TIME
        else:
            tracker.offer(problem.objective.evaluate(strategy))
    except KeyboardInterrupt:
        stopped_by = StopReason.INTERRUPTED
    return tracker.result(problem, "optcnn", seed, stopped_by)


def plan(problem: Problem, end: float | None = None) -> Strategy | None:
    """The strategy of least additive cost; None if it is not found by `end` (`perf_counter`)."""
    space = problem.space
    costs = AdditiveCosts(problem)
    choices: list[list[tuple[int, ...]]] = []
    nodes: list[np.ndarray] = []
    for family, degrees in enumerate(space.degrees):
        alone = np.array([costs.family_ns(family, choice) for choice in degrees])
        kept = np.sort(np.argsort(alone, kind="stable")[:MAX_DEGREES])
        choices.append([degrees[number] for number in kept])
        nodes.append(alone[kept])
    edges: dict[tuple[int, int], np.ndarray] = {}
    for edge in problem.graph.edges:
        if end is not None and time.perf_counter() > end:
            return None
        a, b = space.family_of[edge.producer.operator], space.family_of[edge.consumer]
        table = np.array(
            [
                [costs.edge_ns(edge, producer, consumer) for consumer in choices[b]]
                for producer in choices[a]
            ]
        )
        if a == b:
            nodes[a] = nodes[a] + np.diagonal(table)
        else:
            _add_edge(edges, a, b, table)
    chosen = minimize(nodes, edges)
    configs: dict[int, ParallelConfig] = {}
    for family, members in enumerate(space.families):
        configs.update(dict.fromkeys(members, leading(choices[family][chosen[family]])))
    return Strategy(tuple(configs[number] for number in range(len(configs))))


def minimize(nodes: list[np.ndarray], edges: dict[tuple[int, int], np.ndarray]) -> list[int]:
    """For each node a choice, such that the sum of costs is least (see the module).

    Args:
        nodes: float64 (choices,) for each node.
        edges: float64 (choices of i, choices of j) by (i, j), i < j.
    """
    original, nodes, left = nodes, list(nodes), dict(edges)
    alive = set(range(len(nodes)))
    # What to choose for an eliminated node, given its neighbours: filled in on the way back.
    steps: list[tuple[int, tuple[int, ...], np.ndarray]] = []
    certain = True
    while alive:
        around = _neighbours(alive, left)
        node = min(alive, key=lambda number: (len(around[number]), number))
        if len(around[node]) > 2:
            node = max(alive, key=lambda number: (len(around[number]), -number))
            guess = nodes[node] + sum(
                (_table(left, node, other) + nodes[other]).min(axis=1) for other in around[node]
            )
            choice = int(np.argmin(guess))
            for other in around[node]:
                nodes[other] = nodes[other] + _table(left, node, other)[choice]
            steps.append((node, (), np.array(choice)))
            certain = False
        elif len(around[node]) == 2:
            i, j = around[node]
            total = (
                _table(left, i, node)[:, None, :] + nodes[node] + _table(left, j, node)[None, :, :]
            )
            steps.append((node, (i, j), total.argmin(axis=2)))
            _add_edge(left, i, j, total.min(axis=2))
        elif len(around[node]) == 1:
            (i,) = around[node]
            total = _table(left, i, node) + nodes[node]
            steps.append((node, (i,), total.argmin(axis=1)))
            nodes[i] = nodes[i] + total.min(axis=1)
        else:
            steps.append((node, (), np.asarray(nodes[node].argmin())))
        alive.remove(node)
        left = {pair: table for pair, table in left.items() if node not in pair}
    chosen = [0] * len(nodes)
    for node, given, best in reversed(steps):
        chosen[node] = int(best[tuple(chosen[other] for other in given)])
    return chosen if certain else _improve(original, edges, chosen)


def _improve(
    nodes: list[np.ndarray], edges: dict[tuple[int, int], np.ndarray], chosen: list[int]
) -> list[int]:
    around = _neighbours(set(range(len(nodes))), edges)
    changed = True
    while changed:
        changed = False
        for node, cost in enumerate(nodes):
            total = cost + sum(
                _table(edges, node, other)[:, chosen[other]] for other in around[node]
            )
            best = int(total.argmin())
            if total[best] < total[chosen[node]]:
                chosen[node], changed = best, True
    return chosen


def total_cost(
    nodes: list[np.ndarray], edges: dict[tuple[int, int], np.ndarray], chosen: list[int]
) -> float:
    """What `minimize` minimises."""
    return float(
        sum(cost[choice] for cost, choice in zip(nodes, chosen, strict=True))
        + sum(table[chosen[i], chosen[j]] for (i, j), table in edges.items())
    )


def _neighbours(alive: set[int], edges: dict[tuple[int, int], np.ndarray]) -> dict[int, list[int]]:
    around: dict[int, list[int]] = {number: [] for number in alive}
    for i, j in sorted(edges):
        around[i].append(j)
        around[j].append(i)
    return around


def _table(edges: dict[tuple[int, int], np.ndarray], i: int, j: int) -> np.ndarray:
    return edges[i, j] if i < j else edges[j, i].T


def _add_edge(edges: dict[tuple[int, int], np.ndarray], i: int, j: int, table: np.ndarray) -> None:
    if i > j:
        i, j, table = j, i, table.T
    edges[i, j] = edges[i, j] + table if (i, j) in edges else table
