"""The facts that task graphs are made of, for each operator and edge, each found once.

`build` strings them together for the simulator; the runtime executes the very same ones. They
depend on degrees, not on devices, so a search meets most of them again and again: hence the caches.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_soap.costs.cost_profile import CostProfile, PartTimes
from keras_soap.graph.operator_graph import Edge, OperatorGraph, dtype_bytes
from keras_soap.graph.region import Regions, volume, whole
from keras_soap.operators import registry
from keras_soap.operators.rule import Combine, Dimension, Part
from keras_soap.strategy.parallel_config import part_indices
from keras_soap.strategy.strategy import Strategy
from keras_soap.tasks import overlap
from keras_soap.tasks.weights import GradientReduction, WeightBlock, gradient_reductions
from keras_soap.topology.device_topology import Device, DeviceTopology

NUM_SLOTS = 2
"""Variables of an optimizer beside each weight, where it is not known: as Adam has."""


@dataclass(frozen=True)
class CombineBlock:
    """A reduction between two stages of an operator, and which parts take part together.

    Attributes:
        combine: What is reduced.
        group: int32 (parts,). Parts of the same group have the same number.
        element_bytes: Bytes of one element.
    """

    combine: Combine
    group: np.ndarray
    element_bytes: int


@dataclass(frozen=True)
class OperatorBlock:
    """An operator under given degrees.

    Attributes:
        outputs: For each output int64 (parts, rank, 2): the regions that the parts make.
        inputs: For each input the regions that they read.
        weights: For each weight how it is spread.
        combines: Reductions between its stages.
        reductions: Of gradients of its weights.
    """

    outputs: tuple[Regions, ...]
    inputs: tuple[Regions, ...]
    weights: tuple[WeightBlock, ...]
    combines: tuple[CombineBlock, ...]
    reductions: tuple[GradientReduction, ...]

    def combines_in(self, training: bool) -> tuple[CombineBlock, ...]:
        """Those of a step of training, or of inference."""
        return tuple(c for c in self.combines if training or not c.combine.training_only)

    @property
    def num_parts(self) -> int:
        return len(self.outputs[0])


class Lowering:
    """Facts about one operator graph, by (operator, degrees) and (edge, degrees, degrees)."""

    def __init__(self, graph: OperatorGraph):
        self.graph = graph
        self.dimensions: tuple[tuple[Dimension, ...], ...] = tuple(
            registry.find(operator.kind).dimensions(operator) for operator in graph.operators
        )
        self._operators: dict[tuple[int, tuple[int, ...]], OperatorBlock] = {}
        self._edges: dict[tuple[int, tuple[int, ...], tuple[int, ...]], overlap.Overlaps] = {}

    def operator(self, number: int, degrees: tuple[int, ...]) -> OperatorBlock:
        """The parts of operator `number` under `degrees`."""
        key = (number, degrees)
        if key not in self._operators:
            self._operators[key] = self._make_operator(number, degrees)
        return self._operators[key]

    def edge(
        self, edge: Edge, producer: tuple[int, ...], consumer: tuple[int, ...]
    ) -> overlap.Overlaps:
        """What moves along `edge` when its ends have the degrees `producer` and `consumer`."""
        key = (edge.index, producer, consumer)
        if key not in self._edges:
            self._edges[key] = overlap.find(
                *self._ends(edge, producer, consumer), self.graph.gradients_before[edge.index]
            )
        return self._edges[key]

    def num_pairs(self, strategy: Strategy) -> int:
        """Pairs of parts that one reads of the other, on all edges; makes no list of them."""
        return sum(
            overlap.count(
                *self._ends(
                    edge,
                    strategy.configs[edge.producer.operator].degrees,
                    strategy.configs[edge.consumer].degrees,
                )
            )
            for edge in self.graph.edges
        )

    def _ends(self, edge: Edge, producer: tuple[int, ...], consumer: tuple[int, ...]):
        """What `overlap` asks."""
        source = edge.producer
        return (
            self.graph.operators[source.operator].output_specs[source.output].shape,
            [d.axes[source.output] for d in self.dimensions[source.operator]],
            producer,
            self.operator(edge.consumer, consumer).inputs[edge.input],
        )

    def parts(self, number: int, degrees: tuple[int, ...]) -> tuple[Part, ...]:
        """The parts one by one, as the rule's `compute` takes them."""
        operator, block = self.graph.operators[number], self.operator(number, degrees)
        return tuple(
            Part(
                operator,
                index,
                _ranges(block.outputs[0][index]),
                tuple(_ranges(regions[index]) for regions in block.inputs),
                tuple(_ranges(weight.regions[index]) for weight in block.weights),
            )
            for index in range(block.num_parts)
        )

    def _make_operator(self, number: int, degrees: tuple[int, ...]) -> OperatorBlock:
        operator = self.graph.operators[number]
        rule = registry.find(operator.kind)
        dimensions = self.dimensions[number]
        indices = part_indices(degrees)
        outputs = self._outputs(number, indices, degrees)
        weights = self.weight_blocks(number, degrees, rule.weight_regions(operator, outputs[0]))
        combines = []
        for combine in rule.combines(operator, outputs[0]):
            apart = [c for c, d in enumerate(dimensions) if d.name not in combine.over]
            combines.append(
                CombineBlock(combine, _equal_rows(indices[:, apart]), dtype_bytes(combine.dtype))
            )
        inputs = tuple(rule.input_regions(operator, outputs[0]))
        reductions = gradient_reductions(operator, weights)
        return OperatorBlock(tuple(outputs), inputs, weights, tuple(combines), reductions)

    def weight_blocks(
        self, number: int, degrees: tuple[int, ...], regions: Sequence[Regions]
    ) -> tuple[WeightBlock, ...]:
        """How the weights of operator `number` are spread, given what its parts hold of each."""
        return tuple(
            WeightBlock(
                held,
                _equal_rows(held.reshape(len(held), -1)),
                volume(held),
                dtype_bytes(spec.dtype),
                self._sparse_rows(number, position, degrees),
            )
            for position, (spec, held) in enumerate(
                zip(self.graph.operators[number].weight_specs, regions, strict=True)
            )
        )

    def _outputs(self, number: int, indices: np.ndarray, degrees: tuple[int, ...]) -> list[Regions]:
        operator = self.graph.operators[number]
        regions = whole(len(indices), operator.output.shape)
        for column, (dimension, degree) in enumerate(
            zip(self.dimensions[number], degrees, strict=True)
        ):
            size = operator.output.shape[dimension.axis] // degree
            regions[:, dimension.axis, 0] = indices[:, column] * size
            regions[:, dimension.axis, 1] = regions[:, dimension.axis, 0] + size
        return registry.find(operator.kind).output_regions(operator, regions)

    def _sparse_rows(
        self, number: int, position: int, degrees: tuple[int, ...]
    ) -> np.ndarray | None:
        """As in `WeightBlock`: a table that is looked up twice gets rows from both."""
        if position not in registry.find(self.graph.operators[number].kind).sparse_weights:
            return None
        weight = self.graph.operators[number].weights[position]
        indices = part_indices(degrees)
        total = np.zeros(len(indices), np.int64)
        for other in self.graph.sharers[number]:
            operator = self.graph.operators[other]
            rule = registry.find(operator.kind)
            if weight not in operator.weights:
                continue
            if operator.weights.index(weight) not in rule.sparse_weights:
                return None  # Added to a dense gradient, rows become dense, too.
            made = self._outputs(other, indices, degrees)[0]
            total += rule.sparse_rows(operator, made)
        return total


class Costs:
    """Times of the parts of one operator graph on one topology, each asked for once.

    Args:
        lowering: Of the operator graph.
        topology: The machine.
        profile: Times of parts.
        num_slots: Variables that the optimizer keeps beside each weight, of its size: what
            training needs memory for.
    """

    def __init__(
        self,
        lowering: Lowering,
        topology: DeviceTopology,
        profile: CostProfile,
        num_slots: int = NUM_SLOTS,
    ):
        self.lowering = lowering
        self.topology = topology
        self.profile = profile
        self.num_slots = num_slots
        classes: dict[Device, int] = {}
        self.device_class: tuple[int, ...] = tuple(
            classes.setdefault(
                dataclasses.replace(device, name="", node=0, memory_bytes=1, pool="", pool_size=1),
                len(classes),
            )
            for device in topology.devices
        )
        """By device. Devices of one class are alike but for name, place and memory."""
        self._by_class: dict[tuple[int, tuple[int, ...], int], PartTimes] = {}

    def part_times_ns(self, number: int, degrees: tuple[int, ...], device: int) -> PartTimes:
        """Times of all parts, were they on `device`."""
        key = (number, degrees, self.device_class[device])
        if key not in self._by_class:
            self._by_class[key] = self.profile.part_times_ns(
                self.lowering.graph.operators[number],
                self.lowering.operator(number, degrees).outputs[0],
                self.topology.devices[device],
            )
        return self._by_class[key]


def _ranges(region: np.ndarray) -> tuple[tuple[int, int], ...]:
    return tuple((start, stop) for start, stop in region.tolist())


def _equal_rows(rows: np.ndarray) -> np.ndarray:
    """int32 (N,): the same number for equal rows, counting from 0 in order of appearance."""
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in rows], np.int32)
