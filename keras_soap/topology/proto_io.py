"""Topologies to and from `protos/device_topology.proto`."""

import os

from keras_soap.errors import TopologyError
from keras_soap.proto import device_topology_pb2 as pb
from keras_soap.proto import files
from keras_soap.topology.device_topology import Connection, Device, DeviceTopology

_KINDS = ("CPU", "GPU", "TPU")


def load(path: str | os.PathLike[str]) -> DeviceTopology:
    """The topology in a file: text, or binary if its name ends in `.pb`.

    Raises:
        TopologyError: Where the file cannot be read or its machine does not hold together.
    """
    message = files.read(path, pb.DeviceTopology, TopologyError)
    try:
        return from_proto(message)
    except TopologyError as error:
        raise TopologyError(f"{path}: {error}") from error


def save(path: str | os.PathLike[str], topology: DeviceTopology) -> None:
    """Writes a topology to a file: text, or binary if its name ends in `.pb`."""
    files.write(path, to_proto(topology))


def to_proto(topology: DeviceTopology) -> pb.DeviceTopology:
    """The message that says the same as `topology`."""
    return pb.DeviceTopology(
        schema_version=files.SCHEMA_VERSION,
        name=topology.name,
        source=topology.source,
        devices=[
            pb.Device(
                name=device.name,
                kind=device.kind,
                model=device.model,
                node=device.node,
                memory_bytes=device.memory_bytes,
                peak_flops_per_s=device.peak_flops_per_s,
                memory_bandwidth_bytes_per_s=device.memory_bandwidth_bytes_per_s,
                task_overhead_ns=device.task_overhead_ns,
                pool=device.pool,
                pool_size=device.pool_size if device.pool else 0,
                pool_utilization=device.pool_utilization if device.pool_utilization < 1 else 0,
            )
            for device in topology.devices
        ],
        switches=[pb.Switch(name=name) for name in topology.switches],
        links=[
            pb.Link(
                name=connection.name,
                ends=connection.ends,
                bandwidth_bytes_per_s=connection.bandwidth_bytes_per_s,
                latency_ns=connection.latency_ns,
                duplex=pb.Link.FULL_DUPLEX if connection.full_duplex else pb.Link.SHARED,
            )
            for connection in topology.connections
        ],
    )


def from_proto(message: pb.DeviceTopology) -> DeviceTopology:
    """The topology that `message` says.

    Raises:
        TopologyError: Where something is left out, or devices cannot reach each other.
    """
    if not message.name:
        raise TopologyError("The topology has no name. Give it one.")
    links: set[str] = set()
    for link in message.links:
        if link.name in links:
            raise TopologyError(f"Two links are named {link.name!r}. Names must be unique.")
        links.add(link.name)
    topology = DeviceTopology(
        message.name,
        tuple(_device(device) for device in message.devices),
        tuple(_connection(link) for link in message.links),
        tuple(switch.name for switch in message.switches),
        message.source,
    )
    # Connections go both ways, so what the first device reaches reaches the first device.
    for device in range(1, topology.num_devices):
        topology.route(0, device)
    return topology


def _device(message: pb.Device) -> Device:
    if not message.name:
        raise TopologyError("A device has no name. Give each a unique one, such as 'GPU:0'.")
    if message.kind not in _KINDS:
        raise TopologyError(
            f"Device {message.name!r} has kind {message.kind!r}. Use one of {', '.join(_KINDS)}."
        )
    if message.node < 0 or message.task_overhead_ns < 0:
        raise TopologyError(
            f"Device {message.name!r} has node = {message.node} and task_overhead_ns = "
            f"{message.task_overhead_ns}. Neither can be negative."
        )
    return Device(
        name=message.name,
        kind=message.kind,
        model=message.model,
        node=message.node,
        memory_bytes=message.memory_bytes,
        peak_flops_per_s=message.peak_flops_per_s,
        memory_bandwidth_bytes_per_s=message.memory_bandwidth_bytes_per_s,
        task_overhead_ns=message.task_overhead_ns,
        pool=message.pool,
        pool_size=message.pool_size or 1,
        pool_utilization=message.pool_utilization or 1.0,
    )


def _connection(message: pb.Link) -> Connection:
    if not message.name:
        raise TopologyError(
            f"The link between {' and '.join(message.ends) or 'nothing'} has no name. Give it one."
        )
    if len(message.ends) != 2 or message.ends[0] == message.ends[1]:
        raise TopologyError(
            f"Link {message.name!r} has ends = {list(message.ends)}. Name two different devices or "
            "switches; for a bus with more ends, link each of them to one switch."
        )
    if message.duplex == pb.Link.DUPLEX_UNSPECIFIED:
        raise TopologyError(
            f"Link {message.name!r} has no duplex. Say FULL_DUPLEX if each direction has the whole "
            "bandwidth, SHARED if they share it."
        )
    return Connection(
        message.name,
        (message.ends[0], message.ends[1]),
        message.bandwidth_bytes_per_s,
        message.latency_ns,
        message.duplex == pb.Link.FULL_DUPLEX,
    )
