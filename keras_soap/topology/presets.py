"""Clusters of any size, made by rule: for studies of scale, where no file lists the machines."""

import dataclasses
import itertools

from keras_soap.topology.device_topology import Connection, Device, DeviceTopology

P100 = Device("", "GPU", "P100", 0, 16 * 2**30, 10.6e12, 732e9, 10_000)
"""NVIDIA Tesla P100 data sheet (2016): NVLink version."""


def cluster(
    name: str,
    num_nodes: int,
    devices_per_node: int,
    device: Device = P100,
    intra_bandwidth_bytes_per_s: float = 20e9,
    intra_latency_ns: int = 2_000,
    inter_bandwidth_bytes_per_s: float = 12.5e9,
    inter_latency_ns: int = 2_500,
    mesh: bool = True,
) -> DeviceTopology:
    """Equal nodes, each with one network card on a common switch.

    Args:
        name: Of the topology.
        num_nodes: How many hosts.
        devices_per_node: How many devices each has.
        device: What they are; names and nodes are filled in.
        intra_bandwidth_bytes_per_s: Of a link between two devices of a node, or between a device
            and its switch, each way.
        intra_latency_ns: Of that link.
        inter_bandwidth_bytes_per_s: Of the network card, each way. By default 100 Gb/s.
        inter_latency_ns: From the node to the common switch.
        mesh: Whether devices of a node have links between each two (NVLink), beside those to the
            node's switch; else they share one PCIe switch.
    """
    devices, connections, switches = [], [], []
    for node in range(num_nodes):
        names = [f"GPU:{node * devices_per_node + i}" for i in range(devices_per_node)]
        devices += [dataclasses.replace(device, name=name, node=node) for name in names]
        if mesh:
            connections += [
                Connection(f"nvlink {a} {b}", (a, b), intra_bandwidth_bytes_per_s, intra_latency_ns)
                for a, b in itertools.combinations(names, 2)
            ]
        if not mesh or num_nodes > 1:
            switch = f"switch {node}"
            switches.append(switch)
            bandwidth = inter_bandwidth_bytes_per_s if mesh else intra_bandwidth_bytes_per_s
            connections += [
                Connection(f"port {a}", (a, switch), bandwidth, intra_latency_ns) for a in names
            ]
            if num_nodes > 1:
                connections.append(
                    Connection(
                        f"network {node}",
                        (switch, "network"),
                        inter_bandwidth_bytes_per_s,
                        inter_latency_ns,
                    )
                )
    if num_nodes > 1:
        switches.append("network")
    return DeviceTopology(name, tuple(devices), tuple(connections), tuple(switches), "made by rule")


def scaled_cluster(num_devices: int) -> DeviceTopology:
    """P100s: up to 4 in one node, up to 64 in nodes of 4, beyond in nodes of 8."""
    per_node = min(4, num_devices) if num_devices <= 64 else 8
    assert num_devices % per_node == 0
    return cluster(f"p100x{num_devices}", num_devices // per_node, per_node)
