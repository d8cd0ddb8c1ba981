"""The machine: devices, switches, and the links between them.

1. A full-duplex connection is two links, one each way; a shared one (a bus) is a single link.
2. A transfer takes the route of lowest latency, then of highest bandwidth, then of fewest links.
3. Over its route a transfer of s bytes takes latency + s / narrowest bandwidth.
4. Devices of one pool have one memory: a tensor is handed over, and copied only to be cut and
   joined. The bandwidth between them is that of one such copy. On one of them, cutting and joining
   takes what it takes between it and another one; elsewhere it is given no time.
"""

import dataclasses
import functools
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_soap.errors import TopologyError

CUT_AND_JOINED = 2
"""How often a transfer copies what is cut on one side and joined on the other."""


@dataclass(frozen=True, slots=True)
class Device:
    """A compute device.

    Attributes:
        name: Unique in the topology. For a device of this process, TensorFlow's name (`"GPU:0"`).
        kind: TensorFlow's device type: `"CPU"`, `"GPU"` or `"TPU"`.
        model: What it is (`"P100"`); cost profiles are per model.
        node: Number of the host that it is in.
        memory_bytes: Its memory.
        peak_flops_per_s: Peak float32 multiply-adds and additions, both counted.
        memory_bandwidth_bytes_per_s: Of its memory.
        task_overhead_ns: Time that any task takes beside its work.
        pool: Name of what it computes with, where devices share that, as logical CPUs share cores.
            By default it computes with its own.
        pool_size: How many tasks all devices of the pool can run at once.
        pool_utilization: Share of its place in the pool that a task keeps at work by itself. Others
            use what is left; while none is ready, it takes as much longer.
    """

    name: str
    kind: str = "CPU"
    model: str = ""
    node: int = 0
    memory_bytes: int = 16 * 2**30
    peak_flops_per_s: float = 1e11
    memory_bandwidth_bytes_per_s: float = 1e10
    task_overhead_ns: int = 0
    pool: str = ""
    pool_size: int = 1
    pool_utilization: float = 1.0


@dataclass(frozen=True, slots=True)
class Connection:
    """A cable, bus or switch port between two ends, each a device or a switch.

    Attributes:
        name: Unique in the topology.
        ends: Names of the two ends.
        bandwidth_bytes_per_s: One way if `full_duplex`, else in all.
        latency_ns: Of one message.
        full_duplex: Whether both ways work at once at full speed.
    """

    name: str
    ends: tuple[str, str]
    bandwidth_bytes_per_s: float
    latency_ns: int
    full_duplex: bool = True


@dataclass(frozen=True, slots=True)
class Link:
    """One way of a connection, or a whole shared one. What transfers queue for."""

    name: str
    bandwidth_bytes_per_s: float
    latency_ns: int


@dataclass(frozen=True, slots=True)
class Route:
    """Links from one device to another, in order, with their joint latency and bandwidth."""

    links: tuple[int, ...]
    latency_ns: int
    bandwidth_bytes_per_s: float

    def time_ns(self, num_bytes: int) -> int:
        """Time of a transfer, rounded up to whole nanoseconds."""
        return self.latency_ns + -int(-num_bytes * 1e9 // self.bandwidth_bytes_per_s)


@dataclass(frozen=True)
class DeviceTopology:
    """Devices and what connects them.

    Attributes:
        name: For people, and to tell strategies of different machines apart.
        devices: Compute devices; strategies name them by their number here.
        connections: Between devices and switches.
        switches: Names of the ends that are not devices.
        source: Where the figures come from.
    """

    name: str
    devices: tuple[Device, ...]
    connections: tuple[Connection, ...] = ()
    switches: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        if not self.devices:
            raise TopologyError(f"Topology {self.name!r} has no devices. List at least one.")
        names = [device.name for device in self.devices] + list(self.switches)
        for name in names:
            if names.count(name) > 1:
                raise TopologyError(
                    f"Topology {self.name!r} has two ends named {name!r}. Names must be unique."
                )
        for device in self.devices:
            for field in ("memory_bytes", "peak_flops_per_s", "memory_bandwidth_bytes_per_s"):
                if getattr(device, field) <= 0:
                    raise TopologyError(
                        f"Device {device.name!r} has {field} = {getattr(device, field)}. "
                        "It must be positive."
                    )
            if device.pool_size < 1 or (device.pool_size > 1 and not device.pool):
                raise TopologyError(
                    f"Device {device.name!r} has pool {device.pool!r} and pool_size = "
                    f"{device.pool_size}. A pool has at least 1, and no pool has exactly 1."
                )
            share = device.pool_utilization
            if not 0 < share <= 1 or (share < 1 and not device.pool):
                raise TopologyError(
                    f"Device {device.name!r} has pool {device.pool!r} and pool_utilization = "
                    f"{share}. In a pool it is above 0 and at most 1, and without one exactly 1."
                )
        of_pool: dict[str, Device] = {}
        for device in self.devices:
            other = of_pool.setdefault(device.pool, device) if device.pool else device
            for field in ("pool_size", "pool_utilization"):
                if getattr(device, field) != getattr(other, field):
                    raise TopologyError(
                        f"Device {device.name!r} has {field} = {getattr(device, field)}, but "
                        f"another one of pool {device.pool!r} has {getattr(other, field)}. Give "
                        "all the same."
                    )
        known = set(names)
        for connection in self.connections:
            for end in connection.ends:
                if end not in known:
                    raise TopologyError(
                        f"Link {connection.name!r} ends at {end!r}, which is neither a device nor "
                        f"a switch of topology {self.name!r}. Known ends: {', '.join(names[:16])}."
                    )
            if connection.bandwidth_bytes_per_s <= 0 or connection.latency_ns < 0:
                raise TopologyError(
                    f"Link {connection.name!r} has bandwidth_bytes_per_s = "
                    f"{connection.bandwidth_bytes_per_s} and latency_ns = {connection.latency_ns}. "
                    "Bandwidth must be positive and latency not negative."
                )

    @property
    def num_devices(self) -> int:
        return len(self.devices)

    @functools.cached_property
    def compute(self) -> tuple[int, ...]:
        """By device: what its tasks queue for, as the number of the first device of its pool."""
        first: dict[str, int] = {}
        return tuple(
            first.setdefault(device.pool, number) if device.pool else number
            for number, device in enumerate(self.devices)
        )

    def movers(self, sources: Sequence[int]) -> list[int]:
        """What transfers from these devices hold beside links, ascending.

        Devices that share cores have no engines for copies: the cores copy.
        """
        return sorted({self.compute[source] for source in sources if self.devices[source].pool})

    @functools.cached_property
    def capacity(self) -> np.ndarray:
        """int64 (devices + links,): how many tasks run on each at once; see `compute`."""
        sizes = [device.pool_size for device in self.devices]
        return np.array(sizes + [1] * len(self.links), np.int64)

    @functools.cached_property
    def alone_permille(self) -> np.ndarray:
        """int64 (devices + links,): what a task takes that has each to itself, in thousandths.

        Of the time for which it holds it; see `Device.pool_utilization`.
        """
        longer = [round(1000 / device.pool_utilization) for device in self.devices]
        return np.array(longer + [1000] * len(self.links), np.int64)

    @functools.cached_property
    def links(self) -> tuple[Link, ...]:
        """What transfers queue for, in the order of `connections`."""
        return tuple(link for link, _ in self._directed_links)

    @functools.cached_property
    def _directed_links(self) -> tuple[tuple[Link, tuple[tuple[str, str], ...]], ...]:
        result = []
        for c in self.connections:
            ways = (c.ends, c.ends[::-1])
            if c.full_duplex:
                for a, b in ways:
                    link = Link(f"{c.name}: {a} → {b}", c.bandwidth_bytes_per_s, c.latency_ns)
                    result.append((link, ((a, b),)))
            else:
                result.append((Link(c.name, c.bandwidth_bytes_per_s, c.latency_ns), ways))
        return tuple(result)

    @functools.cached_property
    def _routes(self) -> dict[int, tuple[Route | None, ...]]:
        return {}

    def route(self, source: int, destination: int) -> Route:
        """Route between two devices, by their numbers.

        From one to itself, if it `copies`: over no link, as fast as to the one beside it.
        """
        if source == destination and self.copies(source):
            return dataclasses.replace(self.route(source, self.beside[source]), links=())
        if source not in self._routes:
            self._routes[source] = self._routes_from(source)
        route = self._routes[source][destination]
        if route is None:
            raise TopologyError(
                f"Topology {self.name!r} has no way from {self.devices[source].name!r} to "
                f"{self.devices[destination].name!r}. Add the links that join them."
            )
        return route

    def transfer_time_ns(
        self, source: int, destination: int, num_bytes: int, copied_bytes: int | None = None
    ) -> int:
        """Time of a transfer between two devices, by their numbers.

        Args:
            source: Has the bytes.
            destination: Gets them. The same only if it `copies`.
            num_bytes: How many.
            copied_bytes: How many are copied, to be cut, joined or added, where both have one
                memory; by default all, for cutting and for joining.
        """
        if self.compute[source] == self.compute[destination]:
            num_bytes = num_bytes * CUT_AND_JOINED if copied_bytes is None else copied_bytes
        return self.route(source, destination).time_ns(num_bytes)

    def held_by_transfer(self, source: int, destination: int) -> list[int]:
        """What a transfer holds: links, numbered after the devices, then what copies."""
        links = [self.num_devices + link for link in self.route(source, destination).links]
        return links + self.movers([source])

    @functools.cached_property
    def beside(self) -> tuple[int, ...]:
        """By device: the first other one of its pool; itself, where there is none."""
        return tuple(
            next((o for o, of in enumerate(self.compute) if of == mine and o != device), device)
            for device, mine in enumerate(self.compute)
        )

    def copies(self, device: int) -> bool:
        """Whether cutting and joining takes time on a device."""
        return self.beside[device] != device

    @functools.cached_property
    def _neighbours(self) -> dict[str, list[tuple[str, int]]]:
        table: dict[str, list[tuple[str, int]]] = {}
        for number, (_, ways) in enumerate(self._directed_links):
            for a, b in ways:
                table.setdefault(a, []).append((b, number))
        return table

    def _routes_from(self, source: int) -> tuple[Route | None, ...]:
        """Dijkstra over (latency, -bandwidth, links)."""
        start = self.devices[source].name
        is_device = {device.name for device in self.devices}
        best: dict[str, tuple[int, float, int, tuple[int, ...]]] = {}
        queue: list[tuple[int, float, int, tuple[int, ...], str]] = [(0, -math.inf, 0, (), start)]
        while queue:
            latency, minus_bandwidth, hops, path, end = heapq.heappop(queue)
            if end in best:
                continue
            best[end] = (latency, minus_bandwidth, hops, path)
            if end in is_device and end != start and not self._forwards:
                continue
            for neighbour, number in self._neighbours.get(end, ()):
                if neighbour not in best:
                    link = self.links[number]
                    narrowest = max(minus_bandwidth, -link.bandwidth_bytes_per_s)
                    step = (latency + link.latency_ns, narrowest, hops + 1, (*path, number))
                    heapq.heappush(queue, (*step, neighbour))
        routes: list[Route | None] = []
        for device in self.devices:
            found = best.get(device.name)
            if found is None or device.name == start:
                routes.append(None)
            else:
                routes.append(Route(found[3], found[0], -found[1]))
        return tuple(routes)

    @functools.cached_property
    def _forwards(self) -> bool:
        """Devices forward transfers only where there is no switch (rings, tori)."""
        return not self.switches

    def subset(self, num_devices: int) -> "DeviceTopology":
        """The first `num_devices` devices, with all switches and the links that still have ends."""
        if not 1 <= num_devices <= self.num_devices:
            raise TopologyError(
                f"Topology {self.name!r} has {self.num_devices} devices, not {num_devices}. "
                f"Ask for 1 to {self.num_devices}."
            )
        kept = {device.name for device in self.devices[:num_devices]} | set(self.switches)
        return DeviceTopology(
            f"{self.name}:{num_devices}",
            self.devices[:num_devices],
            tuple(c for c in self.connections if set(c.ends) <= kept),
            self.switches,
            self.source,
        )
