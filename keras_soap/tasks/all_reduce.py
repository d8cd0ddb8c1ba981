"""How a reduction among devices runs: the rounds that are simulated and executed alike.

1. Small values go **directly**: every device sends all of its value to every other, in one round.
   That costs one latency instead of 2 (P - 1).
2. Larger ones go around a **ring** over the devices in the order of their numbers: P - 1 rounds of
   reduce-scatter, then P - 1 rounds of all-gather, on chunks of 1/P of the value
   (Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms", 2009).
3. Sparse gradients (rows of a table) are gathered: sent directly, and concatenated.
4. A reduction holds all links that it uses, from its first round to its last.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from keras_soap.topology.device_topology import DeviceTopology

DIRECT_BYTES = 64 * 1024
"""A value goes directly while no device receives more than this in all."""


@dataclass(frozen=True, slots=True)
class Move:
    """In one round, rank `source` sends the elements [start, stop) to rank `destination`."""

    source: int
    destination: int
    start: int
    stop: int


def is_direct(num_ranks: int, num_bytes: int) -> bool:
    """Whether a value of `num_bytes` is reduced directly rather than around the ring."""
    return (num_ranks - 1) * num_bytes <= DIRECT_BYTES


def chunk(rank: int, num_ranks: int, num_elements: int) -> tuple[int, int]:
    """The elements [start, stop) of chunk `rank`; chunks differ by one element at most."""
    return rank * num_elements // num_ranks, (rank + 1) * num_elements // num_ranks


def rounds(num_ranks: int, num_elements: int, element_bytes: int) -> list[list[Move]]:
    """The rounds of a reduction over `num_ranks` devices.

    Direct: one round, in which all move everything. Ring: 2 (P - 1) rounds; the receiver adds in
    the first P - 1 and replaces in the others. Empty chunks are not sent.
    """
    if num_ranks == 1:
        return []
    if is_direct(num_ranks, num_elements * element_bytes):
        everything = range(num_ranks)
        return [[Move(a, b, 0, num_elements) for a in everything for b in everything if a != b]]
    result = []
    for number in range(2 * (num_ranks - 1)):
        moves = []
        for rank in range(num_ranks):
            start, stop = chunk((rank - number) % num_ranks, num_ranks, num_elements)
            if stop > start:
                moves.append(Move(rank, (rank + 1) % num_ranks, start, stop))
        result.append(moves)
    return result


def pair_bytes(num_ranks: int, num_elements: int, element_bytes: int) -> dict[tuple[int, int], int]:
    """Bytes that each pair (source rank, destination rank) moves in all rounds."""
    result: dict[tuple[int, int], int] = {}
    for moves in rounds(num_ranks, num_elements, element_bytes):
        for move in moves:
            pair = (move.source, move.destination)
            result[pair] = result.get(pair, 0) + (move.stop - move.start) * element_bytes
    return result


@dataclass(frozen=True, slots=True)
class Collective:
    """Cost of a reduction on given devices.

    Attributes:
        time_ns: From first round to last.
        links: Links that it holds, ascending.
        num_bytes: Moved by all devices together.
    """

    time_ns: int
    links: tuple[int, ...]
    num_bytes: int


def cost(
    topology: DeviceTopology,
    devices: Sequence[int],
    num_elements: int,
    element_bytes: int,
    gathers: bool = False,
) -> Collective:
    """Cost of reducing (or, if `gathers`, gathering) a value over `devices`, ascending.

    In a round all moves go at once, so it takes the largest latency of its routes and the time of
    the link with the most to carry.
    """
    ranks = len(devices)
    num_bytes = num_elements * element_bytes
    if gathers or is_direct(ranks, num_bytes):
        pairs = [(a, b) for a in devices for b in devices if a != b]
        num_rounds, each, total = 1, num_bytes, num_bytes * len(pairs)
    else:
        pairs = [(devices[rank], devices[(rank + 1) % ranks]) for rank in range(ranks)]
        num_rounds = 2 * (ranks - 1)
        each = -(-num_elements // ranks) * element_bytes
        total = num_rounds * num_bytes
    latency_ns = 0
    load: dict[int, int] = {}
    for source, destination in pairs:
        route = topology.route(source, destination)
        latency_ns = max(latency_ns, route.latency_ns)
        for link in route.links:
            load[link] = load.get(link, 0) + each
    links = topology.links
    round_ns = latency_ns + max(
        -int(-carried * 1e9 // links[link].bandwidth_bytes_per_s) for link, carried in load.items()
    )
    return Collective(num_rounds * round_ns, tuple(sorted(load)), total)
