"""Topologies as protos: nothing is lost, and mistakes are named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_soap.errors import TopologyError
from keras_soap.proto import device_topology_pb2 as pb
from keras_soap.topology import proto_io
from keras_soap.topology.device_topology import Connection, Device, DeviceTopology

positive = st.floats(1e-3, 1e18)


@st.composite
def topologies(draw):
    """Connected ones: every device and switch has a link to one before it."""
    switches = tuple(f"switch {n}" for n in range(draw(st.integers(1, 3))))
    devices = tuple(
        Device(
            f"device {number}",
            draw(st.sampled_from(["CPU", "GPU", "TPU"])),
            draw(st.text(max_size=5)),
            draw(st.integers(0, 3)),
            draw(st.integers(1, 2**50)),
            draw(positive),
            draw(positive),
            draw(st.integers(0, 10**9)),
            *draw(st.sampled_from([("", 1), ("cores", 3), ("chip", 1, 0.625)])),
        )
        for number in range(draw(st.integers(1, 5)))
    )
    ends = [*switches, *(device.name for device in devices)]
    connections = tuple(
        Connection(
            f"link {number}",
            (end, switches[draw(st.integers(0, min(number, len(switches) - 1)))]),
            draw(positive),
            draw(st.integers(0, 10**9)),
            draw(st.booleans()),
        )
        for number, end in enumerate(ends[1:])
    )
    return DeviceTopology("any", devices, connections, switches, draw(st.text(max_size=9)))


@given(topologies())
def test_nothing_is_lost_in_the_message(topology):
    assert proto_io.from_proto(proto_io.to_proto(topology)) == topology


@given(topology=topologies(), suffix=st.sampled_from(["textproto", "pb"]))
def test_nothing_is_lost_in_the_file(tmp_path_factory, topology, suffix):
    path = tmp_path_factory.getbasetemp() / f"any.{suffix}"
    proto_io.save(path, topology)
    assert proto_io.load(path) == topology


def message():
    topology = DeviceTopology(
        "two",
        (Device("GPU:0", "GPU"), Device("GPU:1", "GPU")),
        (Connection("a", ("GPU:0", "hub"), 1e9, 10), Connection("b", ("GPU:1", "hub"), 1e9, 10)),
        ("hub",),
    )
    return proto_io.to_proto(topology)


def pools(m, *sizes, share=0.0):
    for device, size in zip(m.devices, sizes, strict=True):
        device.pool, device.pool_size = "cores", size
    m.devices[0].pool_utilization = share


def spoilt(change):
    result = message()
    change(result)
    return result


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.ClearField("name"), "topology has no name"),
        (lambda m: m.ClearField("devices"), "has no devices"),
        (lambda m: m.devices[0].ClearField("name"), "A device has no name"),
        (lambda m: setattr(m.devices[1], "name", "GPU:0"), "two ends named 'GPU:0'"),
        (lambda m: setattr(m.devices[0], "kind", "gpu"), "kind 'gpu'. Use one of CPU, GPU, TPU"),
        (lambda m: m.devices[0].ClearField("memory_bytes"), "memory_bytes = 0"),
        (lambda m: m.devices[0].ClearField("peak_flops_per_s"), "peak_flops_per_s = 0"),
        (lambda m: setattr(m.devices[0], "node", -1), "node = -1"),
        (lambda m: setattr(m.devices[0], "pool_size", 2), "pool '' and pool_size = 2"),
        (lambda m: pools(m, 2, 3), "pool_size = 3, but another one of pool 'cores' has 2"),
        (lambda m: setattr(m.devices[0], "pool_utilization", 0.5), "without one exactly 1"),
        (lambda m: setattr(m.devices[0], "pool_utilization", -0.5), "pool_utilization = -0.5"),
        (lambda m: pools(m, 1, 1, share=0.5), "pool_utilization = 1.0, but another one of pool"),
        (lambda m: m.links[0].ClearField("duplex"), "no duplex. Say FULL_DUPLEX"),
        (lambda m: m.links[0].ClearField("name"), "link between GPU:0 and hub has no name"),
        (lambda m: setattr(m.links[1], "name", "a"), "Two links are named 'a'"),
        (lambda m: m.links[0].ends.append("x"), "Name two different devices"),
        (lambda m: m.links[0].ends.__setitem__(1, "hb"), "ends at 'hb', which is neither"),
        (lambda m: m.links[0].ClearField("bandwidth_bytes_per_s"), "Bandwidth must be positive"),
        (lambda m: m.links.pop(), "no way from 'GPU:0' to 'GPU:1'"),
    ],
)
def test_what_does_not_hold_together_is_refused(change, reason):
    with pytest.raises(TopologyError, match=reason):
        proto_io.from_proto(spoilt(change))


def test_errors_in_files_name_the_file(tmp_path):
    path = tmp_path / "mine.textproto"
    path.write_text('schema_version: 1 name: "x" devices { name: "GPU:0" kind: "gpu" }')
    with pytest.raises(TopologyError, match=r"mine\.textproto: Device 'GPU:0' has kind 'gpu'"):
        proto_io.load(path)


def test_the_message_has_all_fields_set():
    unset = {field.name for field in pb.DeviceTopology.DESCRIPTOR.fields} - {
        field.name for field, _ in message().ListFields()
    }
    assert unset == {"source"}  # which is empty here
