"""The machine that all clients are together: the topology of each, joined by a network.

1. Device `GPU:0` of client 1 is `node1/GPU:0`, as in the presets; so is a strategy or a topology
   file of a cluster good for this process, whichever client it is.
2. Each client describes its own devices (`topology.local`); they are exchanged once, when the
   cluster starts.
3. Bandwidth and latency of the network are assumed; `measured_network` measures them, and a
   topology file says what its writer knows.
"""

import dataclasses
import functools
from collections.abc import Sequence

from google.protobuf import text_format

from keras_soap.errors import TopologyError
from keras_soap.proto import device_topology_pb2 as pb
from keras_soap.runtime import cluster
from keras_soap.runtime.exchange import full_name
from keras_soap.topology import local, proto_io
from keras_soap.topology.device_topology import Connection, Device, DeviceTopology

CARD = "card"
"""The connection of a host with the network, after `node0/`."""

NETWORK_BYTES_PER_S = 1.25e9
"""Of one client's network card, each way: 10 Gb/s Ethernet. Assumed."""

NETWORK_LATENCY_NS = 250_000
"""Of one client's half of the way to another. Small tensors took 0.5 to 0.7 ms between two
processes on the loopback interface of one machine, by TensorFlow's collective operations."""


def resolve(topology: str) -> DeviceTopology:
    """What `"local"`, or `"local:n"`, means: all devices of all clients, or the first of them."""
    from keras_soap.topology.resolve import resolve as resolve_alone

    if cluster.current() is None:
        return resolve_alone(topology)
    found = everyone()
    _, colon, count = topology.partition(":")
    if colon and not count.isdecimal():
        raise TopologyError(f"Cannot tell how many devices {topology!r} asks for.")
    return found.subset(int(count)) if colon else found


@functools.cache
def everyone() -> DeviceTopology:
    """The devices of all clients, joined by a network."""
    ours = cluster.current()
    assert ours is not None
    texts = ours.meet("devices", to_text(local.local_topology()))
    return join([from_text(text) for text in texts])


def to_text(topology: DeviceTopology) -> str:
    """A topology, to be handed to other clients."""
    return text_format.MessageToString(proto_io.to_proto(topology))


def from_text(text: str) -> DeviceTopology:
    """The topology that another client has handed out."""
    return proto_io.from_proto(text_format.Parse(text, pb.DeviceTopology()))


def join(nodes: Sequence[DeviceTopology]) -> DeviceTopology:
    """One topology of several hosts, whose cards meet in one switch.

    Args:
        nodes: Of each host; of several devices that meet in one switch, or of one device.
    """
    devices, connections, switches = [], [], ["network"]
    for number, node in enumerate(nodes):
        prefix = f"node{number}/"
        devices += [
            dataclasses.replace(
                device,
                name=prefix + device.name,
                node=number,
                pool=device.pool and prefix + device.pool,
            )
            for device in node.devices
        ]
        switches += [prefix + name for name in node.switches]
        connections += [
            dataclasses.replace(
                connection,
                name=prefix + connection.name,
                ends=(prefix + connection.ends[0], prefix + connection.ends[1]),
            )
            for connection in node.connections
        ]
        inside = node.switches[0] if node.switches else node.devices[0].name
        connections.append(
            Connection(
                prefix + CARD,
                (prefix + inside, "network"),
                NETWORK_BYTES_PER_S,
                NETWORK_LATENCY_NS,
            )
        )
    return DeviceTopology(
        "local", tuple(devices), tuple(connections), tuple(switches), nodes[0].source
    )


def with_inside(topology: DeviceTopology, measured: DeviceTopology) -> DeviceTopology:
    """The topology of all clients, whose hosts are inside like one that was measured.

    Args:
        topology: Of all clients.
        measured: Of one of them; the others are taken to be alike where names are.
    """
    devices = {device.name: device for device in measured.devices}
    inside = {connection.name: connection for connection in measured.connections}
    return dataclasses.replace(
        topology,
        devices=tuple(
            _as_measured(device, devices.get(device.name.partition("/")[2]))
            for device in topology.devices
        ),
        connections=tuple(
            dataclasses.replace(
                connection,
                bandwidth_bytes_per_s=inside[name].bandwidth_bytes_per_s,
                latency_ns=inside[name].latency_ns,
            )
            if (name := connection.name.partition("/")[2]) in inside
            else connection
            for connection in topology.connections
        ),
        source=f"{measured.source}; {topology.source.partition('; ')[2]}".rstrip("; "),
    )


def tensorflow_names(topology: DeviceTopology) -> list[str]:
    """TensorFlow's full names of the devices, each of which some client has."""
    if cluster.current() is None:
        local.check_present(topology)
        return [full_name(device.name) for device in topology.devices]
    present = {device.name for device in everyone().devices}
    for device in topology.devices:
        if device.name not in present:
            raise TopologyError(
                f"Topology {topology.name!r} has device {device.name!r}, which no client has. "
                f"There are: {', '.join(sorted(present))}. Use topology='local', or name devices "
                "node0/GPU:0 after the clients' numbers."
            )
    names = []
    for device in topology.devices:
        node, _, name = device.name.partition("/")
        names.append(full_name(name, int(node.removeprefix("node"))))
    return names


def _as_measured(device: Device, measured: Device | None) -> Device:
    """A device of a client, like one of the same name that was measured, if one was."""
    if measured is None:
        return device
    prefix = device.name.partition("/")[0] + "/"
    return dataclasses.replace(
        measured,
        name=device.name,
        node=device.node,
        memory_bytes=device.memory_bytes,
        pool=measured.pool and prefix + measured.pool,
    )
