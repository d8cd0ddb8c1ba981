"""Strategies that people use: what a search starts from and is compared with.

All of them fit any graph and any number of devices: where a degree does not divide a size, the
largest one below it that does is taken.
"""

import collections
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from keras_soap.graph.operator_graph import INPUT, LOSS_KINDS, Operator, OperatorGraph
from keras_soap.operators.rule import Dimension, DimensionKind
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.strategy.search_space import families, forward_flops
from keras_soap.strategy.strategy import Strategy
from keras_soap.topology.device_topology import DeviceTopology

Dimensions = Sequence[Sequence[Dimension]]

LITTLE = 0.25
"""Of the mean work of a layer: with less it gets no devices of its own."""


def data_parallel(
    graph: OperatorGraph,
    dimensions: Dimensions,
    topology: DeviceTopology,
    num_devices: int | None = None,
) -> Strategy:
    """Every operator splits its samples over all devices, or over the first `num_devices`."""
    plan = _Plan(graph, dimensions, topology)
    for family in plan.families:
        plan.split(family, {DimensionKind.SAMPLE: num_devices or plan.num_devices})
    return plan.strategy()


def model_parallel(
    graph: OperatorGraph, dimensions: Dimensions, topology: DeviceTopology
) -> Strategy:
    """Operators with weights to split split them over all devices.

    Others split the same dimensions as the operator that they read, if they can; the rest lie
    whole on one device each, spread over the devices in the order of the graph.
    """
    plan = _Plan(graph, dimensions, topology)
    for family in plan.families:
        units = {DimensionKind.PARAMETER: plan.num_devices}
        if not (plan.split(family, units) or plan.follow(family)):
            position = family[0] * topology.num_devices // len(graph.operators)
            plan.place(family, (position,))
    return plan.strategy()


def layer_parallel(
    graph: OperatorGraph, dimensions: Dimensions, topology: DeviceTopology
) -> Strategy:
    """Each layer on devices of its own, in proportion to its work, over which it splits samples.

    What makes the prediction splits its units within a node, and samples across nodes. What does
    no work of its own goes where its inputs are made, or else where it is read. Layers that are cut
    in time then run as a wavefront: one layer does the next block while the layer after it does
    this one. I. Sutskever, O. Vinyals, Q. V. Le (arXiv 1409.3215) trained so, with half of the
    devices for the softmax.
    """
    plan = _Plan(graph, dimensions, topology)
    stages = _stages(graph, topology.num_devices)
    sizes = _shares([stage.work for stage in stages], topology.num_devices)
    # Sizes are powers of two: in descending order none straddles a node that another could fill.
    starts, position = {}, 0
    for number in sorted(range(len(stages)), key=lambda number: -sizes[number]):
        starts[number], position = position, position + sizes[number]
    where = _follow_layers(
        graph, {layer: number for number, stage in enumerate(stages) for layer in stage.layers}
    )
    predicting = _predicting(graph)
    in_node = max(collections.Counter(device.node for device in topology.devices).values())
    for family in plan.families:
        number = where[family[0]]
        devices = range(starts[number], starts[number] + sizes[number])
        if predicting.intersection(family):
            within = math.gcd(sizes[number], in_node)
            most = {DimensionKind.SAMPLE: sizes[number] // within, DimensionKind.PARAMETER: within}
            plan.split(family, most, devices)
        elif graph.operators[family[0]].kind not in LOSS_KINDS or not plan.follow(family):
            plan.split(family, {DimensionKind.SAMPLE: sizes[number]}, devices)
    return plan.strategy()


def expert(graph: OperatorGraph, dimensions: Dimensions, topology: DeviceTopology) -> Strategy:
    """What an expert does for the kind of network.

    Convolutional networks: "one weird trick" (A. Krizhevsky, arXiv 1404.5997): fully connected
    layers split their units, all others the samples. Recurrent networks: one replica for each
    node; within a node each recurrent layer on a device of its own, and what makes the prediction
    split by units over all of them (Y. Wu et al., "Google's neural machine translation system",
    arXiv 1609.08144).
    """
    if any(is_recurrent(operator.kind) for operator in graph.operators):
        return _layers_within_nodes(graph, dimensions, topology)
    plan = _Plan(graph, dimensions, topology)
    for family in plan.families:
        operator = graph.operators[family[0]]
        dense = operator.kind == "dense" and len(operator.output.shape) == 2
        if dense and plan.split(family, {DimensionKind.PARAMETER: plan.num_devices}):
            continue
        if _has_weights(operator) or not plan.follow(family):
            plan.split(family, {DimensionKind.SAMPLE: plan.num_devices})
    return plan.strategy()


BASELINES: dict[str, Callable[[OperatorGraph, Dimensions, DeviceTopology], Strategy]] = {
    "data_parallel": data_parallel,
    "model_parallel": model_parallel,
    "layer_parallel": layer_parallel,
    "expert": expert,
}


def is_recurrent(kind: str) -> bool:
    """Whether operators of this kind carry a state through time."""
    return any(word in kind for word in ("lstm", "gru", "rnn", "recurrent"))


def _layers_within_nodes(
    graph: OperatorGraph, dimensions: Dimensions, topology: DeviceTopology
) -> Strategy:
    nodes: dict[int, list[int]] = {}
    for number, device in enumerate(topology.devices):
        nodes.setdefault(device.node, []).append(number)
    most = max(map(len, nodes.values()))
    full = [in_node for in_node in nodes.values() if len(in_node) == most]
    everywhere = [device for in_node in full for device in in_node]
    recurrent = dict.fromkeys(o.layer for o in graph.operators if is_recurrent(o.kind))
    where = _follow_layers(graph, {layer: number for number, layer in enumerate(recurrent)})
    predicting = _predicting(graph)
    plan = _Plan(graph, dimensions, topology)
    for family in plan.families:
        if predicting.intersection(family):
            degrees = {DimensionKind.SAMPLE: len(full), DimensionKind.PARAMETER: most}
            plan.split(family, degrees, everywhere)
        elif graph.operators[family[0]].kind in LOSS_KINDS:
            if not plan.follow(family):
                plan.split(family, {DimensionKind.SAMPLE: len(everywhere)}, everywhere)
        else:
            position = where[family[0]] * most // max(len(recurrent), most)
            devices = [in_node[position] for in_node in full]
            plan.split(family, {DimensionKind.SAMPLE: len(full)}, devices)
    return plan.strategy()


def _predicting(graph: OperatorGraph) -> set[int]:
    """The last operators with weights before each loss."""
    pending = [n for n, operator in enumerate(graph.operators) if operator.kind in LOSS_KINDS]
    found = set()
    while pending:
        for edge in graph.in_edges[pending.pop()]:
            producer = edge.producer.operator
            if _has_weights(graph.operators[producer]):
                found.add(producer)
            else:
                pending.append(producer)
    return found


def _has_weights(operator: Operator) -> bool:
    """Whether it computes with weights, its own or those that another operator hands to it."""
    handed = ("weights", "weight_inputs")
    return bool(operator.weights or any(operator.attributes.get(key) for key in handed))


@dataclass(frozen=True)
class _Stage:
    """Layers that share devices, and their operations in a forward pass."""

    layers: tuple[str, ...]
    work: float

    def __add__(self, other: "_Stage") -> "_Stage":
        return _Stage(self.layers + other.layers, self.work + other.work)


def _stages(graph: OperatorGraph, most: int) -> list[_Stage]:
    """The layers that do work, in order, in no more than `most` stages.

    A layer that does less than `LITTLE` of the mean shares a stage with the one before it.
    """
    work: dict[str, float] = {}
    for operator in graph.operators:
        if operator.layer:
            work[operator.layer] = work.get(operator.layer, 0.0) + forward_flops(operator)
    stages: list[_Stage] = []
    mean = sum(work.values()) / max(sum(of > 0 for of in work.values()), 1)
    for layer, of in work.items():
        if of and (not stages or of >= LITTLE * mean):
            stages.append(_Stage((layer,), of))
        elif of:
            stages[-1] += _Stage((layer,), of)
    stages = stages or [_Stage((), 1.0)]
    while len(stages) > most:
        at = min(range(len(stages) - 1), key=lambda n: stages[n].work + stages[n + 1].work)
        stages[at : at + 2] = [stages[at] + stages[at + 1]]
    return stages


def _shares(work: Sequence[float], num_devices: int) -> list[int]:
    """How many devices each stage gets: one, doubled where most work is left for each."""
    sizes = [1] * len(work)
    left = num_devices - len(work)
    while True:
        number = max(range(len(work)), key=lambda n: work[n] / sizes[n])
        if sizes[number] > left:
            return sizes
        left -= sizes[number]
        sizes[number] *= 2


def _follow_layers(graph: OperatorGraph, of_layer: Mapping[str, int]) -> list[int]:
    """For each operator the number of its layer, or of one that it is beside.

    Args:
        graph: The operators.
        of_layer: Numbers of the layers that have one.
    """
    found: list[int | None] = []
    for number, operator in enumerate(graph.operators):
        before = (found[edge.producer.operator] for edge in graph.in_edges[number])
        inherited = next((n for n in before if n is not None), None)
        found.append(of_layer.get(operator.layer, inherited))
    for number in reversed(range(len(found))):
        if found[number] is None:
            after = (found[edge.consumer] for edge in graph.out_edges[number])
            found[number] = next((n for n in after if n is not None), 0)
    return [n or 0 for n in found]


class _Plan:
    """Configurations so far. Every family starts whole on device 0."""

    def __init__(self, graph: OperatorGraph, dimensions: Dimensions, topology: DeviceTopology):
        self.graph = graph
        self.dimensions = dimensions
        self.num_devices = topology.num_devices
        self.families = [m for m in families(graph) if graph.operators[m[0]].kind != INPUT]
        self.configs = {
            number: ParallelConfig((1,) * len(of_operator), (0,))
            for number, of_operator in enumerate(dimensions)
        }

    def strategy(self) -> Strategy:
        return Strategy(tuple(self.configs[number] for number in range(len(self.configs))))

    def place(self, family: Sequence[int], devices: tuple[int, ...]) -> None:
        whole = (1,) * len(self.dimensions[family[0]])
        self._set(family, ParallelConfig(whole, devices))

    def split(
        self,
        family: Sequence[int],
        most: Mapping[DimensionKind, int],
        devices: Sequence[int] | None = None,
    ) -> bool:
        """Splits dimensions over as many of `devices` (all of them) as can be.

        Args:
            family: Operators.
            most: Into how many parts, by kind of dimension; others stay whole.
            devices: Where; the first ones are taken.
        """
        devices = range(self.num_devices) if devices is None else devices
        left = dict(most)
        degrees = []
        for position, dimension in enumerate(self.dimensions[family[0]]):
            degree = max(
                degree
                for degree in dimension.degrees(left.get(dimension.kind, 1))
                if all(self._allows(number, position, degree) for number in family)
            )
            degrees.append(degree)
            if dimension.kind in left:
                left[dimension.kind] //= degree
        parts = math.prod(degrees)
        self._set(family, ParallelConfig(tuple(degrees), tuple(devices[:parts])))
        return parts > 1

    def follow(self, family: Sequence[int]) -> bool:
        """Splits as the first producer does: dimensions of the same name, or the same axis."""
        number = family[0]
        if not self.graph.in_edges[number]:
            return False
        producer = self.graph.in_edges[number][0].producer.operator
        config = self.configs[producer]
        by_name, by_axis = {}, {}
        for dimension, degree in zip(self.dimensions[producer], config.degrees, strict=True):
            by_name[dimension.name] = by_axis[dimension.axis, dimension.size] = degree
        degrees = tuple(
            by_name.get(dimension.name, by_axis.get((dimension.axis, dimension.size), 1))
            for dimension in self.dimensions[number]
        )
        fits = config.num_parts > 1 and math.prod(degrees) == config.num_parts
        if not fits or not all(
            self._allows(member, position, degree)
            for member in family
            for position, degree in enumerate(degrees)
        ):
            return False
        self._set(family, ParallelConfig(degrees, config.devices))
        return True

    def _allows(self, number: int, position: int, degree: int) -> bool:
        of_operator = self.dimensions[number]
        return position < len(of_operator) and of_operator[position].allows(degree)

    def _set(self, family: Sequence[int], config: ParallelConfig) -> None:
        self.configs.update(dict.fromkeys(family, config))
