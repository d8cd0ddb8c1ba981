"""Strategies that people use: what a search starts from and is compared with.

All of them fit any graph and any number of devices: where a degree does not divide a size, the
largest one below it that does is taken.
"""

import math
from collections.abc import Callable, Sequence

from keras_soap.graph.operator_graph import OperatorGraph
from keras_soap.operators.rule import Dimension, DimensionKind
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.strategy.search_space import families
from keras_soap.strategy.strategy import Strategy
from keras_soap.topology.device_topology import DeviceTopology

Dimensions = Sequence[Sequence[Dimension]]


def data_parallel(
    graph: OperatorGraph, dimensions: Dimensions, topology: DeviceTopology
) -> Strategy:
    """Every operator splits its samples over all devices."""
    plan = _Plan(graph, dimensions, topology)
    for family in plan.families:
        plan.split(family, DimensionKind.SAMPLE)
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
        if not (plan.split(family, DimensionKind.PARAMETER) or plan.follow(family)):
            position = family[0] * topology.num_devices // len(graph.operators)
            plan.place(family, (position,))
    return plan.strategy()


def expert(graph: OperatorGraph, dimensions: Dimensions, topology: DeviceTopology) -> Strategy:
    """What an expert does for the kind of network.

    Convolutional networks: "one weird trick" (A. Krizhevsky, arXiv 1404.5997): fully connected
    layers split their units, all others the samples. Recurrent networks: one replica for each
    node, and within a node each layer on a device of its own (Y. Wu et al., "Google's neural
    machine translation system", arXiv 1609.08144).
    """
    if any(is_recurrent(operator.kind) for operator in graph.operators):
        return _layers_across_devices(graph, dimensions, topology)
    plan = _Plan(graph, dimensions, topology)
    for family in plan.families:
        operator = graph.operators[family[0]]
        dense = operator.kind == "dense" and len(operator.output.shape) == 2
        if dense and plan.split(family, DimensionKind.PARAMETER):
            continue
        if operator.weights or not plan.follow(family):
            plan.split(family, DimensionKind.SAMPLE)
    return plan.strategy()


BASELINES: dict[str, Callable[[OperatorGraph, Dimensions, DeviceTopology], Strategy]] = {
    "data_parallel": data_parallel,
    "model_parallel": model_parallel,
    "expert": expert,
}


def is_recurrent(kind: str) -> bool:
    """Whether operators of this kind carry a state through time."""
    return any(word in kind for word in ("lstm", "gru", "rnn", "recurrent"))


def _layers_across_devices(
    graph: OperatorGraph, dimensions: Dimensions, topology: DeviceTopology
) -> Strategy:
    nodes: dict[int, list[int]] = {}
    for number, device in enumerate(topology.devices):
        nodes.setdefault(device.node, []).append(number)
    plan = _Plan(graph, dimensions, topology)
    layers = [family for family in plan.families if graph.operators[family[0]].weights]
    position = {family[0]: number for number, family in enumerate(layers)}
    last = 0
    for family in plan.families:
        last = position.get(family[0], last)
        devices = tuple(
            in_node[last * len(in_node) // max(len(layers), 1)] for in_node in nodes.values()
        )
        plan.split(family, DimensionKind.SAMPLE, devices)
    return plan.strategy()


class _Plan:
    """Configurations so far. Every family starts whole on device 0."""

    def __init__(self, graph: OperatorGraph, dimensions: Dimensions, topology: DeviceTopology):
        self.graph = graph
        self.dimensions = dimensions
        self.num_devices = topology.num_devices
        self.families = families(graph)
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
        self, family: Sequence[int], kind: DimensionKind, devices: Sequence[int] | None = None
    ) -> bool:
        """Splits the dimensions of `kind` over as many of `devices` (all of them) as can be."""
        devices = range(self.num_devices) if devices is None else devices
        left = len(devices)
        degrees = []
        for position, dimension in enumerate(self.dimensions[family[0]]):
            degree = 1
            if dimension.kind == kind:
                degree = max(
                    degree
                    for degree in dimension.degrees(left)
                    if all(self._allows(number, position, degree) for number in family)
                )
            degrees.append(degree)
            left //= degree
        parts = math.prod(degrees)
        self._set(family, ParallelConfig(tuple(degrees), tuple(devices[:parts])))
        return parts > 1

    def follow(self, family: Sequence[int]) -> bool:
        """Splits as the first producer does, where the dimensions of the same name allow it."""
        number = family[0]
        if not self.graph.in_edges[number]:
            return False
        producer = self.graph.in_edges[number][0].producer.operator
        config = self.configs[producer]
        by_name = {
            dimension.name: degree
            for dimension, degree in zip(self.dimensions[producer], config.degrees, strict=True)
        }
        degrees = tuple(by_name.get(dimension.name, 1) for dimension in self.dimensions[number])
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
