"""Lower bounds of the step time, for branch and bound.

A step takes at least as long as any chain of tasks that wait for each other. For part p of operator
v under configuration a, along one chain of operators forward and the same chain back:

    tail_v(a, p) = own_v(a, p) + max over edges v → w of
                   min over b of max over parts c that read p of move(a, p, b, c) + tail_w(b, c)
    head_v(a, p) = max over edges u → v of
                   min over b of max over parts c that p reads of head_u(b, c) + own_u(b, c) + move

so head_v(a, p) + tail_v(a, p) bounds every strategy in which v has configuration a. Nothing of
contention is in it, so it holds however tasks queue. Likewise no device can do its work faster than
one task after the other.
"""

from dataclasses import dataclass

import numpy as np

from keras_soap.graph.operator_graph import Edge, dtype_bytes
from keras_soap.search.problem import Problem
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.tasks import all_reduce

NEVER = -(1 << 50)
"""Time of a move that does not happen."""


@dataclass
class Domain:
    """Configurations that a family may still have.

    Attributes:
        configs: The configurations.
        devices: int32 (configs, most parts). Devices of the parts; -1 beyond the last part.
    """

    configs: list[ParallelConfig]
    devices: np.ndarray

    @staticmethod
    def of(configs: list[ParallelConfig], num_devices: int) -> "Domain":
        devices = np.full((len(configs), num_devices), -1, np.int32)
        for row, config in enumerate(configs):
            devices[row, : config.num_parts] = config.devices
        return Domain(configs, devices)


class PathBounds:
    """Bounds for all configurations of all families, tightened against a known step time.

    Attributes:
        domains: By family. `tighten` removes what cannot be part of anything faster.
        own_ns: By operator, int64 (configs, parts): forward and backward time of each part; where
            the backward pass ends, with the reduction of its gradients.
        load_ns: By family, int64 (configs, devices): work on each device.
        move_ns: By edge, int64 (producer configs, consumer configs, producer parts, consumer
            parts): time of the transfer forward and back; `NEVER` where nothing is read.
        head_ns, tail_ns: By operator, int64 (configs, parts).
    """

    def __init__(self, problem: Problem, domains: list[Domain]):
        self.problem = problem
        self.graph = problem.graph
        self.topology = problem.topology
        self.family_of = problem.space.family_of
        self.domains = domains
        operators = range(len(self.graph.operators))
        self.own_ns = [self._own(number) for number in operators]
        self.load_ns = [self._load(members) for members in problem.space.families]
        self.move_ns = [self._move(edge) for edge in self.graph.edges]
        self.head_ns: list[np.ndarray] = []
        self.tail_ns: list[np.ndarray] = []
        self._propagate()

    def tighten(self, limit_ns: int) -> None:
        """Removes configurations that no strategy faster than `limit_ns` has, as far as bounds say.

        A domain may end empty: then there is no such strategy.
        """
        while True:
            keep = [np.ones(len(domain.configs), bool) for domain in self.domains]
            for number, family in enumerate(self.family_of):
                bound = self.head_ns[number] + self.tail_ns[number]
                keep[family] &= bound.max(axis=1, initial=NEVER) < limit_ns
            least = [load.sum(axis=1).min(initial=0) for load in self.load_ns]
            for family, load in enumerate(self.load_ns):
                total = sum(least) - least[family] + load.sum(axis=1)
                keep[family] &= (load.max(axis=1, initial=0) < limit_ns) & (
                    total < limit_ns * self.topology.num_devices
                )
            if all(kept.all() for kept in keep):
                return
            self._restrict(keep)
            if not all(kept.any() for kept in keep):
                return
            self._propagate()

    def _restrict(self, keep: list[np.ndarray]) -> None:
        for family, kept in enumerate(keep):
            domain = self.domains[family]
            self.domains[family] = Domain(
                [config for config, stays in zip(domain.configs, kept, strict=True) if stays],
                domain.devices[kept],
            )
            self.load_ns[family] = self.load_ns[family][kept]
        for number, family in enumerate(self.family_of):
            self.own_ns[number] = self.own_ns[number][keep[family]]
        for edge in self.graph.edges:
            producer = keep[self.family_of[edge.producer.operator]]
            consumer = keep[self.family_of[edge.consumer]]
            self.move_ns[edge.index] = self.move_ns[edge.index][producer][:, consumer]

    def _propagate(self) -> None:
        operators = range(len(self.graph.operators))
        self.head_ns = [np.zeros_like(own) for own in self.own_ns]
        self.tail_ns = [own.copy() for own in self.own_ns]
        for number in operators:
            for edge in self.in_edges(number):
                self.head_ns[number] = np.maximum(self.head_ns[number], self.least_head(edge))
        for number in reversed(operators):
            for edge in self.out_edges(number):
                tail = self.tail_ns[edge.consumer][None, :, None, :]
                longest = (self.move_ns[edge.index] + tail).max(axis=3).min(axis=1)
                self.tail_ns[number] = np.maximum(
                    self.tail_ns[number], self.own_ns[number] + longest
                )

    def least_head(self, edge: Edge) -> np.ndarray:
        """int64 (consumer configs, parts): earliest start, whatever the producer's configs."""
        producer = edge.producer.operator
        end = self.head_ns[producer] + self.own_ns[producer]
        return (end[:, None, :, None] + self.move_ns[edge.index]).max(axis=2).min(axis=0)

    def in_edges(self, number: int) -> list[Edge]:
        """Edges that chains come in by."""
        return [edge for edge in self.graph.in_edges[number] if self._on_chain(edge)]

    def out_edges(self, number: int) -> list[Edge]:
        """Edges that chains go out by."""
        return [edge for edge in self.graph.out_edges[number] if self._on_chain(edge)]

    def _on_chain(self, edge: Edge) -> bool:
        """Whether the producer's backward tasks, if it has any, wait for those of the consumer."""
        return not self._trains(edge.producer.operator) or self._returns(edge)

    def _returns(self, edge: Edge) -> bool:
        return (
            self._trains(edge.consumer)
            and self._trains(edge.producer.operator)
            and self.graph.carries_gradient[edge.index]
        )

    def _own(self, number: int) -> np.ndarray:
        domain = self.domains[self.family_of[number]]
        own = np.zeros(domain.devices.shape, np.int64)
        ends_here = self._trains(number) and not any(
            map(self._returns, self.graph.in_edges[number])
        )
        for row, config in enumerate(domain.configs):
            own[row, : config.num_parts] = self._part_times(number, config)
            if ends_here:
                own[row, : config.num_parts] += self._sync_times(number, config)
        return own

    def _trains(self, number: int) -> bool:
        return self.problem.training and self.graph.has_backward[number]

    def _part_times(self, number: int, config: ParallelConfig) -> np.ndarray:
        costs = self.problem.costs
        passes = 2 if self._trains(number) else 1
        times = np.array(
            [
                sum(
                    int(costs.part_times_ns(number, config.degrees, device)[which][part])
                    for which in range(passes)
                )
                for part, device in enumerate(config.devices)
            ],
            np.int64,
        )
        for block in self.problem.lowering.operator(number, config.degrees).combines:
            backward = passes == 2 and block.combine.reduction == "sum"
            for members in _groups(block.group):
                time_ns = self._reduce_ns(
                    config, members, int(block.combine.elements[members[0]]), block.element_bytes
                )
                times[members] += time_ns * (1 + backward)
        return times

    def _sync_times(self, number: int, config: ParallelConfig) -> np.ndarray:
        """Of the slowest reduction of a part's weights; updates are left out."""
        slowest = np.zeros(config.num_parts, np.int64)
        operator = self.graph.operators[number]
        block = self.problem.lowering.operator(number, config.degrees)
        for spec, weight in zip(operator.weight_specs, block.weights, strict=True):
            if not spec.trainable or weight.sparse_rows is not None:
                continue
            for members in _groups(weight.group):
                time_ns = self._reduce_ns(
                    config, members, int(weight.num_elements[members[0]]), weight.element_bytes
                )
                slowest[members] = np.maximum(slowest[members], time_ns)
        return slowest

    def _reduce_ns(
        self, config: ParallelConfig, members: list[int], elements: int, element_bytes: int
    ) -> int:
        if len(members) == 1:
            return 0
        devices = sorted(config.devices[part] for part in members)
        return all_reduce.cost(self.topology, devices, elements, element_bytes).time_ns

    def _load(self, members: tuple[int, ...]) -> np.ndarray:
        domain = self.domains[self.family_of[members[0]]]
        load = np.zeros((len(domain.configs), self.topology.num_devices), np.int64)
        passes = [2 if self._trains(number) else 1 for number in members]
        costs = self.problem.costs
        for row, config in enumerate(domain.configs):
            for number, num_passes in zip(members, passes, strict=True):
                for part, device in enumerate(config.devices):
                    times = costs.part_times_ns(number, config.degrees, device)
                    load[row, device] += sum(int(times[which][part]) for which in range(num_passes))
        return load

    def _move(self, edge: Edge) -> np.ndarray:
        producer = self.domains[self.family_of[edge.producer.operator]]
        consumer = self.domains[self.family_of[edge.consumer]]
        width = self.topology.num_devices
        moves = np.full((len(producer.configs), len(consumer.configs), width, width), NEVER)
        element_bytes = dtype_bytes(
            self.graph.operators[edge.consumer].input_specs[edge.input].dtype
        )
        back = self._returns(edge)
        times: dict[int, np.ndarray] = {}
        for before, rows in _by_degrees(producer.configs).items():
            for after, columns in _by_degrees(consumer.configs).items():
                found = self.problem.lowering.edge(edge, before, after)
                cells = np.ix_(rows, columns)
                for p, c, elements in zip(
                    found.producer, found.consumer, found.num_elements.tolist(), strict=True
                ):
                    if elements not in times:
                        times[elements] = self._times_between(elements * element_bytes, back)
                    source, target = producer.devices[rows, p], consumer.devices[columns, c]
                    moves[(*cells, p, c)] = times[elements][source[:, None], target[None, :]]
        return moves

    def _times_between(self, num_bytes: int, back: bool) -> np.ndarray:
        size = self.topology.num_devices
        times = np.zeros((size, size), np.int64)
        for a in range(size):
            for b in range(size):
                if a != b:
                    times[a, b] = self.topology.route(a, b).time_ns(num_bytes)
        return times + times.T if back else times


def _groups(group: np.ndarray) -> list[list[int]]:
    return [np.flatnonzero(group == number).tolist() for number in range(int(group.max()) + 1)]


def _by_degrees(configs: list[ParallelConfig]) -> dict[tuple[int, ...], np.ndarray]:
    rows: dict[tuple[int, ...], list[int]] = {}
    for row, config in enumerate(configs):
        rows.setdefault(config.degrees, []).append(row)
    return {degrees: np.array(numbers) for degrees, numbers in rows.items()}
