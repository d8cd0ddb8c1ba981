"""How long transfers take between devices that share memory, and between others."""

import dataclasses

from keras_soap.topology.device_topology import Connection, Device, DeviceTopology

APART = DeviceTopology(
    "two", (Device("a"), Device("b")), (Connection("link", ("a", "b"), 1e9, 50, False),)
)
SHARED = dataclasses.replace(
    APART, devices=tuple(dataclasses.replace(d, pool="cores") for d in APART.devices)
)


def test_devices_of_a_pool_hand_over_what_moves_whole():
    assert SHARED.transfer_time_ns(0, 1, 4000, copied_bytes=0) == 50
    assert SHARED.transfer_time_ns(0, 1, 4000, copied_bytes=4000) == 50 + 4000
    assert SHARED.transfer_time_ns(0, 1, 4000) == 50 + 8000


def test_on_a_device_of_a_pool_cutting_and_joining_takes_as_long_as_between_two():
    assert [SHARED.copies(device) for device in (0, 1)] == [True, True]
    for copied in (0, 4000, 10_000):
        between = SHARED.transfer_time_ns(0, 1, 4000, copied)
        assert SHARED.transfer_time_ns(1, 1, 4000, copied) == between
    assert SHARED.held_by_transfer(0, 1) == [2, 0]
    assert SHARED.held_by_transfer(1, 1) == [0]


def test_a_device_with_cores_of_its_own_cuts_and_joins_in_no_time():
    assert not any(APART.copies(device) for device in (0, 1))
    alone = dataclasses.replace(SHARED, devices=(SHARED.devices[0], APART.devices[1]))
    assert not any(alone.copies(device) for device in (0, 1))


def test_other_devices_move_all_bytes_however_they_are_cut():
    times = {APART.transfer_time_ns(0, 1, 4000, copied) for copied in (0, 4000)}
    assert times == {50 + 4000}
