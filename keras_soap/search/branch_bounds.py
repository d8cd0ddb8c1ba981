"""Lower bounds of the step time for branches: some families have a configuration, others do not.

What `path_bounds` says of all configurations, and

- paths through what has been chosen take what they take there;
- no device or link does its work faster than one task after the other; devices altogether neither,
  with the least work that those without configuration can have;
- reductions on a link do not begin before the first of them is ready;
- a device does not begin the work for a family and for those chosen after it, with the backward
  passes of those before it, until the first of that is ready.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_soap.search.path_bounds import PathBounds
from keras_soap.search.problem import Problem

NEVER = 1 << 61
"""When nothing begins."""


@dataclass(frozen=True)
class Occupied:
    """What the choices so far occupy.

    Attributes:
        load_ns: int64 (resources,). In all.
        reduce_ns: int64 (resources,). Reductions of gradients alone.
        release_ns: int64 (resources,). When the first of those can start.
        late_ns: int64 (devices,). Backward passes and updates alone.
        turn_ns: int64 (devices,). When the first of those can start.
        since_ns: int64 (choices, devices). By choice: work for it and those after it, and backward
            passes and updates of those before it.
        begin_ns: int64 (choices, devices). When the first of that can start.
    """

    load_ns: np.ndarray
    reduce_ns: np.ndarray
    release_ns: np.ndarray
    late_ns: np.ndarray
    turn_ns: np.ndarray
    since_ns: np.ndarray
    begin_ns: np.ndarray


@dataclass(frozen=True)
class Options:
    """The configurations of a family, given what has been chosen before.

    Attributes:
        starts: By operator of the family int64 (configs, parts) twice: earliest starts, forward and
            both ways.
        taken: What is occupied then. Arrays have an axis of configurations in front.
        bound_ns: int64 (configs,). Lower bounds of the step time.
    """

    starts: dict[int, tuple[np.ndarray, np.ndarray]]
    taken: Occupied
    bound_ns: np.ndarray


class BranchBounds:
    """Bounds for one branch, which grows and shrinks.

    Attributes:
        chosen: By family that has a configuration, its row in the domain.
        nothing: What is occupied before anything is chosen.
    """

    def __init__(self, problem: Problem, bounds: PathBounds):
        self.bounds = bounds
        self.graph = problem.graph
        self.families = problem.space.families
        self.num_devices = problem.topology.num_devices
        self.chosen: dict[int, int] = {}
        zeros = np.zeros(bounds.num_resources, np.int64)
        none = np.zeros((0, self.num_devices), np.int64)
        idle = np.zeros(self.num_devices, np.int64)
        self.nothing = Occupied(zeros, zeros, zeros + NEVER, idle, idle + NEVER, none, none)
        # By operator that has a configuration: when its parts can start, forward and both ways.
        self._start_ns: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        # Tails of operators, until something else is chosen.
        self._tail_ns: dict[int, np.ndarray] = {}

    def options(self, family: int, occupied: Occupied, others: Sequence[int]) -> Options:
        """What the configurations of a family lead to.

        Args:
            family: Its number.
            occupied: By what has been chosen.
            others: Families whose least work is to be counted: further ones without configuration.
        """
        starts = {number: self._starts(number) for number in self.families[family]}
        taken = self._occupy(family, starts, occupied)
        return Options(starts, taken, self._bound(starts, taken, others))

    def choose(self, family: int, options: Options, row: int) -> Occupied:
        """Gives a family a configuration, instead of the one it has; says what is occupied then."""
        self._tail_ns.clear()
        self.chosen[family] = row
        for number, (ready, head) in options.starts.items():
            self._start_ns[number] = ready[row], head[row]
        taken = options.taken
        return Occupied(
            taken.load_ns[row],
            taken.reduce_ns[row],
            taken.release_ns[row],
            taken.late_ns[row],
            taken.turn_ns[row],
            taken.since_ns[row],
            taken.begin_ns[row],
        )

    def forget(self, family: int) -> None:
        """Takes the configuration away, if there is one."""
        self._tail_ns.clear()
        self.chosen.pop(family, None)
        for number in self.families[family]:
            self._start_ns.pop(number, None)

    def clear(self) -> None:
        """Forgets all choices."""
        for family in list(self.chosen):
            self.forget(family)

    def _bound(
        self,
        starts: dict[int, tuple[np.ndarray, np.ndarray]],
        taken: Occupied,
        others: Sequence[int],
    ) -> np.ndarray:
        """int64 (configs,): lower bounds of the step time for each configuration of a family."""
        left = sum(
            int(self.bounds.load_ns[family][:, : self.num_devices].sum(axis=1).min())
            for family in others
        )
        work = taken.load_ns[:, : self.num_devices].sum(axis=1) + left
        reduced = np.where(taken.reduce_ns > 0, taken.reduce_ns + taken.release_ns, 0)
        bound = np.maximum(taken.load_ns.max(axis=1), reduced.max(axis=1))
        bound = np.maximum(bound, -(-work // self.num_devices))
        queued = np.where(taken.since_ns > 0, taken.begin_ns + taken.since_ns, 0)
        bound = np.maximum(bound, queued.max(axis=(1, 2)))
        for number, (ready, head) in starts.items():
            tail = self._tails(number)
            bound = np.maximum(bound, (head + tail).max(axis=1))
            bound = np.maximum(bound, (ready + tail + self.bounds.sync_ns[number]).max(axis=1))
        return bound

    def _occupy(
        self,
        family: int,
        starts: dict[int, tuple[np.ndarray, np.ndarray]],
        occupied: Occupied,
    ) -> Occupied:
        """The same by configuration of `family`: arrays have an axis for it in front."""
        bounds = self.bounds
        load = occupied.load_ns + bounds.load_ns[family]
        for number in starts:
            for edge in self.graph.in_edges[number]:
                row = self.chosen.get(bounds.family_of[edge.producer.operator])
                if row is not None:
                    load = load + bounds.traffic_ns(edge)[row]
            for edge in self.graph.out_edges[number]:
                row = self.chosen.get(bounds.family_of[edge.consumer])
                if row is not None:
                    load = load + bounds.traffic_ns(edge)[:, row]
        # Gradients of weights are there when the chain has been down to the loss and back.
        release = np.minimum.reduce(
            [
                (
                    ready
                    + self._behind(number)
                    + bounds.backward_ns[number]
                    + bounds.gradient_ns[number]
                ).min(axis=1, where=self._real(number), initial=NEVER)
                for number, (ready, _) in starts.items()
            ]
        )
        reduce = bounds.reduce_ns[family]
        return Occupied(
            load,
            occupied.reduce_ns + reduce,
            np.where(
                reduce > 0, np.minimum(release[:, None], occupied.release_ns), occupied.release_ns
            ),
            *self._queue(family, starts, occupied),
        )

    def _queue(
        self,
        family: int,
        starts: dict[int, tuple[np.ndarray, np.ndarray]],
        occupied: Occupied,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The last four of `Occupied` by configuration of `family`, which is a choice more."""
        bounds = self.bounds
        devices = bounds.domains[family].devices
        work = bounds.load_ns[family][:, : self.num_devices]
        late = np.zeros_like(work)
        first, turn = np.full(work.shape, NEVER), np.full(work.shape, NEVER)
        for number, (ready, _) in starts.items():
            behind = self._behind(number)
            back = bounds.busy_ns[number] + bounds.gradient_ns[number] + bounds.update_ns[number]
            for part in range(devices.shape[1]):
                rows = np.flatnonzero(devices[:, part] >= 0)
                here = rows, devices[rows, part]
                late[here] += back[rows, part]
                first[here] = np.minimum(first[here], ready[rows, part])
                turn[here] = np.minimum(turn[here], (ready + behind)[rows, part])
        first = np.where(work > 0, first, NEVER)
        turn = np.minimum(np.where(late > 0, turn, NEVER), occupied.turn_ns)
        since = np.concatenate(
            [occupied.since_ns + work[:, None], (occupied.late_ns + work)[:, None]], axis=1
        )
        begin = np.concatenate(
            [
                np.minimum(occupied.begin_ns, first[:, None]),
                np.minimum(occupied.turn_ns, first)[:, None],
            ],
            axis=1,
        )
        return occupied.late_ns + late, turn, since, begin

    def _behind(self, number: int) -> np.ndarray:
        """int64 (configs, parts): from a start forward to the start backward, at least."""
        bounds = self.bounds
        return bounds.forward_ns[number] + bounds.tail_ns[number] - bounds.own_ns[number]

    def _starts(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """int64 (configs, parts) twice: earliest starts, given what has been chosen before."""
        bounds = self.bounds
        ready = np.zeros_like(bounds.ready_ns[number])
        head = np.zeros_like(ready)
        for edge in self.graph.in_edges[number]:
            producer = edge.producer.operator
            row = self.chosen.get(bounds.family_of[producer])
            known = row is not None and producer in self._start_ns
            if not known:
                ready = np.maximum(ready, bounds.least_ready(edge))
            else:
                end = self._start_ns[producer][0] + bounds.forward_ns[producer][row]
                moved = end[None, :, None] + bounds.there_ns[edge.index][row]
                ready = np.maximum(ready, moved.max(axis=1))
            if not bounds.on_chain(edge):
                continue
            if not known:
                head = np.maximum(head, bounds.least_head(edge))
            else:
                end = self._start_ns[producer][1] + bounds.own_ns[producer][row]
                moved = end[None, :, None] + bounds.move_ns[edge.index][row]
                head = np.maximum(head, moved.max(axis=1))
        return ready, head

    def _tails(self, number: int) -> np.ndarray:
        """int64 (configs, parts): tails, given what has been chosen behind."""
        if number not in self._tail_ns:
            bounds = self.bounds
            tail = bounds.tail_ns[number]
            for edge in filter(bounds.on_chain, self.graph.out_edges[number]):
                row = self.chosen.get(bounds.family_of[edge.consumer])
                if row is not None:
                    after = bounds.move_ns[edge.index][:, row] + self._tails(edge.consumer)[row]
                    tail = np.maximum(tail, bounds.own_ns[number] + after.max(axis=2))
            self._tail_ns[number] = tail
        return self._tail_ns[number]

    def _real(self, number: int) -> np.ndarray:
        """Bool (configs, parts): which parts there are."""
        return self.bounds.domains[self.bounds.family_of[number]].devices >= 0
