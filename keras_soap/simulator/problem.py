"""The machine and the operator graph as the kernel sees them; made once for each simulator."""

import math

import numpy as np

from keras_soap.graph.operator_graph import dtype_bytes
from keras_soap.simulator.layout import (
    BACKWARD,
    EDGE_BEFORE,
    EDGE_BLOCK_B,
    EDGE_BLOCK_F,
    EDGE_BYTES,
    EDGE_CONSUMER,
    EDGE_DIMENSIONS,
    EDGE_GRADIENT,
    EDGE_PRODUCER,
    EDGE_RANK,
    EDGE_REGION,
    FORWARD,
    GRADIENTS,
    MAX_RANK,
    NUM_EDGE,
    NUM_OP,
    OP_BACKWARD,
    OP_BLOCK_B,
    OP_BLOCK_F,
    OP_BLOCK_R,
    OP_BLOCK_S,
    OP_FIRST,
    OP_IN,
    OP_IN_END,
    OP_OUT,
    OP_OUT_END,
    OP_REPORT_BYTES,
    OP_SHARERS,
    OP_SHARERS_END,
    OP_WEIGHTS,
    REPORT,
    REPORTS,
    SYNC,
    TRANSFERS,
    Machine,
    Model,
)
from keras_soap.simulator.reductions import MAX_LINK_CLASSES
from keras_soap.tasks.build import REPORT_DEVICE
from keras_soap.tasks.lowering import Costs


def make_machine(costs: Costs) -> tuple[Machine, np.ndarray]:
    """The machine, and the links of its routes: what `State.ints` begins with."""
    topology = costs.topology
    count = topology.num_devices
    offsets = np.zeros(count * count + 1, np.int64)
    route_class = np.zeros(count * count, np.int32)
    classes: dict[tuple[int, float], int] = {}
    links: list[int] = []
    for source in range(count):
        for destination in range(count):
            at = source * count + destination
            if source != destination or topology.copies(source):
                links.extend(topology.held_by_transfer(source, destination))
                route = topology.route(source, destination)
                kind = (route.latency_ns, route.bandwidth_bytes_per_s)
                route_class[at] = classes.setdefault(kind, len(classes))
            offsets[at + 1] = len(links)
    speeds: dict[float, int] = {}
    link_class = np.zeros(count + len(topology.links), np.int32)
    for number, link in enumerate(topology.links):
        link_class[count + number] = speeds.setdefault(link.bandwidth_bytes_per_s, len(speeds))
    if any(device.pool for device in topology.devices):
        # What copies is held with the links, and never slower than they are.
        link_class[:count] = speeds.setdefault(math.inf, len(speeds))
    assert len(speeds) <= MAX_LINK_CLASSES, "more kinds of links than the kernel has room for"
    nodes: dict[int, int] = {}
    device_node = [nodes.setdefault(device.node, len(nodes)) for device in topology.devices]
    machine = Machine(
        count,
        count + len(topology.links),
        len(nodes),
        np.array(device_node, np.int64),
        offsets,
        route_class,
        np.array([latency for latency, _ in classes] or [0], np.int64),
        np.array([bandwidth for _, bandwidth in classes] or [1.0], np.float64),
        link_class,
        np.array(list(speeds) or [1.0], np.float64),
        np.array(costs.device_class, np.int64),
        np.array(topology.compute, np.int64),
        topology.capacity,
        count + len(topology.links) + np.cumsum(topology.capacity - 1) - (topology.capacity - 1),
        topology.alone_permille,
        np.array([device.memory_bytes for device in topology.devices], np.int64),
    )
    return machine, np.array(links, np.int32)


def make_model(costs: Costs, training: bool) -> Model:
    """The operators and edges, and the order of their blocks."""
    lowering = costs.lowering
    graph = lowering.graph
    backward = [training and has for has in graph.has_backward]
    weights = [training and has for has in graph.has_weight_gradients]
    op = np.zeros((len(graph.operators), NUM_OP), np.int64)
    edge = np.zeros((len(graph.edges), NUM_EDGE), np.int64)
    shape = np.zeros((len(graph.edges), MAX_RANK), np.int64)
    axis = np.zeros((len(graph.edges), MAX_RANK), np.int64)
    out_edges: list[int] = []
    sharers: list[int] = []
    for e in graph.edges:
        spec = graph.operators[e.consumer].input_specs[e.input]
        dimensions = lowering.dimensions[e.producer.operator]
        assert max(len(spec.shape), len(dimensions)) <= MAX_RANK, "a tensor of too many axes"
        earlier = [len(s.shape) for s in graph.operators[e.consumer].input_specs[: e.input]]
        edge[e.index, EDGE_PRODUCER] = e.producer.operator
        edge[e.index, EDGE_CONSUMER] = e.consumer
        edge[e.index, EDGE_RANK] = len(spec.shape)
        edge[e.index, EDGE_DIMENSIONS] = len(dimensions)
        edge[e.index, EDGE_BYTES] = dtype_bytes(spec.dtype)
        edge[e.index, EDGE_REGION] = sum(earlier)
        edge[e.index, EDGE_GRADIENT] = training and graph.sends_back[e.index]
        edge[e.index, EDGE_BEFORE] = graph.gradients_before[e.index]
        shape[e.index, : len(spec.shape)] = spec.shape
        for position, dimension in enumerate(dimensions):
            axis[e.index, position] = dimension.axes[e.producer.output]
    for n, operator in enumerate(graph.operators):
        into, out = graph.in_edges[n], graph.out_edges[n]
        op[n, OP_IN] = into[0].index if into else 0
        op[n, OP_IN_END] = into[-1].index + 1 if into else 0
        op[n, OP_OUT] = len(out_edges)
        out_edges += [e.index for e in out]
        op[n, OP_OUT_END] = len(out_edges)
        op[n, OP_BACKWARD] = backward[n]
        op[n, OP_WEIGHTS] = weights[n]
        op[n, OP_FIRST] = graph.sharers[n][0]
        op[n, OP_REPORT_BYTES] = operator.attributes.get("report_bytes", 0)
        op[n, OP_SHARERS] = len(sharers)
        sharers += [other for other in graph.sharers[n] if weights[other]]
        op[n, OP_SHARERS_END] = len(sharers)
    blocks: list[tuple[int, int]] = []

    def add(kind: int, owner: int) -> int:
        blocks.append((kind, owner))
        return len(blocks) - 1

    for n in range(len(graph.operators)):
        for e in graph.in_edges[n]:
            edge[e.index, EDGE_BLOCK_F] = add(TRANSFERS, e.index)
        op[n, OP_BLOCK_F] = add(FORWARD, n)
        op[n, OP_BLOCK_R] = add(REPORTS, n)
    report = -1
    if op[:, OP_REPORT_BYTES].any():
        report = add(REPORT, -1)
    for n in reversed(range(len(graph.operators))):
        op[n, OP_BLOCK_B] = add(BACKWARD, n)
        for e in graph.in_edges[n]:
            edge[e.index, EDGE_BLOCK_B] = add(GRADIENTS, e.index)
        op[n, OP_BLOCK_S] = add(SYNC, n)
    overhead_ns = costs.topology.devices[REPORT_DEVICE].task_overhead_ns
    return Model(
        op,
        edge,
        shape,
        axis,
        np.array(out_edges, np.int64),
        np.array(sharers, np.int64),
        np.array(blocks, np.int64),
        np.array([report, overhead_ns], np.int64),
        training,
    )
