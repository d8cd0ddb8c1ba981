"""The machine that several clients are, joined from the topologies of each."""

import dataclasses

import numpy as np
import pytest

from keras_soap.runtime import measured_network
from keras_soap.runtime.cluster_topology import (
    NETWORK_BYTES_PER_S,
    NETWORK_LATENCY_NS,
    join,
    with_inside,
)
from keras_soap.topology.device_topology import Connection, Device, DeviceTopology

HOST = DeviceTopology(
    "local",
    (Device("CPU:0"), Device("CPU:1")),
    tuple(
        Connection(f"CPU:{n}-memory", (f"CPU:{n}", "memory"), 4e9, 1000, False) for n in range(2)
    ),
    ("memory",),
    "defaults",
)
ALONE = DeviceTopology("local", (Device("GPU:0", "GPU"),))


def test_devices_are_named_after_their_host_and_numbered_host_by_host():
    found = join([HOST, ALONE])
    assert [(d.name, d.node) for d in found.devices] == [
        ("node0/CPU:0", 0),
        ("node0/CPU:1", 0),
        ("node1/GPU:0", 1),
    ]


def test_transfers_inside_a_host_do_not_cross_the_network():
    found = join([HOST, HOST])
    names = [found.links[link].name for link in found.route(2, 3).links]
    assert names == ["node1/CPU:0-memory", "node1/CPU:1-memory"]
    assert found.route(2, 3).time_ns(4000) == HOST.route(0, 1).time_ns(4000)


def test_transfers_between_hosts_take_both_cards():
    found = join([HOST, ALONE])
    route = found.route(0, 2)
    assert route.latency_ns == 1000 + 2 * NETWORK_LATENCY_NS
    assert route.bandwidth_bytes_per_s == min(4e9, NETWORK_BYTES_PER_S)


def test_what_was_measured_inside_one_host_holds_for_all():
    measured = dataclasses.replace(
        HOST,
        devices=tuple(dataclasses.replace(d, task_overhead_ns=7) for d in HOST.devices),
        connections=tuple(dataclasses.replace(c, latency_ns=9) for c in HOST.connections),
        source="measured",
    )
    found = with_inside(join([HOST, HOST]), measured)
    assert {d.task_overhead_ns for d in found.devices} == {7}
    assert found.route(2, 3).latency_ns == 18
    assert found.route(0, 2).latency_ns == 18 + 2 * NETWORK_LATENCY_NS
    assert found.source == "measured"


def test_hosts_share_no_cores():
    shares = [dataclasses.replace(d, pool="cores", pool_size=2) for d in HOST.devices]
    measured = dataclasses.replace(HOST, devices=tuple(shares))
    for found in (join([measured, measured]), with_inside(join([HOST, HOST]), measured)):
        assert found.compute == (0, 0, 2, 2)
        assert found.capacity[:4].tolist() == [2] * 4


@pytest.mark.parametrize(("latency_ns", "bandwidth"), [(5e4, 1.2e9), (2e6, 3e7)])
def test_the_network_is_fitted_to_its_times(latency_ns, bandwidth):
    sizes = measured_network.SIZES_BYTES
    times = [round(latency_ns + 1e9 * size / bandwidth) for size in sizes]
    found = measured_network.fit(sizes, times)
    np.testing.assert_allclose(found, (latency_ns, bandwidth), rtol=0.15)
