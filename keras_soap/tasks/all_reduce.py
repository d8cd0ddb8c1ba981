"""How a reduction among devices runs: the plan that is simulated and executed alike.

1. **Directly**: every device sends all of its value to every other, in one round. That costs one
   latency instead of the 2 (P - 1) of a ring, so small values go so.
2. Around a **ring** over the devices in the order of their numbers: P - 1 rounds of reduce-scatter,
   then P - 1 rounds of all-gather, on chunks of 1/P of the value (Patarasuk and Yuan, "Bandwidth
   optimal all-reduce algorithms", 2009).
3. **By node**, where devices are of several nodes, and some node has more than one of them: inside
   each node every chunk of the value goes to its owner, which adds; then its owners of all nodes
   reduce it among themselves, directly or around a ring; then they send it to the others of their
   node. There are as many chunks as the largest node has devices, and the devices of a node own
   them in turn; a value that goes directly between nodes is one chunk.
4. Sparse gradients (rows of a table) are **gathered**: sent directly, or by node: once to each
   other node, where the devices receive in turn, then on to the others there.
5. Of 1 or 2, and 3, that which takes less time on the topology is the plan; of gathers likewise.
6. A reduction holds all links that it uses, from its first round to its last.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keras_soap.topology.device_topology import DeviceTopology

DIRECT_BYTES = 64 * 1024
"""A value goes directly while no device receives more than this in all."""


@dataclass(frozen=True, slots=True)
class Move:
    """Rank `source` sends the elements [start, stop) to rank `destination`."""

    source: int
    destination: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Round:
    """Moves that all begin at once, of what devices have when the round begins.

    Attributes:
        moves: None of them empty.
        adds: Whether receivers reduce what arrives with what they have of it, in the order of
            ranks; else it takes the place of that.
    """

    moves: tuple[Move, ...]
    adds: bool


@dataclass(frozen=True, slots=True)
class Exchange:
    """A phase of one round."""

    moves: tuple[Move, ...]
    adds: bool

    def rounds(self) -> Iterator[Round]:
        """The round, without its empty moves."""
        yield Round(tuple(move for move in self.moves if move.stop > move.start), self.adds)

    @property
    def num_rounds(self) -> int:
        """One."""
        return 1

    @property
    def pairs(self) -> Iterator[tuple[int, int]]:
        """Ranks of source and destination, once for each chunk that moves in a round."""
        return ((move.source, move.destination) for move in self.moves)

    @property
    def chunk_elements(self) -> int:
        """Elements of the largest chunk that moves."""
        return max(move.stop - move.start for move in self.moves)

    @property
    def num_elements(self) -> int:
        """Elements that move in all rounds."""
        return sum(move.stop - move.start for move in self.moves)


@dataclass(frozen=True, slots=True)
class Rings:
    """A phase of rings that turn at the same time, each of which reduces some elements.

    Attributes:
        members: The ranks of each ring, in its order; equally many.
        spans: The elements [start, stop) of each ring.
    """

    members: tuple[tuple[int, ...], ...]
    spans: tuple[tuple[int, int], ...]

    def rounds(self) -> Iterator[Round]:
        """Reduce-scatter, whose receivers add, then all-gather."""
        size = len(self.members[0])
        for number in range(self.num_rounds):
            moves = []
            for ring, (first, last) in zip(self.members, self.spans, strict=True):
                for position, rank in enumerate(ring):
                    start, stop = chunk((position - number) % size, size, last - first)
                    if stop > start:
                        following = ring[(position + 1) % size]
                        moves.append(Move(rank, following, first + start, first + stop))
            yield Round(tuple(moves), adds=number < size - 1)

    @property
    def num_rounds(self) -> int:
        """Twice one less than a ring has members."""
        return 2 * (len(self.members[0]) - 1)

    @property
    def pairs(self) -> Iterator[tuple[int, int]]:
        """As of `Exchange`; the same in each round."""
        for ring in self.members:
            yield from zip(ring, (*ring[1:], ring[0]), strict=True)

    @property
    def chunk_elements(self) -> int:
        """As of `Exchange`."""
        return -(-max(stop - start for start, stop in self.spans) // len(self.members[0]))

    @property
    def num_elements(self) -> int:
        """As of `Exchange`."""
        return self.num_rounds * sum(stop - start for start, stop in self.spans)


Phase = Exchange | Rings


@dataclass(frozen=True, slots=True)
class Plan:
    """A reduction over given devices, which ranks count from 0.

    Attributes:
        phases: One after the other.
        element_bytes: Of one element.
        time_ns: From first round to last.
        links: Links that it holds, ascending.
        num_bytes: Moved by all devices together.
    """

    phases: tuple[Phase, ...]
    element_bytes: int
    time_ns: int
    links: tuple[int, ...]
    num_bytes: int

    def rounds(self) -> Iterator[Round]:
        """All rounds, one after the other."""
        return itertools.chain.from_iterable(phase.rounds() for phase in self.phases)

    def pair_bytes(self) -> dict[tuple[int, int], int]:
        """Bytes that each pair (source rank, destination rank) moves in all rounds."""
        result: dict[tuple[int, int], int] = {}
        for move in itertools.chain.from_iterable(each.moves for each in self.rounds()):
            pair = (move.source, move.destination)
            result[pair] = result.get(pair, 0) + (move.stop - move.start) * self.element_bytes
        return result


def is_direct(num_ranks: int, num_bytes: int) -> bool:
    """Whether a value of `num_bytes` is reduced directly rather than around a ring."""
    return (num_ranks - 1) * num_bytes <= DIRECT_BYTES


def chunk(number: int, num_chunks: int, num_elements: int) -> tuple[int, int]:
    """The elements [start, stop) of a chunk; chunks differ by one element at most."""
    return number * num_elements // num_chunks, (number + 1) * num_elements // num_chunks


def plan(
    topology: DeviceTopology,
    devices: Sequence[int],
    num_elements: int,
    element_bytes: int,
    gathers: bool = False,
) -> Plan:
    """The plan of a reduction.

    Args:
        topology: The machine.
        devices: Numbers of different devices, ascending: rank by rank.
        num_elements: Of the value that each device has.
        element_bytes: Of one of its elements.
        gathers: Whether values are gathered, not reduced. Moves then count the elements of all
            ranks' values, one after the other.
    """
    if len(devices) == 1:
        return Plan((), element_bytes, 0, (), 0)
    by_node: dict[int, list[int]] = {}
    for rank, device in enumerate(devices):
        by_node.setdefault(topology.devices[device].node, []).append(rank)
    nodes = list(by_node.values())
    if gathers:
        ways = [_gathered(range(len(devices)), num_elements)]
    else:
        ways = [_flat(range(len(devices)), num_elements, element_bytes)]
    if 1 < len(nodes) < len(devices):
        if gathers:
            ways.append(_gathered_by_node(nodes, num_elements))
        else:
            ways.append(_by_node(nodes, num_elements, element_bytes))
    plans = [_costed(topology, devices, phases, element_bytes) for phases in ways]
    return min(plans, key=lambda found: found.time_ns)


def _flat(ranks: Sequence[int], num_elements: int, element_bytes: int) -> tuple[Phase, ...]:
    if is_direct(len(ranks), num_elements * element_bytes):
        return (_directly([ranks], [(0, num_elements)]),)
    return (Rings((tuple(ranks),), ((0, num_elements),)),)


def _directly(members: Sequence[Sequence[int]], spans: Sequence[tuple[int, int]]) -> Exchange:
    """All of some ranks send their elements of a span to all others of these."""
    return Exchange(
        tuple(
            Move(source, destination, *span)
            for ranks, span in zip(members, spans, strict=True)
            for source, destination in itertools.permutations(ranks, 2)
        ),
        adds=True,
    )


def _by_node(
    nodes: Sequence[Sequence[int]], num_elements: int, element_bytes: int
) -> tuple[Phase, ...]:
    direct = is_direct(len(nodes), num_elements * element_bytes)
    num_chunks = 1 if direct else max(map(len, nodes))
    spans = tuple(chunk(number, num_chunks, num_elements) for number in range(num_chunks))
    owners = tuple(
        tuple(ranks[number % len(ranks)] for ranks in nodes) for number in range(num_chunks)
    )
    inwards = tuple(
        Move(rank, owner, *span)
        for span, of_chunk in zip(spans, owners, strict=True)
        for ranks, owner in zip(nodes, of_chunk, strict=True)
        for rank in ranks
        if rank != owner
    )
    outwards = tuple(Move(m.destination, m.source, m.start, m.stop) for m in inwards)
    across = _directly(owners, spans) if direct else Rings(owners, spans)
    return Exchange(inwards, adds=True), across, Exchange(outwards, adds=False)


def _gathered(ranks: Sequence[int], num_elements: int) -> tuple[Phase, ...]:
    return (
        Exchange(
            tuple(
                Move(source, destination, source * num_elements, (source + 1) * num_elements)
                for source, destination in itertools.permutations(ranks, 2)
            ),
            adds=False,
        ),
    )


def _gathered_by_node(nodes: Sequence[Sequence[int]], num_elements: int) -> tuple[Phase, ...]:
    first, then = [], []
    for here in nodes:
        for position, source in enumerate(here):
            span = source * num_elements, (source + 1) * num_elements
            for there in nodes:
                if there is here:
                    first += [Move(source, rank, *span) for rank in here if rank != source]
                else:
                    receiver = there[position % len(there)]
                    first.append(Move(source, receiver, *span))
                    then += [Move(receiver, rank, *span) for rank in there if rank != receiver]
    return Exchange(tuple(first), adds=False), Exchange(tuple(then), adds=False)


def _costed(
    topology: DeviceTopology, devices: Sequence[int], phases: tuple[Phase, ...], element_bytes: int
) -> Plan:
    """What phases cost.

    In a round all moves go at once, so it takes the largest latency of their routes and the time of
    the link with the most to carry. Of a phase every round counts alike, and every chunk as the
    largest.
    """
    time_ns = 0
    held: set[int] = set()
    for phase in phases:
        latency_ns = 0
        chunks: dict[int, int] = {}
        for source, destination in phase.pairs:
            route = topology.route(devices[source], devices[destination])
            latency_ns = max(latency_ns, route.latency_ns)
            for link in route.links:
                chunks[link] = chunks.get(link, 0) + 1
        chunk_bytes = phase.chunk_elements * element_bytes
        busiest_ns = max(
            -int(-count * chunk_bytes * 1e9 // topology.links[link].bandwidth_bytes_per_s)
            for link, count in chunks.items()
        )
        time_ns += phase.num_rounds * (latency_ns + busiest_ns)
        held |= chunks.keys()
    num_bytes = sum(phase.num_elements for phase in phases) * element_bytes
    return Plan(phases, element_bytes, time_ns, tuple(sorted(held)), num_bytes)
