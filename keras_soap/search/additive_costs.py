"""What operators and edges cost when each is looked at alone, as OptCNN does.

cost(S) = Σ operators (compute + reduce + update) + Σ edges (transfers). It knows neither overlap
nor contention, so it only guides; what a strategy really costs is for the objective to say.
Without O: part p of every operator lies on device p.
"""

import functools
import itertools

import numpy as np

from keras_soap.graph.operator_graph import Edge, dtype_bytes
from keras_soap.search.problem import Problem
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.tasks import all_reduce

Degrees = tuple[int, ...]


class AdditiveCosts:
    """Costs in nanoseconds by operator and degrees, and by edge and degrees of both ends."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self.lowering = problem.lowering
        self.graph = problem.graph
        self.topology = problem.topology
        self._edges: dict[tuple[object, ...], float] = {}

    def family_ns(self, family: int, degrees: Degrees) -> float:
        """Of all operators of a family under `degrees`, their common weights included."""
        members = self.problem.space.families[family]
        return sum(self._compute_ns(number, degrees) for number in members) + max(
            self._synchronize_ns(number, degrees) for number in members
        )

    def edge_ns(self, edge: Edge, producer: Degrees, consumer: Degrees) -> float:
        """Of moving a tensor, and its gradient back, if the ends have these degrees."""
        operators = self.graph.operators
        back = self.problem.training and self.graph.sends_back[edge.index]
        key = (
            operators[edge.producer.operator].signature,
            edge.producer.output,
            operators[edge.consumer].signature,
            edge.input,
            producer,
            consumer,
            back,
            self.graph.gradients_before[edge.index],
        )
        if key not in self._edges:
            spec = operators[edge.consumer].input_specs[edge.input]
            self._edges[key] = self._transfers_ns(
                self.lowering.edge(edge, producer, consumer), dtype_bytes(spec.dtype), back
            )
        return self._edges[key]

    def _compute_ns(self, number: int, degrees: Degrees) -> float:
        block = self.lowering.operator(number, degrees)
        trains = self.problem.training and self.graph.has_backward[number]
        total = 0.0
        for part in range(block.num_parts):
            times = self.problem.costs.part_times_ns(number, degrees, part)
            passes = times if trains else times[:1]
            total = max(total, float(sum(int(of_pass[part]) for of_pass in passes)))
        for combine in block.combines:
            total += (2 if trains else 1) * self._groups_ns(
                combine.group, combine.combine.elements, combine.element_bytes
            )
        return total

    def _synchronize_ns(self, number: int, degrees: Degrees) -> float:
        if not (self.problem.training and self.graph.has_backward[number]):
            return 0.0
        total, largest = 0.0, 0
        operator = self.graph.operators[number]
        block = self.lowering.operator(number, degrees)
        for spec, weight in zip(operator.weight_specs, block.weights, strict=True):
            if spec.trainable:
                largest += int(weight.num_elements.max()) * weight.element_bytes
        slowest: dict[tuple[int, ...], float] = {}
        for reduction in block.reductions:
            plan = all_reduce.plan(
                self.topology,
                reduction.members,
                reduction.num_elements,
                reduction.element_bytes,
                reduction.gathers,
            )
            # Groups work at once, so the slowest counts.
            before = slowest.get(reduction.weights, 0.0)
            slowest[reduction.weights] = max(before, float(plan.time_ns))
        total += sum(slowest.values())
        if largest:
            total += self.problem.profile.update_time_ns(largest, self.topology.devices[0])
        return total

    def _groups_ns(self, group: np.ndarray, elements: np.ndarray, element_bytes: int) -> float:
        """Of reducing over every group: groups work at once, so the slowest counts."""
        slowest = 0.0
        for number in range(int(group.max()) + 1):
            devices = np.flatnonzero(group == number).tolist()
            if len(devices) > 1:
                cost = all_reduce.plan(
                    self.topology, devices, int(elements[devices[0]]), element_bytes
                )
                slowest = max(slowest, float(cost.time_ns))
        return slowest

    def _transfers_ns(self, overlaps, element_bytes: int, back: bool) -> float:
        """Transfers queue for what they hold; the busiest of that counts.

        Links are as fast on the way back.
        """
        takes_time = overlaps.producer != overlaps.consumer
        copied = overlaps.copied_bytes(element_bytes, back)
        takes_time |= copied.any(axis=0) & self._copies[overlaps.producer]
        if not takes_time.any():
            return 0.0
        producer, consumer = overlaps.producer[takes_time], overlaps.consumer[takes_time]
        latency_ns, bandwidth = self._routes[:, producer, consumer]
        num_bytes = overlaps.num_elements[takes_time] * element_bytes
        share_memory = self._compute[producer] == self._compute[consumer]
        held = self._held[producer, consumer]
        capacity = self.topology.capacity
        total = 0.0
        for of_way in copied[: 2 if back else 1, takes_time]:
            carried = np.where(share_memory, of_way, num_bytes)
            times = latency_ns + carried * 1e9 / bandwidth
            busy = np.bincount(
                held.ravel(), np.repeat(times, held.shape[1]), minlength=len(capacity) + 1
            )
            total += float((busy[:-1] / capacity).max())
        return total

    @functools.cached_property
    def _compute(self) -> np.ndarray:
        return np.array(self.topology.compute)

    @functools.cached_property
    def _routes(self) -> np.ndarray:
        """float64 (2, devices, devices): latency in ns and bandwidth in bytes/s, or 1."""
        num_devices = self.topology.num_devices
        found = np.ones((2, num_devices, num_devices))
        for pair in self._ways:
            route = self.topology.route(*pair)
            found[:, *pair] = route.latency_ns, route.bandwidth_bytes_per_s
        return found

    @functools.cached_property
    def _held(self) -> np.ndarray:
        """int64 (devices, devices, most): what transfers hold, filled up with one too many."""
        num_devices = self.topology.num_devices
        ways = {pair: self.topology.held_by_transfer(*pair) for pair in self._ways}
        most = max(map(len, ways.values()), default=1)
        found = np.full((num_devices, num_devices, most), len(self.topology.capacity))
        for pair, held in ways.items():
            found[pair][: len(held)] = held
        return found

    @functools.cached_property
    def _ways(self) -> list[tuple[int, int]]:
        """Pairs of devices between which transfers take time, a device and itself among them."""
        pairs = itertools.product(range(self.topology.num_devices), repeat=2)
        return [(a, b) for a, b in pairs if a != b or self.topology.copies(a)]

    @functools.cached_property
    def _copies(self) -> np.ndarray:
        return np.array([self.topology.copies(d) for d in range(self.topology.num_devices)])


def leading(degrees: Degrees) -> ParallelConfig:
    """The configuration without O: part p on device p."""
    return ParallelConfig(degrees, tuple(range(int(np.prod(degrees, dtype=np.int64)))))
