"""Tiny graphs, machines and problems."""

import itertools

from keras_soap.costs.roofline import Roofline
from keras_soap.graph.operator_graph import (
    Operator,
    OperatorGraph,
    TensorRef,
    TensorSpec,
    WeightSpec,
)
from keras_soap.objective import Evaluation
from keras_soap.search.problem import Problem
from keras_soap.strategy.strategy import Strategy
from keras_soap.topology.device_topology import Connection, Device, DeviceTopology


class GraphOf:
    """Adds operators one by one; each method gives the number of what it added."""

    def __init__(self, batch_size: int):
        self.batch_size = batch_size
        self.operators: list[Operator] = []
        self.weights: list[WeightSpec] = []

    def input(self, width: int) -> int:
        return self._add("input", (), width)

    def dense(self, source: int, width: int, like: int | None = None) -> int:
        """A dense layer, or another call of the one that operator `like` calls."""
        if like is not None:
            shared = self.operators[like]
            return self._add(
                "dense", (source,), width, shared.weights, shared.weight_specs, shared.layer
            )
        name = f"dense_{len(self.operators)}"
        features = self.operators[source].output.shape[1]
        specs = (
            WeightSpec(f"{name}/kernel", name, (features, width), "float32", True),
            WeightSpec(f"{name}/bias", name, (width,), "float32", True),
        )
        numbers = (len(self.weights), len(self.weights) + 1)
        self.weights += specs
        return self._add("dense", (source,), width, numbers, specs, name)

    def add(self, *sources: int) -> int:
        return self._add("elementwise", sources, self.operators[sources[0]].output.shape[1])

    def loss(self, source: int) -> int:
        target = self.input(self.operators[source].output.shape[1])
        return self._add("loss", (source, target), None, attributes={"report_bytes": 4})

    def graph(self) -> OperatorGraph:
        return OperatorGraph("toy", self.batch_size, tuple(self.operators), tuple(self.weights))

    def _add(self, kind, sources, width, weights=(), specs=(), layer="", attributes=None) -> int:
        number = len(self.operators)
        shape = (self.batch_size,) if width is None else (self.batch_size, width)
        self.operators.append(
            Operator(
                f"{kind}_{number}",
                kind,
                layer,
                tuple(TensorRef(source) for source in sources),
                tuple(self.operators[source].output for source in sources),
                (TensorSpec(shape, "float32"),),
                weights,
                specs,
                attributes or {},
            )
        )
        return number


def chain(widths=(64, 256, 64), batch_size: int = 32) -> OperatorGraph:
    """Dense layers one after the other, and a loss."""
    graph = GraphOf(batch_size)
    last = graph.input(widths[0])
    for width in widths[1:]:
        last = graph.dense(last, width)
    graph.loss(last)
    return graph.graph()


def diamond(width: int = 64, batch_size: int = 32) -> OperatorGraph:
    """Two branches that are added up, and a loss."""
    graph = GraphOf(batch_size)
    start = graph.dense(graph.input(width), width)
    graph.loss(graph.add(graph.dense(start, width), graph.dense(start, width)))
    return graph.graph()


def twins(width: int = 64, batch_size: int = 32) -> OperatorGraph:
    """One dense layer called twice."""
    graph = GraphOf(batch_size)
    first = graph.dense(graph.input(width), width)
    graph.loss(graph.add(first, graph.dense(first, width, like=first)))
    return graph.graph()


def machine(
    num_devices: int,
    num_nodes: int = 1,
    memory_bytes: int = 2**34,
    bandwidth_bytes_per_s: float = 1e9,
    latency_ns: int = 1000,
) -> DeviceTopology:
    """Equal devices on one switch for each node; switches on one switch."""
    each = -(-num_devices // num_nodes)
    devices = tuple(
        Device(f"CPU:{number}", node=number // each, memory_bytes=memory_bytes)
        for number in range(num_devices)
    )
    links = [
        Connection(
            f"port_{device.name}",
            (device.name, f"switch_{device.node}"),
            bandwidth_bytes_per_s,
            latency_ns,
        )
        for device in devices
    ]
    switches = [f"switch_{node}" for node in range(num_nodes)]
    if num_nodes > 1:
        links += [
            Connection(f"up_{node}", (f"switch_{node}", "core"), bandwidth_bytes_per_s, latency_ns)
            for node in range(num_nodes)
        ]
        switches.append("core")
    return DeviceTopology(f"toy_{num_devices}", devices, tuple(links), tuple(switches))


def mesh(num_devices: int) -> DeviceTopology:
    """Equal devices, each two of them joined by links of their own."""
    devices = machine(num_devices).devices
    links = tuple(
        Connection(f"{a.name}-{b.name}", (a.name, b.name), 1e9, 1000)
        for a, b in itertools.combinations(devices, 2)
    )
    return DeviceTopology(f"mesh_{num_devices}", devices, links, ())


def problem(graph=None, topology=None, **arguments) -> Problem:
    return Problem(graph or chain(), topology or machine(4), Roofline(), **arguments)


def every_strategy(of: Problem) -> list[Strategy]:
    """The whole space, by trying everything."""
    space = of.space
    domains = [list(space.configs(family, True)) for family in range(len(space.families))]
    return [
        Strategy(tuple(choice[family] for family in space.family_of))
        for choice in itertools.product(*domains)
    ]


def fastest(of: Problem) -> Evaluation:
    """By brute force."""
    return min(map(of.objective.evaluate, every_strategy(of)), key=lambda found: found.rank)
