"""Topologies, operator graphs and cost profiles as text for people."""

import dataclasses
import itertools
from collections import Counter

from keras_soap.costs.cost_table import CostTable
from keras_soap.costs.roofline import Roofline
from keras_soap.graph.operator_graph import OperatorGraph, TensorSpec
from keras_soap.report import table
from keras_soap.topology.device_topology import Device, DeviceTopology


def describe_topology(topology: DeviceTopology) -> str:
    """Devices (alike ones together), what connects them, and how far apart they are."""
    devices = []
    for _, group in itertools.groupby(topology.devices, _but_names):
        alike = list(group)
        first = alike[0]
        devices.append(
            [
                str(len(alike)),
                first.name if len(alike) == 1 else f"{first.name} … {alike[-1].name}",
                first.model or first.kind,
                table.size(first.memory_bytes),
                table.rate(first.peak_flops_per_s, "flop"),
                table.rate(first.memory_bandwidth_bytes_per_s, "B"),
                f"{table.microseconds(first.task_overhead_ns)} µs",
            ]
        )
    headers = ["count", "devices", "model", "memory", "peak", "memory bandwidth", "task overhead"]
    counts = (
        _count(topology.num_devices, "device"),
        _count(len({device.node for device in topology.devices}), "node"),
        _count(len(topology.switches), "switch", "switches"),
        _count(len(topology.connections), "link"),
    )
    lines = [
        f"Topology {topology.name}: {', '.join(counts)}",
        f"Source: {topology.source}",
        "",
        table.render(headers, devices, [headers[0], *headers[3:]]),
    ]
    if topology.connections:
        lines += ["", _links(topology)]
    if topology.num_devices > 1:
        lines += ["", _routes(topology)]
    return "\n".join(lines)


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _but_names(device: Device) -> Device:
    return dataclasses.replace(device, name="", node=0)


def _links(topology: DeviceTopology) -> str:
    counts = Counter(
        (c.bandwidth_bytes_per_s, c.latency_ns, c.full_duplex) for c in topology.connections
    )
    examples = {}
    for c in topology.connections:
        key = (c.bandwidth_bytes_per_s, c.latency_ns, c.full_duplex)
        examples.setdefault(key, f"{c.ends[0]} – {c.ends[1]}")
    rows = [
        [
            str(count),
            examples[key],
            table.rate(key[0], "B"),
            f"{table.microseconds(key[1])} µs",
            "each way" if key[2] else "shared",
        ]
        for key, count in counts.items()
    ]
    headers = ["count", "links such as", "bandwidth", "latency", "direction"]
    return table.render(headers, rows, [headers[0], *headers[2:4]])


def _routes(topology: DeviceTopology) -> str:
    """Kinds of routes between two devices, fastest first."""
    examples: dict[tuple[int, float], list] = {}
    for a, b in itertools.combinations(range(topology.num_devices), 2):
        route = topology.route(a, b)
        key = (route.latency_ns, route.bandwidth_bytes_per_s)
        names = f"{topology.devices[a].name} → {topology.devices[b].name}"
        examples.setdefault(key, [0, names, len(route.links)])[0] += 1
    rows = [
        [
            str(examples[key][0]),
            examples[key][1],
            str(examples[key][2]),
            table.rate(key[1], "B"),
            f"{table.microseconds(key[0])} µs",
        ]
        for key in sorted(examples)
    ]
    headers = ["pairs", "routes such as", "links", "bandwidth", "latency"]
    return table.render(headers, rows, [headers[0], *headers[2:]])


def describe_graph(graph: OperatorGraph) -> str:
    """Operators with their shapes and weights."""
    rows = []
    for operator in graph.operators:
        rows.append(
            [
                operator.name,
                operator.kind,
                ", ".join(graph.operators[ref.operator].name for ref in operator.inputs),
                ", ".join(_spec(spec) for spec in operator.output_specs if not spec.is_space),
                table.size(sum(weight.num_bytes for weight in operator.weight_specs)),
            ]
        )
    headers = ["operator", "kind", "reads", "makes", "weights"]
    total = sum(weight.num_bytes for weight in graph.weights)
    return "\n".join(
        [
            f"Model {graph.name}, batch size {graph.batch_size}: {len(graph.operators)} operators, "
            f"{len(graph.weights)} weights ({table.size(total)})",
            "",
            table.render(headers, rows, headers[4:]),
        ]
    )


def _spec(spec: TensorSpec) -> str:
    return f"{spec.dtype}[{', '.join(map(str, spec.shape))}]"


def describe_profile(profile: Roofline | CostTable) -> str:
    """Fractions of the roofline, and the listed times."""
    roofline = profile if isinstance(profile, Roofline) else profile.roofline
    model = "any device" if isinstance(profile, Roofline) else profile.device_model
    lines = [
        f"Cost profile for {model} ({profile.source})",
        f"Roofline: {roofline.peak_fraction:.0%} of peak flop/s, "
        f"{roofline.bandwidth_fraction:.0%} of memory bandwidth (analytic)",
    ]
    if isinstance(profile, Roofline) or not profile.entries:
        return "\n".join(lines)
    rows = [
        [
            key,
            table.microseconds(time.forward_ns),
            table.microseconds(time.backward_ns),
            table.microseconds(time.weight_gradient_ns),
            f"{time.relative_spread:.1%}",
            str(time.num_runs),
        ]
        for key, time in sorted(profile.entries.items())
    ]
    headers = ["part", "forward µs", "backward µs", "weights µs", "spread", "runs"]
    return "\n".join([*lines, "", table.render(headers, rows, headers[1:])])
