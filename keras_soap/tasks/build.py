"""Builds the whole task graph of a strategy.

Blocks, in order (→ are dependencies):

1. For each operator: for each edge into it the transfers (producer part → transfer → consumer
   part; on one device a plain dependency, unless cutting and joining takes time there), then for
   each stage its forward tasks and combines; for a loss, the transfers of its report to the
   reporting device, and the report.
2. For each operator backwards, if gradients reach it: its backward tasks, stage by stage with the
   gradients of the combines; then those for the gradients of its weights, which no other operator
   waits for; then for each edge that carries a gradient the transfers back.
3. After the first operator on some weights: the reductions of their gradients (`tasks/weights.py`),
   then an update on each device that holds any of them.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from keras_soap.graph.operator_graph import Edge, dtype_bytes
from keras_soap.strategy.strategy import Strategy
from keras_soap.tasks import all_reduce
from keras_soap.tasks.lowering import Costs
from keras_soap.tasks.task_graph import TaskGraph, TaskKind

REPORT_DEVICE = 0
"""Losses and metrics of all parts are summed on this device."""


def build(costs: Costs, strategy: Strategy, training: bool = True) -> TaskGraph:
    """The task graph of one step.

    Args:
        costs: Of the operators on the topology.
        strategy: A configuration for each operator; must have passed `check_strategy`.
        training: Whether there are backward tasks, reductions and updates.
    """
    return _Builder(costs, strategy, training).build()


def pair_bytes(costs: Costs, strategy: Strategy, training: bool = True) -> Counter[tuple[int, int]]:
    """Bytes that a step moves, by the numbers of source and destination device.

    Args:
        costs: As of `build`.
        strategy: As of `build`.
        training: As of `build`.
    """
    builder = _Builder(costs, strategy, training)
    graph = builder.build()
    result: Counter[tuple[int, int]] = Counter()
    for task in np.flatnonzero(graph.source != graph.destination):
        pair = int(graph.source[task]), int(graph.destination[task])
        result[pair] += int(graph.num_bytes[task])
    for devices, plan in builder.reductions:
        for (source, destination), num_bytes in plan.pair_bytes().items():
            result[devices[source], devices[destination]] += num_bytes
    return result


class _Builder:
    def __init__(self, costs: Costs, strategy: Strategy, training: bool):
        self.training = training
        self.costs = costs
        self.lowering = costs.lowering
        self.graph = costs.lowering.graph
        self.topology = costs.topology
        self.configs = strategy.configs
        self.run_time_ns: list[int] = []
        self.alone_time_ns: list[int] = []
        self.resources: list[Sequence[int]] = []
        self.successors: list[list[int]] = []
        self.rows: list[tuple[int, int, int, int, int, int]] = []
        # By operator and part: first and last forward task, first and last backward task.
        self.first_forward: list[list[int]] = []
        self.last_forward: list[list[int]] = []
        self.first_backward: list[list[int]] = [[] for _ in self.graph.operators]
        self.last_backward: list[list[int]] = [[] for _ in self.graph.operators]
        # By operator and part: the task for the gradients of weights.
        self.weight_gradient: list[list[int]] = [[] for _ in self.graph.operators]
        # Backward tasks wait for gradients that are on their way: by operator and part.
        self.arriving: list[list[list[int]]] = [
            [[] for _ in config.devices] for config in self.configs
        ]
        self.reports: list[int] = []
        self.reductions: list[tuple[Sequence[int], all_reduce.Plan]] = []

    def build(self) -> TaskGraph:
        for number in range(len(self.graph.operators)):
            self._forward(number)
        self._add_report()
        if self.training:
            for number in reversed(range(len(self.graph.operators))):
                if self.graph.has_backward[number]:
                    self._backward(number)
                if number == self.graph.sharers[number][0]:
                    self._synchronize(number)
        return self._freeze()

    def _add(
        self,
        kind: TaskKind,
        operator: int,
        part: int,
        run_time_ns: int,
        resources: Sequence[int],
        after: Sequence[int],
        source: int = -1,
        destination: int = -1,
        num_bytes: int = 0,
        alone_permille: int = 1000,
    ) -> int:
        task = len(self.run_time_ns)
        self.run_time_ns.append(int(run_time_ns))
        self.alone_time_ns.append(int(run_time_ns) * alone_permille // 1000)
        self.resources.append(resources)
        self.successors.append([])
        self.rows.append((kind, operator, part, source, destination, num_bytes))
        for predecessor in after:
            self.successors[predecessor].append(task)
        return task

    def _compute(
        self,
        kind: TaskKind,
        operator: int,
        part: int,
        run_time_ns: int,
        device: int,
        after: Sequence[int],
    ) -> int:
        resource = self.topology.compute[device]
        alone_permille = int(self.topology.alone_permille[resource])
        return self._add(
            kind, operator, part, run_time_ns, [resource], after, alone_permille=alone_permille
        )

    def _transfer(
        self,
        kind: TaskKind,
        operator: int,
        part: int,
        source: int,
        destination: int,
        num_bytes: int,
        after: int,
        copied: tuple[int, int],
    ) -> int:
        """The task that moves `num_bytes`, or `after` itself where there is nothing to do.

        `copied` are bytes that are copied if both devices have one memory, both ways, this one
        first: either both are tasks, or neither is.
        """
        if source == destination and not (any(copied) and self.topology.copies(source)):
            return after
        held = self.topology.held_by_transfer(source, destination)
        time_ns = self.topology.transfer_time_ns(source, destination, num_bytes, copied[0])
        if source == destination:
            num_bytes = 0
        return self._add(
            kind, operator, part, time_ns, held, [after], source, destination, num_bytes
        )

    def _reduce(
        self,
        kind: TaskKind,
        operator: int,
        group: int,
        devices: Sequence[int],
        num_elements: int,
        element_bytes: int,
        after: Sequence[int],
        gathers: bool = False,
    ) -> int:
        plan = all_reduce.plan(self.topology, devices, num_elements, element_bytes, gathers)
        self.reductions.append((devices, plan))
        links = [self.topology.num_devices + link for link in plan.links]
        links += self.topology.movers(devices)
        return self._add(
            kind, operator, group, plan.time_ns, links, after, num_bytes=plan.num_bytes
        )

    def _part_times_ns(self, number: int, kind: TaskKind) -> list[int]:
        """Of the kind's pass, by part."""
        config = self.configs[number]
        return [
            int(self.costs.part_times_ns(number, config.degrees, device)[kind][part])
            for part, device in enumerate(config.devices)
        ]

    def _times_ns(self, number: int, kind: TaskKind, num_stages: int) -> list[list[int]]:
        """By stage and part. Stages share the operator's time equally, to the nanosecond."""
        total = self._part_times_ns(number, kind)
        return [
            [(stage + 1) * time // num_stages - stage * time // num_stages for time in total]
            for stage in range(num_stages)
        ]

    def _forward(self, number: int) -> None:
        config = self.configs[number]
        waits: list[list[int]] = [[] for _ in config.devices]
        for edge in self.graph.in_edges[number]:
            producer = self.configs[edge.producer.operator]
            last = self.last_forward[edge.producer.operator]
            for p, c, num_bytes, there, back in self._overlaps(edge):
                source, destination = producer.devices[p], config.devices[c]
                task = self._transfer(
                    TaskKind.TRANSFER,
                    number,
                    c,
                    source,
                    destination,
                    num_bytes,
                    last[p],
                    (there, back),
                )
                waits[c].append(task)
        first, last = self._stages(number, TaskKind.FORWARD, waits)
        self.first_forward.append(first)
        self.last_forward.append(last)
        report_bytes = self.graph.operators[number].attributes.get("report_bytes", 0)
        if report_bytes:
            for part, device in enumerate(config.devices):
                task = last[part]
                if device != REPORT_DEVICE:
                    kind, joined = TaskKind.REPORT_TRANSFER, (report_bytes, report_bytes)
                    task = self._transfer(
                        kind, number, part, device, REPORT_DEVICE, report_bytes, task, joined
                    )
                self.reports.append(task)

    def _add_report(self) -> None:
        if self.reports:
            overhead_ns = self.topology.devices[REPORT_DEVICE].task_overhead_ns
            self._compute(TaskKind.REPORT, -1, 0, overhead_ns, REPORT_DEVICE, self.reports)

    def _stages(
        self, number: int, kind: TaskKind, waits: list[list[int]]
    ) -> tuple[list[int], list[int]]:
        """Adds all stages of an operator; gives the first and the last task of each part."""
        backward = kind == TaskKind.BACKWARD
        config = self.configs[number]
        block = self.lowering.operator(number, config.degrees)
        combines = list(block.combines_in(self.training))
        times = self._times_ns(number, kind, len(combines) + 1)
        if backward:
            combines.reverse()
        tasks: list[int] = []
        first: list[int] = []
        for stage in range(len(combines) + 1):
            tasks = [
                self._compute(kind, number, part, times[stage][part], device, waits[part])
                for part, device in enumerate(config.devices)
            ]
            first = first or tasks
            if stage < len(combines):
                waits = self._combine(number, combines[stage], tasks, backward)
        return first, tasks

    def _combine(self, number, block, tasks: list[int], backward: bool) -> list[list[int]]:
        if backward and block.combine.reduction != "sum":
            return [[task] for task in tasks]
        kind = TaskKind.GRADIENT_COMBINE if backward else TaskKind.COMBINE
        devices = self.configs[number].devices
        waits: list[list[int]] = [[task] for task in tasks]
        for group in range(int(block.group.max()) + 1):
            members = sorted(np.flatnonzero(block.group == group), key=lambda p: devices[p])
            if len(members) > 1:
                task = self._reduce(
                    kind,
                    number,
                    group,
                    [devices[part] for part in members],
                    int(block.combine.elements[members[0]]),
                    block.element_bytes,
                    [tasks[part] for part in members],
                )
                for part in members:
                    waits[part] = [task]
        return waits

    def _backward(self, number: int) -> None:
        waits = [
            [forward, *arriving]
            for forward, arriving in zip(
                self.last_forward[number], self.arriving[number], strict=True
            )
        ]
        first, last = self._stages(number, TaskKind.BACKWARD, waits)
        self.first_backward[number], self.last_backward[number] = first, last
        devices = self.configs[number].devices
        if self.graph.has_weight_gradients[number]:
            kind = TaskKind.WEIGHT_GRADIENT
            times = self._part_times_ns(number, kind)
            self.weight_gradient[number] = [
                self._compute(kind, number, part, times[part], device, [last[part]])
                for part, device in enumerate(devices)
            ]
        for edge in self.graph.in_edges[number]:
            producer = edge.producer.operator
            if not self.graph.sends_back[edge.index]:
                continue
            targets = self.configs[producer].devices
            for p, c, num_bytes, there, back in self._overlaps(edge):
                task = self._transfer(
                    TaskKind.GRADIENT_TRANSFER,
                    number,
                    c,
                    devices[c],
                    targets[p],
                    num_bytes,
                    last[c],
                    (back, there),
                )
                self.arriving[producer][p].append(task)

    def _synchronize(self, number: int) -> None:
        """Reduces the gradients of the weights of `number` and its sharers, and updates them."""
        operator = self.graph.operators[number]
        config = self.configs[number]
        sharers = [other for other in self.graph.sharers[number] if self.weight_gradient[other]]
        if not sharers:
            return
        block = self.lowering.operator(number, config.degrees)
        done = [
            [self.weight_gradient[other][part] for other in sharers]
            for part in range(config.num_parts)
        ]
        waits: list[list[int]] = [list(tasks) for tasks in done]
        num_bytes = [0] * config.num_parts
        for spec, weight in zip(operator.weight_specs, block.weights, strict=True):
            if spec.trainable:
                for part in range(config.num_parts):
                    num_bytes[part] += int(weight.num_elements[part]) * weight.element_bytes
        for reduction in block.reductions:
            members = sorted(reduction.members, key=config.devices.__getitem__)
            task = self._reduce(
                TaskKind.ALL_REDUCE,
                number,
                reduction.group,
                [config.devices[part] for part in members],
                reduction.num_elements,
                reduction.element_bytes,
                [task for part in members for task in done[part]],
                reduction.gathers,
            )
            for part in members:
                waits[part].append(task)
        for part, device in enumerate(config.devices):
            if num_bytes[part]:
                time_ns = self.costs.profile.update_time_ns(
                    num_bytes[part], self.topology.devices[device]
                )
                self._compute(TaskKind.UPDATE, number, device, time_ns, device, waits[part])

    def _overlaps(self, edge: Edge):
        found = self.lowering.edge(
            edge,
            self.configs[edge.producer.operator].degrees,
            self.configs[edge.consumer].degrees,
        )
        spec = self.graph.operators[edge.consumer].input_specs[edge.input]
        element_bytes = dtype_bytes(spec.dtype)
        sends_back = self.training and self.graph.sends_back[edge.index]
        copied = found.copied_bytes(element_bytes, sends_back)
        columns = found.producer, found.consumer, found.num_elements * element_bytes, *copied
        return zip(*(column.tolist() for column in columns), strict=True)

    def _freeze(self) -> TaskGraph:
        offsets, resources = _flatten(self.resources)
        successor_offsets, successors = _flatten(self.successors)
        rows = np.array(self.rows, np.int64).reshape(-1, 6)
        return TaskGraph(
            self.topology.num_devices,
            self.topology.num_devices + len(self.topology.links),
            self.topology.capacity,
            np.array(self.run_time_ns, np.int64),
            np.array(self.alone_time_ns, np.int64),
            offsets,
            resources,
            successor_offsets,
            successors,
            rows[:, 0].astype(np.int8),
            rows[:, 1].astype(np.int32),
            rows[:, 2].astype(np.int32),
            rows[:, 3].astype(np.int32),
            rows[:, 4].astype(np.int32),
            rows[:, 5].copy(),
        )


def _flatten(lists: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.zeros(len(lists) + 1, np.int64)
    offsets[1:] = np.cumsum([len(items) for items in lists])
    return offsets, np.array([item for items in lists for item in items], np.int32)
