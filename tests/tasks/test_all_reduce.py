"""Rounds are executed on arrays, and their cost is worked out by hand."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keras_soap.tasks import all_reduce
from keras_soap.topology.device_topology import Connection, Device, DeviceTopology

ranks = st.integers(1, 8)
sizes = st.integers(0, 40)
LARGE = 8 * 1024
"""Bytes of an element that send even few elements around the ring."""


def execute(values: np.ndarray, element_bytes: int) -> tuple[np.ndarray, dict]:
    """What each rank has at the end, and what moved, by pair. A round reads before it writes."""
    num_ranks, num_elements = values.shape
    held, moved = values.copy(), {}
    of_reduction = all_reduce.rounds(num_ranks, num_elements, element_bytes)
    direct = all_reduce.is_direct(num_ranks, num_elements * element_bytes)
    for number, moves in enumerate(of_reduction):
        sent = [held[move.source, move.start : move.stop].copy() for move in moves]
        for move, payload in zip(moves, sent, strict=True):
            assert move.source != move.destination
            into = held[move.destination, move.start : move.stop]
            if direct or number < num_ranks - 1:
                into += payload
            else:
                into[:] = payload
            pair = move.source, move.destination
            moved[pair] = moved.get(pair, 0) + payload.size * element_bytes
    return held, moved


@given(ranks, sizes, st.sampled_from([1, 4, LARGE]))
@example(8, 3, LARGE)
def test_every_member_ends_with_the_sum(num_ranks, num_elements, element_bytes):
    values = np.random.default_rng(0).integers(-100, 100, (num_ranks, num_elements))
    held, _ = execute(values, element_bytes)
    np.testing.assert_array_equal(held, np.tile(values.sum(axis=0), (num_ranks, 1)))


@given(ranks, sizes, st.sampled_from([1, 4, LARGE]))
def test_bytes_counted_are_bytes_moved(num_ranks, num_elements, element_bytes):
    _, moved = execute(np.zeros((num_ranks, num_elements), np.int64), element_bytes)
    assert all_reduce.pair_bytes(num_ranks, num_elements, element_bytes) == moved
    if num_ranks > 1:
        cost = all_reduce.cost(bus(num_ranks), range(num_ranks), num_elements, element_bytes)
        assert cost.num_bytes == sum(moved.values())


@given(ranks, sizes)
def test_chunks_tile_the_value_evenly(num_ranks, num_elements):
    chunks = [all_reduce.chunk(rank, num_ranks, num_elements) for rank in range(num_ranks)]
    covered = [element for start, stop in chunks for element in range(start, stop)]
    assert covered == list(range(num_elements))
    lengths = [stop - start for start, stop in chunks]
    assert max(lengths) - min(lengths) <= 1


@given(st.integers(2, 8), st.integers(1, 40))
def test_a_ring_only_sends_to_the_next_rank(num_ranks, num_elements):
    of_reduction = all_reduce.rounds(num_ranks, num_elements, 128 * 1024)
    assert len(of_reduction) == 2 * (num_ranks - 1)
    for moves in of_reduction:
        assert all(move.destination == (move.source + 1) % num_ranks for move in moves)
        assert sum(move.stop - move.start for move in moves) == num_elements


def test_values_go_directly_up_to_the_limit_and_around_the_ring_beyond():
    limit = all_reduce.DIRECT_BYTES
    assert len(all_reduce.rounds(3, limit // 2, 1)) == 1
    assert len(all_reduce.rounds(3, limit // 2 + 1, 1)) == 4


def test_one_device_has_nothing_to_reduce():
    assert all_reduce.rounds(1, 10**9, 4) == []


def bus(num_devices: int) -> DeviceTopology:
    """One shared bus of 1 GB/s (a byte each nanosecond), and 10 ns to the bus and from it."""
    names = [f"d{i}" for i in range(num_devices)]
    ports = [Connection(f"port {name}", (name, "bus"), 1e9, 10, False) for name in names]
    return DeviceTopology("bus", tuple(map(Device, names)), tuple(ports), ("bus",))


def ring(num_devices: int) -> DeviceTopology:
    """Full-duplex links of 2 GB/s and 7 ns from each device to the next."""
    names = [f"d{i}" for i in range(num_devices)]
    links = [
        Connection(f"link {i}", (name, names[(i + 1) % num_devices]), 2e9, 7)
        for i, name in enumerate(names)
    ]
    return DeviceTopology("ring", tuple(map(Device, names)), tuple(links))


def test_direct_cost_is_one_latency_and_the_busiest_port():
    # Each port carries two values out and two in, 400 bytes each.
    cost = all_reduce.cost(bus(3), (0, 1, 2), 100, 4)
    assert cost == all_reduce.Collective(20 + 4 * 400, (0, 1, 2), 6 * 400)


def test_ring_cost_is_two_rounds_less_two_of_the_largest_chunk():
    # 100,001 elements make chunks of 25,001 at most: 100,004 bytes at 2 bytes each nanosecond.
    cost = all_reduce.cost(ring(4), (0, 1, 2, 3), 100_001, 4)
    assert cost.time_ns == 6 * (7 + 50_002)
    assert cost.links == (0, 2, 4, 6)
    assert cost.num_bytes == 6 * 400_004


def test_a_ring_over_some_devices_goes_through_those_between():
    # 0 → 2 and 2 → 0 are both two links away; in each round each of those carries one chunk.
    cost = all_reduce.cost(ring(4), (0, 2), 100_000, 4)
    assert cost.time_ns == 2 * (14 + 100_000)
    assert len(cost.links) == 4


@pytest.mark.parametrize("rows", [10, 10_000])
def test_gathering_is_direct_at_any_size(rows):
    cost = all_reduce.cost(ring(2), (0, 1), rows, 36, gathers=True)
    assert cost.time_ns == 7 + rows * 36 // 2
    assert cost.num_bytes == 2 * rows * 36
