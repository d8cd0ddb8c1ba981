"""Rounds are executed on arrays, and their cost is worked out by hand."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keras_soap.tasks import all_reduce
from keras_soap.topology.device_topology import Connection, Device, DeviceTopology
from keras_soap.topology.presets import k80, p100

ranks = st.integers(1, 8)
sizes = st.integers(0, 40)
nodes = st.lists(st.integers(0, 3), min_size=1, max_size=8)
"""The node of each device; devices of a node need not follow each other."""
LARGE = 8 * 1024
"""Bytes of an element that send even few elements around the ring."""


def bus(of_nodes: list[int], network_ns: int = 10) -> DeviceTopology:
    """One shared port of 1 GB/s (a byte each nanosecond) and 10 ns for each device, to its node.

    Nodes have such a port to the network. `of_nodes` has the node of each device.
    """
    devices = tuple(Device(f"d{i}", node=node) for i, node in enumerate(of_nodes))
    ports = [Connection(f"port {d.name}", (d.name, f"n{d.node}"), 1e9, 10, False) for d in devices]
    switches = [f"n{node}" for node in dict.fromkeys(of_nodes)]
    if len(switches) > 1:
        ports += [Connection(f"card {n}", (n, "net"), 1e9, network_ns, False) for n in switches]
        switches.append("net")
    return DeviceTopology("bus", devices, tuple(ports), tuple(switches))


def ring(num_devices: int) -> DeviceTopology:
    """Full-duplex links of 2 GB/s and 7 ns from each device to the next."""
    names = [f"d{i}" for i in range(num_devices)]
    links = [
        Connection(f"link {i}", (name, names[(i + 1) % num_devices]), 2e9, 7)
        for i, name in enumerate(names)
    ]
    return DeviceTopology("ring", tuple(map(Device, names)), tuple(links))


def planned(
    of_nodes: list[int], num_elements: int, element_bytes: int, gathers: bool = False
) -> all_reduce.Plan:
    """The plan over all devices; latencies of 0.1 ms favour few messages between nodes."""
    topology = bus(of_nodes, 100_000)
    return all_reduce.plan(topology, range(len(of_nodes)), num_elements, element_bytes, gathers)


def execute(plan: all_reduce.Plan, values: np.ndarray) -> tuple[np.ndarray, dict]:
    """What each rank has at the end, and what moved, by pair. A round reads before it writes."""
    held, moved = values.copy(), {}
    for each in plan.rounds():
        sent = [held[move.source, move.start : move.stop].copy() for move in each.moves]
        for move, payload in zip(each.moves, sent, strict=True):
            assert move.source != move.destination
            assert move.stop > move.start
            into = held[move.destination, move.start : move.stop]
            into[:] = into + payload if each.adds else payload
            pair = move.source, move.destination
            moved[pair] = moved.get(pair, 0) + payload.size * plan.element_bytes
    return held, moved


@given(nodes, sizes, st.sampled_from([1, 4, LARGE]))
@example([0] * 8, 3, LARGE)
@example([0, 0, 0, 1, 1, 2], 7, LARGE)
@example([0, 1, 0, 1], 2, LARGE)
def test_every_member_ends_with_the_sum(of_nodes, num_elements, element_bytes):
    plan = planned(of_nodes, num_elements, element_bytes)
    values = np.random.default_rng(0).integers(-100, 100, (len(of_nodes), num_elements))
    held, moved = execute(plan, values)
    np.testing.assert_array_equal(held, np.tile(values.sum(axis=0), (len(of_nodes), 1)))
    assert plan.pair_bytes() == moved
    assert plan.num_bytes == sum(moved.values())


@given(nodes, st.integers(1, 5), st.sampled_from([1, LARGE]))
@example([0, 0, 0, 1, 1, 2], 2, LARGE)
def test_a_gather_brings_every_value_to_every_member_once(of_nodes, num_rows, row_bytes):
    plan = planned(of_nodes, num_rows, row_bytes, gathers=True)
    count = len(of_nodes)
    values = np.zeros((count, count * num_rows), np.int64)
    for rank in range(count):
        values[rank, rank * num_rows : (rank + 1) * num_rows] = rank + 1
    held, moved = execute(plan, values)
    np.testing.assert_array_equal(held, np.tile(values.sum(axis=0), (count, 1)))
    assert plan.pair_bytes() == moved
    assert plan.num_bytes == count * (count - 1) * num_rows * row_bytes


@given(ranks, sizes)
def test_chunks_tile_the_value_evenly(num_ranks, num_elements):
    chunks = [all_reduce.chunk(rank, num_ranks, num_elements) for rank in range(num_ranks)]
    covered = [element for start, stop in chunks for element in range(start, stop)]
    assert covered == list(range(num_elements))
    lengths = [stop - start for start, stop in chunks]
    assert max(lengths) - min(lengths) <= 1


@given(st.integers(2, 8), st.integers(1, 40))
def test_a_ring_only_sends_to_the_next_rank(num_ranks, num_elements):
    of_reduction = list(planned([0] * num_ranks, num_elements, 128 * 1024).rounds())
    assert len(of_reduction) == 2 * (num_ranks - 1)
    for each in of_reduction:
        assert all(move.destination == (move.source + 1) % num_ranks for move in each.moves)
        assert sum(move.stop - move.start for move in each.moves) == num_elements


@pytest.mark.parametrize("of_nodes", [[0, 0, 0], [0, 1, 2]])
def test_values_go_directly_up_to_the_limit_and_around_the_ring_beyond(of_nodes):
    limit = all_reduce.DIRECT_BYTES
    assert len(list(planned(of_nodes, limit // 2, 1).rounds())) == 1
    assert len(list(planned(of_nodes, limit // 2 + 1, 1).rounds())) == 4


def test_one_device_has_nothing_to_reduce():
    plan = planned([0], 10**9, 4)
    assert list(plan.rounds()) == []
    assert (plan.time_ns, plan.links, plan.num_bytes) == (0, (), 0)


def crossing(plan: all_reduce.Plan, of_nodes: list[int]) -> int:
    """Bytes that go from one node to another."""
    return sum(
        size for pair, size in plan.pair_bytes().items() if len({of_nodes[r] for r in pair}) > 1
    )


@pytest.mark.parametrize("of_nodes", [[0, 0, 1, 1], [0, 0, 0, 1], [0, 1, 1, 0, 2, 0]])
@pytest.mark.parametrize("num_bytes", [24_000, 90_000])
def test_by_node_as_much_crosses_as_if_nodes_were_devices(of_nodes, num_bytes):
    plan = planned(of_nodes, num_bytes, 1)
    assert len(plan.phases) == 3
    assert crossing(plan, of_nodes) == planned(sorted(set(of_nodes)), num_bytes, 1).num_bytes


def test_rows_go_to_each_other_node_once():
    of_nodes = [0, 0, 0, 1, 1]
    plan = planned(of_nodes, 10**6, 1, gathers=True)
    assert crossing(plan, of_nodes) == 5 * 10**6
    # Device 0 and 2 send to device 3, which comes first and third of them, and 1 to 4.
    pairs = {p for p in plan.pair_bytes() if p[0] < 3 <= p[1]}
    assert pairs == {(0, 3), (1, 4), (2, 3)}


def test_direct_cost_is_one_latency_and_the_busiest_port():
    # Each port carries two values out and two in, 400 bytes each.
    plan = all_reduce.plan(bus([0] * 3), (0, 1, 2), 100, 4)
    assert (plan.time_ns, plan.links, plan.num_bytes) == (20 + 4 * 400, (0, 1, 2), 6 * 400)


def test_ring_cost_is_two_rounds_less_two_of_the_largest_chunk():
    # 100,001 elements make chunks of 25,001 at most: 100,004 bytes at 2 bytes each nanosecond.
    plan = all_reduce.plan(ring(4), (0, 1, 2, 3), 100_001, 4)
    assert plan.time_ns == 6 * (7 + 50_002)
    assert plan.links == (0, 2, 4, 6)
    assert plan.num_bytes == 6 * 400_004


def test_a_ring_over_some_devices_goes_through_those_between():
    # 0 → 2 and 2 → 0 are both two links away; in each round each of those carries one chunk.
    plan = all_reduce.plan(ring(4), (0, 2), 100_000, 4)
    assert plan.time_ns == 2 * (14 + 100_000)
    assert len(plan.links) == 4


@pytest.mark.parametrize("rows", [10, 10_000])
def test_gathering_is_direct_at_any_size(rows):
    plan = all_reduce.plan(ring(2), (0, 1), rows, 36, gathers=True)
    assert plan.time_ns == 7 + rows * 36 // 2
    assert plan.num_bytes == 2 * rows * 36


def test_cost_by_node_counts_what_shared_cards_carry():
    # 2 nodes of 2 P100. NVLink: 20 bytes each nanosecond, 3,400 ns; card: 12.5, 9,600 ns.
    # Half of 400,000 bytes goes to the owner in the node. Then two rings of two turn, in rounds
    # of a quarter each way, so that each card carries two quarters each way. Then it goes back.
    plan = all_reduce.plan(p100(2), (0, 1, 4, 5), 10**5, 4)
    inside_ns = 3_400 + 200_000 // 20
    across_ns = 2 * (9_600 + 200_000 * 10 // 125)
    assert plan.time_ns == 2 * inside_ns + across_ns
    assert plan.num_bytes == 2 * 3 * 400_000


@pytest.mark.parametrize("machine", [p100(4), k80(4)])
@pytest.mark.parametrize("num_bytes", [4, 4096, 2**18, 2**22, 2**26])
def test_knowing_nodes_never_makes_a_reduction_slower(machine, num_bytes):
    alike = tuple(dataclasses.replace(device, node=0) for device in machine.devices)
    flat = dataclasses.replace(machine, devices=alike)
    for gathers in (False, True):
        times = [
            all_reduce.plan(topology, range(16), num_bytes // 4, 4, gathers).time_ns
            for topology in (machine, flat)
        ]
        assert times[0] <= times[1]
        if num_bytes == 2**18:
            assert times[0] < 0.5 * times[1]


@pytest.mark.parametrize("num_bytes", [16 * 1024, 2**24])
def test_links_are_those_of_all_moves(num_bytes):
    machine = k80(2)
    plan = all_reduce.plan(machine, range(8), num_bytes // 4, 4)
    routes = [machine.route(*pair).links for pair in plan.pair_bytes()]
    assert plan.links == tuple(sorted(set(itertools.chain.from_iterable(routes))))
