"""Which strategies of a chain of operators may beat a step time, by dynamic programming.

A state is what the operators so far, in given configurations, say of the step time. For parts q of
the last of them, v, and devices d:

    start_q       no part starts sooner, forward;
    rest_q        time from the start of its backward task to the end of the step, at least;
    then_qd       the same from when the first task of device d that waits for q can start: q's own
                  backward task, if it is there;
    delayed_qd    the same if d has other work before the second of those, beside that work;
    load_qd       work of d that waits for q;
    work_d        work of d in all backward passes so far;
    span          time from the first backward task of v to the end of the step, at least.

Tasks queue for a device in order of (ready time, number), numbers descend with the operators in the
backward pass, and gradients of weights and updates come before what is behind them. So

1. The weights' gradient of q, ready when q's backward task ends, runs before all tasks of its
   device that wait for q.
2. If it is not reduced, the update of q is ready when that has run. So it runs before all tasks of
   its device that wait for one of those.

Whatever else is on the device only delays these tasks, and so do links. A device takes at least as
long as its work in all. Renaming devices by a symmetry renames them in states. So states of one
configuration out of those that symmetries exchange are enough, and equal states are one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from keras_soap.graph.operator_graph import INPUT, Edge
from keras_soap.search import chain_kernel
from keras_soap.search.chain_kernel import Moves, Work
from keras_soap.search.domain import NEVER
from keras_soap.search.path_bounds import PathBounds
from keras_soap.search.symmetry import Permutation

MOST_STATES = 200_000
"""Of one operator; beyond, nothing is said."""

Placed = dict[int, tuple[int, Permutation]]
"""By operator the row of its configuration, and how its devices are to be renamed."""


def chain(bounds: PathBounds) -> list[Edge] | None:
    """The edges of the chain that the graph is, or None."""
    graph = bounds.graph
    if any(len(members) > 1 for members in graph.sharers):
        return None
    if any(len(edges) > 1 for edges in (*graph.in_edges, *graph.out_edges)):
        return None
    made = [n for n, operator in enumerate(graph.operators) if operator.kind != INPUT]
    # Of operators with one producer and one reader each, all but one edge less make one chain.
    edges = list(graph.edges)
    is_chain = len(edges) == len(made) - 1 > 0 and all(map(bounds.on_chain, edges))
    return edges if is_chain else None


@dataclass(frozen=True)
class Level:
    """States of one operator, and how they came about.

    Attributes:
        number: The operator.
        rows: int64 (states,). Their configurations.
        least_ns: int64 (states,). What strategies with such a beginning take at least.
        came: int64 (ways, 3). The state that is reached, the state before, and the number of the
            symmetry that its devices were renamed by; sorted.
    """

    number: int
    rows: np.ndarray
    least_ns: np.ndarray
    came: np.ndarray


class ChainBounds:
    """Bounds for the chain `edges` of a graph."""

    def __init__(self, bounds: PathBounds, edges: list[Edge], group: tuple[Permutation, ...]):
        """Finds what is the same for all limits.

        Args:
            bounds: Of the configurations to consider.
            edges: As from `chain`.
            group: Symmetries of the topology.
        """
        self.bounds = bounds
        self.edges = edges
        self.group = group
        self.numbers = [edges[0].producer.operator, *(edge.consumer for edge in edges)]
        self.work = {number: self._work(number) for number in self.numbers}
        self.moves = [self._moves(edge) for edge in edges]
        # By operator, from a start forward to a start backward.
        last = self.numbers[-1]
        forward = self.work[last].forward
        after = np.full((*forward.shape, forward.shape[1]), NEVER)
        parts = np.arange(forward.shape[1])
        after[:, parts, parts] = forward
        self.after = {last: after}
        for edge, moves in zip(edges[::-1], self.moves[::-1], strict=True):
            u, v = edge.producer.operator, edge.consumer
            self.after[u] = chain_kernel.between(self.after[v], self.work[u], self.work[v], moves)
        self.leaders = {number: self._leaders(number) for number in self.numbers}

    def levels(self, limit_ns: int, check: Callable[[], None]) -> list[Level] | None:
        """All states of strategies that may be faster than `limit_ns`, operator by operator.

        Args:
            limit_ns: The step time to beat.
            check: Called now and then; what it raises ends this.

        Returns:
            One level for each operator, or None if there are more than `MOST_STATES`.
        """
        states, first = self._begin(limit_ns)
        found = [first]
        for edge, moves in zip(self.edges, self.moves, strict=True):
            extended = self._extend(edge, moves, found[-1].rows, states, limit_ns, check)
            if extended is None:
                return None
            states, level = extended
            found.append(level)
        return found

    def strategies(self, levels: list[Level], state: int) -> Iterator[Placed]:
        """All ways to a state of the last level, with devices as that has them."""
        placed: Placed = {}
        unchanged = tuple(range(self.bounds.topology.num_devices))

        def back(depth: int, state: int, renamed: Permutation) -> Iterator[Placed]:
            level = levels[depth]
            placed[level.number] = int(level.rows[state]), renamed
            if depth == 0:
                yield dict(placed)
                return
            first, last = np.searchsorted(level.came[:, 0], [state, state + 1])
            for _, before, image in level.came[first:last].tolist():
                composed = tuple(renamed[device] for device in self.group[image])
                yield from back(depth - 1, before, composed)

        return back(len(levels) - 1, state, unchanged)

    def _begin(self, limit_ns: int) -> tuple[np.ndarray, Level]:
        """The states of the first operator, of configurations that lead, and their level."""
        v = self.numbers[0]
        work = self.work[v]
        # As if it followed an operator without parts.
        parts, width = work.devices.shape
        nobody = Work(*(np.full((1, width), -1) for _ in Work._fields))
        nothing = np.full((1, parts, width, width), NEVER)
        leaders, images = self.leaders[v]
        states, came = chain_kernel.follow(
            np.zeros((1, chain_kernel.state_size(width)), np.int64),
            0,
            nobody,
            work,
            Moves(nothing, nothing),
            self.after[v],
            np.array(self.group, np.int64)[images],
            limit_ns,
        )
        leads = leaders[came[:, 1]] == came[:, 1]
        states, rows = states[leads], came[leads, 1]
        return states, Level(v, rows, self._least_ns(v, rows, states), np.zeros((0, 3), np.int64))

    def _least_ns(self, number: int, rows: np.ndarray, states: np.ndarray) -> np.ndarray:
        found = [
            chain_kernel.bound_ns(state, row, self.work[number].devices, self.after[number])
            for state, row in zip(states, rows, strict=True)
        ]
        return np.array(found, np.int64)

    def _extend(
        self,
        edge: Edge,
        moves: Moves,
        rows: np.ndarray,
        states: np.ndarray,
        limit_ns: int,
        check: Callable[[], None],
    ) -> tuple[np.ndarray, Level] | None:
        """The states of the consumer of an edge, and their level, or None if they are too many."""
        u, v = edge.producer.operator, edge.consumer
        leaders, images = self.leaders[v]
        renamed = np.array(self.group, np.int64)[images]
        found = [np.zeros((0, states.shape[1] + 3), np.int64)]
        count = 0
        for row in np.unique(rows).tolist():
            check()
            here = np.flatnonzero(rows == row)
            new, came = chain_kernel.follow(
                states[here],
                row,
                self.work[u],
                self.work[v],
                moves,
                self.after[v],
                renamed,
                limit_ns,
            )
            before, after = came[:, :1], came[:, 1]
            columns = (leaders[after, None], new, here[before], images[after, None])
            found.append(np.unique(np.concatenate(columns, axis=1), axis=0))
            count += len(found[-1])
            if count > MOST_STATES:
                return None
        joined = np.concatenate(found)
        ahead, reached = np.unique(joined[:, :-2], axis=0, return_inverse=True)
        came = np.concatenate([reached.reshape(-1, 1), joined[:, -2:]], axis=1)
        rows, states = ahead[:, 0], np.ascontiguousarray(ahead[:, 1:])
        came = came[np.lexsort(came.T[::-1])]
        return states, Level(v, rows, self._least_ns(v, rows, states), came)

    def _work(self, number: int) -> Work:
        bounds = self.bounds
        devices = bounds.domains[bounds.family_of[number]].devices.astype(np.int64)
        return Work(
            devices,
            bounds.forward_ns[number],
            bounds.backward_ns[number],
            bounds.busy_ns[number],
            bounds.gradient_ns[number],
            bounds.reduce_path_ns[number],
            bounds.update_ns[number],
            bounds.reduces[number],
        )

    def _moves(self, edge: Edge) -> Moves:
        bounds = self.bounds
        there = bounds.there_ns[edge.index]
        back = np.where(there >= 0, bounds.move_ns[edge.index] - there, NEVER)
        if bounds.returns(edge):
            producer, consumer = self.work[edge.producer.operator], self.work[edge.consumer]
            alike = producer.devices[:, None, :, None] == consumer.devices[None, :, None, :]
            gradient = consumer.gradient[None, :, None, :]
            back = np.where(alike & (there >= 0), np.maximum(back, gradient), back)
        return Moves(there, np.ascontiguousarray(back.transpose(0, 1, 3, 2)))

    def _leaders(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """For each configuration, one that a symmetry takes it to, and which symmetry."""
        configs = self.bounds.domains[self.bounds.family_of[number]].configs
        numbers = {(c.degrees, c.devices): row for row, c in enumerate(configs)}
        leaders, images = [], []
        for c in configs:
            devices, image = min(
                (renamed, number)
                for number, symmetry in enumerate(self.group)
                if (c.degrees, renamed := tuple(symmetry[d] for d in c.devices)) in numbers
            )
            leaders.append(numbers[c.degrees, devices])
            images.append(image)
        return np.array(leaders, np.int64), np.array(images, np.int64)
