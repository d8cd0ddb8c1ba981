"""Random task graphs, operator graphs, machines and strategies, of all that the rules can mix."""

import dataclasses
import itertools

import numpy as np

from keras_soap.graph.builder import Builder
from keras_soap.graph.operator_graph import SPACE, OperatorGraph, TensorSpec
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.strategy.search_space import families
from keras_soap.strategy.strategy import Strategy
from keras_soap.tasks.lowering import Lowering
from keras_soap.tasks.task_graph import TaskGraph
from keras_soap.topology.device_topology import Connection, Device, DeviceTopology


def task_graph(rng: np.random.Generator) -> TaskGraph:
    """Any acyclic graph: edges twice, tasks of no time, tasks on many resources or on none."""
    num_tasks, num_resources = int(rng.integers(0, 30)), int(rng.integers(1, 6))
    order = rng.permutation(num_tasks)
    longest = int(rng.choice([1, 3, 1000]))
    share = rng.random() * 0.4
    after: list[list[int]] = [[] for _ in range(num_tasks)]
    for a, b in itertools.combinations(range(num_tasks), 2):
        if rng.random() < share:
            after[order[a]] += [int(order[b])] * int(rng.integers(1, 3))
    held = [
        rng.permutation(num_resources)[: rng.integers(0, num_resources + 1)].tolist()
        if rng.random() < 0.4
        else [int(rng.integers(num_resources))]
        for _ in range(num_tasks)
    ]
    run_time_ns = rng.integers(0, longest + 1, num_tasks)
    longer = rng.integers(0, longest + 1, num_tasks) if rng.random() < 0.5 else 0
    none = np.full(num_tasks, -1, np.int32)
    zeros = np.zeros(num_tasks, np.int64)
    return TaskGraph(
        num_resources,
        num_resources,
        rng.integers(1, 4, num_resources) if rng.random() < 0.5 else np.ones(num_resources, int),
        run_time_ns,
        run_time_ns + longer,
        np.cumsum([0] + [len(x) for x in held]),
        np.array([r for x in held for r in x], np.int32),
        np.cumsum([0] + [len(x) for x in after]),
        np.array([t for x in after for t in x], np.int32),
        zeros.astype(np.int8),
        none,
        none,
        none,
        none,
        zeros,
    )


def machine(rng: np.random.Generator) -> DeviceTopology:
    """A ring without switches, a shared bus, a full mesh, or nodes behind network cards."""
    num_devices = int(rng.integers(1, 9))
    models = int(rng.integers(1, 3))
    memory = int(rng.choice([2**10, 2**14, 2**34]))
    num_nodes = -(-num_devices // 3)
    in_turn = bool(rng.random() < 0.3)  # So that devices of a node do not follow each other.
    devices = [
        Device(
            f"d{i}",
            model=f"m{i % models}",
            node=i % num_nodes if in_turn else i // 3,
            memory_bytes=memory * (1 + i % 2),
            peak_flops_per_s=1e9 * (1 + i % models),
            memory_bandwidth_bytes_per_s=1e9,
            task_overhead_ns=int(rng.choice([0, 100])),
        )
        for i in range(num_devices)
    ]
    if rng.random() < 0.4:
        # Neighbours compute with the same cores, more or fewer than there are of them.
        size, share = int(rng.integers(1, 4)), float(rng.choice([1.0, 0.8, 0.3]))
        devices = [
            dataclasses.replace(device, pool=f"p{i // 3}", pool_size=size, pool_utilization=share)
            if i % 4
            else device
            for i, device in enumerate(devices)
        ]
    names = [device.name for device in devices]
    speeds = rng.choice([1e8, 1e9, 3e9], 3)
    latencies = rng.choice([0, 10, 1000, 1003], 3)
    made: list[Connection] = []

    def connect(a: str, b: str, of: int, full_duplex: bool = True) -> None:
        made.append(
            Connection(f"c{len(made)}", (a, b), float(speeds[of]), int(latencies[of]), full_duplex)
        )

    shape = rng.choice(["ring", "mesh", "bus", "nodes"])
    duplex = bool(rng.random() < 0.5)
    switches: list[str] = []
    if shape == "ring":
        for i in range(num_devices if num_devices > 2 else num_devices - 1):
            connect(names[i], names[(i + 1) % num_devices], i % 2, duplex)
    elif shape == "mesh":
        for a, b in itertools.combinations(names, 2):
            connect(a, b, int(rng.integers(3)), duplex)
    else:
        for number, name in enumerate(names):
            at = "bus" if shape == "bus" else f"switch{devices[number].node}"
            if at not in switches:
                switches.append(at)
            connect(name, at, 0, duplex)
        if shape == "nodes":
            if duplex:
                for a, b in itertools.combinations(devices, 2):
                    if a.node == b.node:
                        connect(a.name, b.name, 1)
            for switch in switches:
                connect(switch, "network", 2)
            switches.append("network")
    return DeviceTopology("random", tuple(devices), tuple(made), tuple(switches))


class _Graph:
    """Grows a graph operator by operator; each method takes and gives operator numbers."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.batch = int(rng.choice([4, 6, 8]))
        self.b = Builder("random", self.batch)
        self.images = [self.b.input("image", 4, 6, int(rng.choice([2, 4])))]
        self.vectors: list[int] = [self.b.input("vector", 8)]
        self.series: list[int] = []
        self.shared: dict[int, str] = {}

    def pick(self, numbers: list[int]) -> int:
        return numbers[int(self.rng.integers(max(0, len(numbers) - 3), len(numbers)))]

    def convolution(self) -> None:
        x = self.pick(self.images)
        padding = "same" if self.b.shape(x)[1] < 3 else str(self.rng.choice(["same", "valid"]))
        size, strides = int(self.rng.choice([1, 2, 3])), int(self.rng.choice([1, 2]))
        if min(self.b.shape(x)[1:3]) < size:
            padding = "same"
        self.images.append(self.b.conv(x, int(self.rng.choice([2, 4, 6])), size, strides, padding))

    def batch_normalization(self) -> None:
        for numbers in (self.images, self.vectors):
            x = self.pick(numbers)
            channels = (self.b.shape(x)[-1],)
            weights = [("gamma", channels), ("beta", channels)]
            numbers.append(self.b.add("bn", "batch_normalization", [x], [self.b.shape(x)], weights))

    def pool(self) -> None:
        x = self.pick(self.images)
        self.images.append(self.b.pool(x, 2, int(self.rng.choice([1, 2])), "same"))

    def branch(self) -> None:
        x = self.pick(self.images)
        y, z = self.b.conv(x, 4, 3), self.b.conv(x, 4, 1)
        join = self.b.add_up if self.rng.random() < 0.5 else lambda *xs: self.b.concat(xs)
        self.images.append(join(y, z))

    def flatten(self) -> None:
        self.vectors.append(self.b.flatten(self.pick(self.images)))

    def dense(self) -> None:
        x = self.pick(self.vectors)
        features = self.b.shape(x)[1]
        layer = self.shared.setdefault(features, f"shared_{features}")
        same = self.rng.random() < 0.5
        units = 8 if same else int(self.rng.choice([4, 6, 8]))
        self.vectors.append(self.b.dense(x, units, layer=layer if same else ""))

    def embedding(self) -> None:
        tokens = self.b.input("tokens", 4, dtype="int32")
        layer = "table" if self.rng.random() < 0.5 else ""
        shape = (self.batch, 4, 8)
        table = [("embeddings", (12, 8))]
        space = TensorSpec((*shape, 12), SPACE)
        number = self.b.add("embed", "embedding", [tokens], [space, shape], table, layer)
        self.series.append(self.b.add("relu", "elementwise", [(number, 1)], [shape]))

    def recurrence(self) -> None:
        if not self.series:
            return self.embedding()
        x = self.pick(self.series)
        states = [self.b.input(name, 4) for name in "hc"]
        features = self.b.shape(x)[2]
        y = self.b.add(
            "lstm",
            "lstm",
            [x, *states],
            [(self.batch, 4, 4), (self.batch, 4), (self.batch, 4)],
            [("kernel", (features, 16)), ("recurrent_kernel", (4, 16)), ("bias", (16,))],
        )
        self.series.append(y)
        if self.rng.random() < 0.5:
            units = [("kernel", (4, 8)), ("bias", (8,))]
            self.vectors.append(
                self.b.add(
                    "dense", "dense", [(y, 1)], [(self.batch, 8)], units, activation="linear"
                )
            )

    def loss(self) -> None:
        x = self.pick(self.vectors)
        target = self.b.input("target", dtype="int32")
        report_bytes = int(self.rng.choice([0, 8]))
        if self.rng.random() < 0.5:
            self.b.add("loss", "loss", [x, target], [(self.batch,)], report_bytes=report_bytes)
            return
        self.b.add(
            "loss",
            "cross_entropy",
            [x, target],
            [self.b.shape(x)],
            is_sparse=True,
            finds_classes=bool(self.rng.random() < 0.5),
            is_normalized=bool(self.rng.random() < 0.5),
            report_bytes=report_bytes,
        )


def reducing_graph(rng: np.random.Generator) -> OperatorGraph:
    """A dense layer and a table, with so much to reduce that it goes around rings, or so little."""
    b = Builder("reducing", 24)
    width, features = (int(rng.choice([2, 24, 240, 2400])) for _ in range(2))
    b.loss(b.dense(b.input("vector", features), width))
    space = TensorSpec((24, 4, width, 12), SPACE)
    table = [("embeddings", (12, width))]
    tokens = b.input("tokens", 4, dtype="int32")
    rows = b.add("embed", "embedding", [tokens], [space, (24, 4, width)], table)
    b.loss(b.flatten(b.add("relu", "elementwise", [(rows, 1)], [(24, 4, width)])))
    return b.finish()


def striding_graph(rng: np.random.Generator) -> OperatorGraph:
    """Convolutions that pass over rows: which rows, depends on how they are split."""
    b = Builder("striding", 2)
    x = b.input("image", 12, 4, 2)
    for _ in range(int(rng.integers(1, 4))):
        x = b.conv(x, 2, 1)
        strides = int(rng.choice([1, 2, 3])) if b.shape(x)[1] > 3 else 1
        branches = [b.conv(x, 2, 1, strides) for _ in range(int(rng.integers(1, 3)))]
        x = branches[0] if len(branches) == 1 else b.add_up(*branches)
    b.loss(b.dense(b.flatten(x), 4))
    return b.finish()


def operator_graph(rng: np.random.Generator, num_steps: int = 10) -> OperatorGraph:
    """Branches, combines, shared layers, sparse tables, several losses or none."""
    graph = _Graph(rng)
    steps = [
        graph.convolution,
        graph.batch_normalization,
        graph.pool,
        graph.branch,
        graph.flatten,
        graph.dense,
        graph.dense,
        graph.embedding,
        graph.recurrence,
        graph.loss,
    ]
    for _ in range(int(rng.integers(1, num_steps + 1))):
        steps[int(rng.integers(len(steps)))]()
    if rng.random() < 0.8:
        graph.loss()
    return graph.b.finish()


class Space:
    """Random configurations, any devices, same for operators on the same weights."""

    def __init__(self, lowering: Lowering, num_devices: int):
        self.lowering, self.num_devices = lowering, num_devices
        self.families = families(lowering.graph)

    def config(self, rng: np.random.Generator, family: tuple[int, ...]) -> ParallelConfig:
        left, degrees = self.num_devices, []
        dimensions = [self.lowering.dimensions[n] for n in family]
        for position in rng.permutation(len(dimensions[0])).tolist():
            allowed = [
                d for d in range(1, left + 1) if all(of[position].allows(d) for of in dimensions)
            ]
            degree = int(rng.choice(allowed))
            degrees.append((position, degree))
            left //= degree
        of_each = tuple(degree for _, degree in sorted(degrees))
        count = int(np.prod(of_each, dtype=np.int64))
        if rng.random() < 0.3:
            first = int(rng.integers(self.num_devices - count + 1))
            return ParallelConfig(of_each, tuple(range(first, first + count)))
        return ParallelConfig(of_each, tuple(rng.permutation(self.num_devices)[:count].tolist()))

    def change(self, rng: np.random.Generator, num_families: int = 1) -> dict[int, ParallelConfig]:
        result: dict[int, ParallelConfig] = {}
        for number in rng.permutation(len(self.families))[:num_families].tolist():
            family = self.families[number]
            result.update(dict.fromkeys(family, self.config(rng, family)))
        return result

    def strategy(self, rng: np.random.Generator) -> Strategy:
        change = self.change(rng, len(self.families))
        return Strategy(tuple(change[n] for n in range(len(self.lowering.graph.operators))))
