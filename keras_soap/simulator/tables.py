"""What the kernel knows of configurations: filled in when it first meets them.

1. Operators with equal signatures share their configurations, if they read the same inputs of the
   batch; and, if gradients of their weights are sparse, so must the operators that they share those
   weights with.
2. Degrees have a number from when they are first named, and rows from when they are first tried.
3. Rules and profiles answer for all parts at once, and each part for itself: so they are asked for
   the parts of many configurations together. Only combines depend on the whole configuration.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np

from keras_soap.graph.operator_graph import Operator, dtype_bytes
from keras_soap.graph.region import Regions, volume
from keras_soap.operators import registry
from keras_soap.operators.rule import NOT_AN_AXIS
from keras_soap.simulator.growing import Growing
from keras_soap.simulator.layout import (
    COMB_COUNT,
    COMB_GROUPS,
    COMB_REDUCTION,
    COMB_SUMS,
    CONFIG_BY_PART,
    CONFIG_COMBINE,
    CONFIG_PARTS,
    CONFIG_REDUCTION,
    CONFIG_REDUCTIONS,
    CONFIG_REGION,
    CONFIG_ROW,
    CONFIG_STAGES,
    CONFIG_WIDTH,
    MAX_RANK,
    NUM_COMBINE,
    NUM_CONFIG,
    NUM_REDUCTION,
    RED_BYTES,
    RED_COUNT,
    RED_ELEMENTS,
    RED_GATHERS,
    RED_MEMBERS,
    ROW_OUTPUTS,
    ROW_TIMES,
    ROW_WEIGHTS,
    TIME_U,
    TIMES_PER_CLASS,
    Tables,
)
from keras_soap.strategy.parallel_config import part_indices
from keras_soap.tasks.lowering import Costs
from keras_soap.tasks.memory import fed_bytes, output_bytes, reduced_bytes, weight_bytes
from keras_soap.tasks.weights import gradient_reductions

Degrees = tuple[int, ...]


class TableMaker:
    """Makes `Tables` for the operators of a graph.

    Attributes:
        tables: As they are now. Replaced when something is added.
    """

    def __init__(self, costs: Costs, training: bool):
        """Takes what answers for operators."""
        self._costs = costs
        self._training = training
        self._devices = {
            of: costs.topology.devices[device]
            for device, of in reversed(list(enumerate(costs.device_class)))
        }
        numbers: dict[Hashable, int] = {}
        self._first: list[int] = []
        self._table_of = []
        for n, operator in enumerate(costs.lowering.graph.operators):
            sparse = registry.find(operator.kind).sparse_weights
            alike = costs.lowering.graph.sharers[n] if sparse else (n,)
            of_sharers = tuple(costs.lowering.graph.operators[k].signature for k in alike)
            fed = tuple(costs.lowering.graph.is_fed(ref) for ref in operator.inputs)
            table = numbers.setdefault((operator.signature, fed, *of_sharers), len(numbers))
            if table == len(self._first):
                self._first.append(n)
            self._table_of.append(table)
        self._numbers: list[dict[Degrees, int]] = [{} for _ in self._first]
        self._owners: list[tuple[int, Degrees]] = []
        width = ROW_TIMES + TIMES_PER_CLASS * len(self._devices)
        self._config = Growing((NUM_CONFIG,), np.int64)
        self._degrees = Growing((MAX_RANK,), np.int64)
        self._row = Growing((width,), np.int64)
        self._regions = Growing((), np.int32)
        self._reduction = Growing((NUM_REDUCTION,), np.int64)
        self._combine = Growing((NUM_COMBINE,), np.int64)
        self._members = Growing((), np.int32)
        self._refresh()

    def numbers(self, operator: int, choices: Sequence[Degrees]) -> list[int]:
        """Numbers of configurations, for the kernel."""
        table = self._table_of[operator]
        numbers = self._numbers[table]
        for degrees in choices:
            if degrees not in numbers:
                numbers[degrees] = len(self._owners)
                self._owners.append((table, degrees))
                config = np.zeros(NUM_CONFIG, np.int64)
                config[CONFIG_PARTS] = math.prod(degrees)
                config[CONFIG_ROW] = -1
                self._config.append(config)
                row = np.ones(MAX_RANK, np.int64)
                row[: len(degrees)] = degrees
                self._degrees.append(row)
        self._refresh()
        return [numbers[degrees] for degrees in choices]

    def degrees(self, number: int) -> Degrees:
        """The degrees that a number stands for."""
        return self._owners[number][1]

    def fill(self, number: int, most_rows: int = 0) -> None:
        """Fills in a configuration, and others of its table while they have `most_rows` in all."""
        table, _ = self._owners[number]
        numbers = [number]
        rows = 0
        for other in self._numbers[table].values():
            if other != number and self._config.array[other, CONFIG_ROW] < 0:
                rows += int(self._config.array[other, CONFIG_PARTS])
                if rows > most_rows:
                    break
                numbers.append(other)
        self._fill(self._first[table], numbers)
        self._refresh()

    def _refresh(self) -> None:
        self.tables = Tables(
            self._config.array,
            self._degrees.array,
            self._row.array,
            self._regions.array,
            self._reduction.array,
            self._combine.array,
            self._members.array,
        )

    def _fill(self, n: int, numbers: Sequence[int]) -> None:
        operator = self._costs.lowering.graph.operators[n]
        dimensions = self._costs.lowering.dimensions[n]
        rule = registry.find(operator.kind)
        indices = [part_indices(self._owners[number][1]) for number in numbers]
        starts = np.cumsum([0] + [len(of_config) for of_config in indices])
        total = int(starts[-1])
        outputs = []
        for position, spec in enumerate(operator.output_specs):
            regions = np.zeros((total, len(spec.shape), 2), np.int64)
            regions[..., 1] = spec.shape
            for number, of_config, start in zip(numbers, indices, starts, strict=False):
                for column, (dimension, degree) in enumerate(
                    zip(dimensions, self._owners[number][1], strict=True)
                ):
                    axis = dimension.axes[position]
                    if axis == NOT_AN_AXIS:
                        continue
                    size = spec.shape[axis] // degree
                    begin = of_config[:, column] * size
                    regions[start : start + len(of_config), axis, 0] = begin
                    regions[start : start + len(of_config), axis, 1] = begin + size
            outputs.append(regions)
        inputs = rule.input_regions(operator, outputs[0])
        weights = rule.weight_regions(operator, outputs[0])
        first_row = len(self._row)
        rows = self._rows(operator, outputs, weights, total)
        rows[:, ROW_OUTPUTS] += fed_bytes(self._costs.lowering.graph, n, inputs)
        self._row.extend(rows)
        for number, of_config, start in zip(numbers, indices, starts, strict=False):
            parts = slice(int(start), int(start) + len(of_config))
            config = self._config.array[number]
            config[CONFIG_ROW] = first_row + start
            config[CONFIG_REGION] = len(self._regions)
            for regions in inputs:
                self._regions.extend(regions[parts].reshape(-1))
            self._add_reductions(n, number, [regions[parts] for regions in weights])
            combines = [
                combine
                for combine in rule.combines(operator, outputs[0][parts])
                if self._training or not combine.training_only
            ]
            self._add_combines(config, dimensions, of_config, combines)

    def _rows(self, operator: Operator, outputs, weights, total: int) -> np.ndarray:
        rows = np.zeros((total, self._row.array.shape[1]), np.int64)
        slots = self._costs.num_slots
        rows[:, ROW_WEIGHTS] = weight_bytes(operator, weights, self._training, slots)
        rows[:, ROW_OUTPUTS] = output_bytes(operator, outputs)
        trained = np.zeros(total, np.int64)
        for spec, regions in zip(operator.weight_specs, weights, strict=True):
            if spec.trainable:
                trained += volume(regions) * dtype_bytes(spec.dtype)
        sizes, where = np.unique(trained, return_inverse=True)
        for of, device in self._devices.items():
            column = ROW_TIMES + TIMES_PER_CLASS * of
            passes = self._costs.profile.part_times_ns(operator, outputs[0], device)
            rows[:, column : column + TIME_U] = np.stack(passes, axis=1)
            times = [
                self._costs.profile.update_time_ns(size, device) if size else -1
                for size in sizes.tolist()
            ]
            rows[:, column + TIME_U] = np.array(times, np.int64)[where]
        return rows

    def _add_reductions(self, n: int, number: int, weights: Sequence[Regions]) -> None:
        """Those of gradients, and what they need memory for."""
        config = self._config.array[number]
        count, row = int(config[CONFIG_PARTS]), int(config[CONFIG_ROW])
        blocks = self._costs.lowering.weight_blocks(n, self._owners[number][1], weights)
        reductions = gradient_reductions(self._costs.lowering.graph.operators[n], blocks)
        config[CONFIG_REDUCTION] = len(self._reduction)
        config[CONFIG_REDUCTIONS] = len(reductions)
        by_part: list[list[int]] = [[] for _ in range(count)]
        for position, each in enumerate(reductions):
            self._add_reduction(each.members, each.num_elements, each.element_bytes, each.gathers)
            for part in each.members:
                by_part[part].append(position)
        config[CONFIG_BY_PART] = len(self._members)
        self._members.extend(np.cumsum([0] + [len(listed) for listed in by_part]))
        self._members.extend(np.array([r for listed in by_part for r in listed], np.int64))
        if self._training:
            held = reduced_bytes(reductions, count)
            self._row.array[row : row + count, ROW_WEIGHTS] += held

    def _add_combines(self, config, dimensions, indices, combines) -> None:
        config[CONFIG_STAGES] = len(combines) + 1
        config[CONFIG_COMBINE] = len(self._combine)
        most = 0
        known: dict[tuple, np.ndarray] = {}
        for combine in combines:
            apart = [c for c, d in enumerate(dimensions) if d.name not in combine.over]
            groups = _groups(np.ascontiguousarray(indices[:, apart]))
            elements = tuple(int(combine.elements[members[0]]) for members in groups)
            # Steps of a recurrent layer combine alike, one after the other.
            each = dtype_bytes(combine.dtype)
            key = (each, tuple(apart), elements)
            if key not in known:
                known[key] = self._groups_row(groups, len(indices), elements, each)
            row = known[key].copy()
            row[COMB_SUMS] = combine.reduction == "sum"
            self._combine.append(row)
            most = max(most, len(groups))
        config[CONFIG_WIDTH] = len(indices) + most

    def _groups_row(self, groups, num_parts: int, elements, each: int) -> np.ndarray:
        """A row of combines with the reductions of its groups."""
        row = np.zeros(NUM_COMBINE, np.int64)
        row[COMB_REDUCTION], row[COMB_COUNT] = len(self._reduction), len(groups)
        group_of = np.zeros(num_parts, np.int64)
        for number, members in enumerate(groups):
            group_of[members] = number
            self._add_reduction(members, elements[number], each, False)
        row[COMB_GROUPS] = len(self._members)
        self._members.extend(group_of)
        return row

    def _add_reduction(self, members, elements, each, gathers: bool) -> None:
        row = np.zeros(NUM_REDUCTION, np.int64)
        row[RED_MEMBERS], row[RED_COUNT] = len(self._members), len(members)
        row[RED_ELEMENTS], row[RED_BYTES], row[RED_GATHERS] = elements, each, gathers
        self._members.extend(np.array(members, np.int64))
        self._reduction.append(row)


def _groups(keys: np.ndarray) -> list[list[int]]:
    """Rows that are equal, in order of appearance."""
    groups: dict[bytes, list[int]] = {}
    for number, key in enumerate(keys):
        groups.setdefault(key.tobytes(), []).append(number)
    return list(groups.values())
