"""A lower bound of the step time for chains of operators, by dynamic programming.

The longest path of tasks is minimised over all strategies; how tasks queue is left out, so that no
strategy is faster. Along the chain u → v, by part:

    start_v(q) = max over parts p that q reads of start_u(p) + forward_u(p) + there(p, q)
    rest_v(q)  = backward_v(q) + max(sync_v(q), max over those p of back(p, q) + rest_u(p))

rest is from the start of the backward task to the end of the step. Both only grow with those of u,
so of the ways to give u one configuration, those are enough that no other is at least as good in
all parts. Configurations that a symmetry of devices exchanges have the same starts and rests. At
the end of the chain the step takes max over q of start + forward + rest.

Nor does a device end before it has done, one after the other, its work of the backward pass from v
on, updates included; none of that starts before the first backward task of v does.
"""

import numpy as np

from keras_soap.graph.operator_graph import Edge, OperatorGraph
from keras_soap.search.path_bounds import NEVER, PathBounds
from keras_soap.search.symmetry import Permutation

MOST_STATES = 20_000
"""Of one operator; beyond, nothing is said."""


def chain(graph: OperatorGraph) -> list[Edge] | None:
    """The edges of the chain that the graph is, beside inputs that join it on the way, or None."""
    if any(len(members) > 1 for members in graph.sharers):
        return None
    if any(len(edges) > 1 for edges in graph.out_edges):
        return None
    sinks = [number for number, edges in enumerate(graph.out_edges) if not edges]
    if len(sinks) != 1:
        return None
    edges: list[Edge] = []
    number = sinks[0]
    while graph.in_edges[number]:
        ahead = [edge for edge in graph.in_edges[number] if graph.in_edges[edge.producer.operator]]
        if len(ahead) > 1:
            return None
        edges.append((ahead or list(graph.in_edges[number]))[0])
        number = edges[-1].producer.operator
    return edges[::-1]


def nothing_below(bounds: PathBounds, group: tuple[Permutation, ...], limit_ns: int) -> bool:
    """Whether it is certain that every strategy takes `limit_ns` or longer.

    Args:
        bounds: Of the configurations to consider.
        group: Symmetries of the topology.
        limit_ns: The step time to beat.
    """
    edges = chain(bounds.graph)
    if not edges:
        return False
    first = edges[0].producer.operator
    states = _States(bounds, group, first, limit_ns)
    shape = bounds.own_ns[first].shape
    rest = bounds.own_ns[first] - bounds.forward_ns[first]
    work = _work(bounds, first)
    states.add(np.arange(shape[0]), np.zeros(shape, np.int64), rest, work, work.max(axis=1))
    for edge in edges:
        following = _States(bounds, group, edge.consumer, limit_ns)
        for row, both in states.found.items():
            following.add(*_follow(bounds, edge, row, *states.split(both)))
            if following.count > MOST_STATES:
                return False
        states = following
    return not states.found


def _work(bounds: PathBounds, number: int) -> np.ndarray:
    """int64 (configs, devices): work on each device from the backward pass on."""
    family = bounds.family_of[number]
    devices = bounds.domains[family].devices
    work = bounds.load_ns[family][:, : bounds.topology.num_devices].copy()
    for part in range(devices.shape[1]):
        rows = np.flatnonzero(devices[:, part] >= 0)
        work[rows, devices[rows, part]] -= bounds.forward_ns[number][rows, part]
    return np.maximum(work, 0)


def _follow(bounds: PathBounds, edge: Edge, row: int, start, rest, work, after_first):
    """What `_States.add` takes, of the consumer, for all states of a configuration."""
    u, v = edge.producer.operator, edge.consumer
    there = bounds.there_ns[edge.index][row]
    end = start + bounds.forward_ns[u][row]
    starts = np.maximum((end[:, None, :, None] + there).max(axis=2), 0)
    # Inputs that join here are anywhere: each part gets them as early as it can.
    for other in bounds.graph.in_edges[v]:
        if other.index != edge.index:
            starts = np.maximum(starts, bounds.least_ready(other))
    own = bounds.own_ns[v] - bounds.forward_ns[v]
    rests = np.broadcast_to(own + bounds.sync_ns[v], starts.shape)
    # The backward task of a part that nothing reads waits for no other.
    read = (there > NEVER).any(axis=2) | (bounds.domains[bounds.family_of[u]].devices[row] < 0)
    waits = read.all(axis=1)
    works = work[:, None, :] * waits[:, None] + _work(bounds, v)
    firsts = works.max(axis=2)
    if bounds.returns(edge):
        back = np.where(there > NEVER, bounds.move_ns[edge.index][row] - there, NEVER)
        rests = np.maximum(rests, own + (rest[:, None, :, None] + back).max(axis=2))
        real = bounds.domains[bounds.family_of[v]].devices >= 0
        least = own.min(axis=1, where=real, initial=1 << 60)
        firsts = np.maximum(firsts, (least + after_first) * waits)
    rows = np.tile(np.arange(starts.shape[1]), len(start))
    return (
        rows,
        starts.reshape(-1, starts.shape[2]),
        np.ascontiguousarray(rests).reshape(-1, starts.shape[2]),
        works.reshape(-1, works.shape[2]),
        firsts.reshape(-1),
    )


class _States:
    """Ways to reach an operator, by the first of the configurations that symmetries exchange."""

    def __init__(self, bounds: PathBounds, group, number: int, limit_ns: int):
        domain = bounds.domains[bounds.family_of[number]]
        self.real = domain.devices >= 0
        # Forward, and the shortest way from there to the loss and back.
        self.between = bounds.forward_ns[number] + (bounds.tail_ns[number] - bounds.own_ns[number])
        self.limit_ns = limit_ns
        self.leaders, self.renamed = _leaders(domain.configs, group)
        self.found: dict[int, np.ndarray] = {}
        self.count = 0

    def add(self, rows, start, rest, work, after_first) -> None:
        real = self.real[rows]
        reach = start + self.between[rows]
        total = np.where(real, reach + rest, 0).max(axis=1)
        begins = reach.min(axis=1, where=real, initial=1 << 60)
        kept = np.maximum(total, begins + after_first) < self.limit_ns
        rows, real = rows[kept], real[kept]
        renamed = np.zeros_like(work[kept])
        np.put_along_axis(renamed, self.renamed[rows], work[kept], axis=1)
        starts, rests = np.where(real, start[kept], 0), np.where(real, rest[kept], 0)
        both = np.concatenate([starts, rests, renamed, after_first[kept, None]], axis=1)
        leaders = self.leaders[rows]
        for leader in np.unique(leaders).tolist():
            new = both[leaders == leader]
            if leader in self.found:
                self.count -= len(self.found[leader])
                new = np.concatenate([self.found[leader], new])
            self.found[leader] = _undominated(new)
            self.count += len(self.found[leader])

    def split(self, both: np.ndarray):
        """Starts, rests, work, and the time from the first backward task to the end."""
        width = self.real.shape[1]
        return both[:, :width], both[:, width : 2 * width], both[:, 2 * width : -1], both[:, -1:]


def _leaders(configs, group: tuple[Permutation, ...]) -> tuple[np.ndarray, np.ndarray]:
    """For each configuration, one that a symmetry takes it to, and that symmetry."""
    numbers = {(c.degrees, c.devices): row for row, c in enumerate(configs)}
    leaders, renamed = [], []
    for c in configs:
        images = ((tuple(image[d] for d in c.devices), image) for image in group)
        devices, image = min(i for i in images if (c.degrees, i[0]) in numbers)
        leaders.append(numbers[c.degrees, devices])
        renamed.append(image)
    return np.array(leaders, np.int64), np.array(renamed, np.int64)


def _undominated(points: np.ndarray) -> np.ndarray:
    """Rows that no other row is at most as large as in all columns; one of equal rows."""
    points = np.unique(points, axis=0)
    points = points[np.argsort(points.sum(axis=1), kind="stable")]
    kept: list[np.ndarray] = []
    while len(points):
        kept.append(points[0])
        points = points[(points < points[0]).any(axis=1)]
    return np.array(kept)
