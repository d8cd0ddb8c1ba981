"""Which renamings of devices change nothing.

A permutation of devices is a symmetry if it takes devices to equal devices, and routes to routes
with the same latency and bandwidth over correspondingly shared links. It changes nothing for the
simulator only if reductions, too, use corresponding links: rings go by the numbers of devices.
"""

import itertools
from collections.abc import Iterable

import numpy as np

from keras_soap.tasks import all_reduce
from keras_soap.tasks.lowering import Lowering
from keras_soap.topology.device_topology import Device, DeviceTopology, Link

Permutation = tuple[int, ...]
MOST_DEVICES = 8


def symmetries(topology: DeviceTopology) -> tuple[Permutation, ...]:
    """All symmetries, the identity first.

    With more than `MOST_DEVICES` devices only the identity is looked for.
    """
    num_devices = topology.num_devices
    if num_devices > MOST_DEVICES:
        return (tuple(range(num_devices)),)
    found: list[Permutation] = []

    def extend(images: list[int], links: dict[int, int]) -> None:
        device = len(images)
        if device == num_devices:
            found.append(tuple(images))
            return
        for image in range(num_devices):
            if image in images:
                continue
            if _kind(topology.devices[device]) != _kind(topology.devices[image]):
                continue
            extended = _extend_links(topology, [*images, image], links)
            if extended is not None:
                extend([*images, image], extended)

    extend([], {})
    return tuple(found)


def stabilizer(group: tuple[Permutation, ...], devices: tuple[int, ...]) -> tuple[Permutation, ...]:
    """The symmetries of `group` that leave each of `devices` where it is."""
    return tuple(image for image in group if all(image[device] == device for device in devices))


Reduction = tuple[int, int, int, bool]
"""Number of devices, number of elements, bytes of one, and whether they are gathered."""


def reductions_of(
    lowering: Lowering, number: int, degrees: tuple[int, ...]
) -> frozenset[Reduction]:
    """Those of an operator under given degrees: of gradients, and on the way."""
    block = lowering.operator(number, degrees)
    found = {(len(r.members), r.num_elements, r.element_bytes, r.gathers) for r in block.reductions}
    for each in block.combines:
        for group in range(int(each.group.max()) + 1):
            parts = np.flatnonzero(each.group == group)
            elements = int(each.combine.elements[parts[0]])
            found.add((len(parts), elements, each.element_bytes, False))
    return frozenset(found)


def with_equal_reductions(
    topology: DeviceTopology, group: tuple[Permutation, ...], reductions: Iterable[Reduction]
) -> tuple[Permutation, ...]:
    """The symmetries of `group` under which reductions take as long, wherever they are."""
    return _keeping(topology, group, reductions, same_links=False)


def with_same_reductions(
    topology: DeviceTopology, group: tuple[Permutation, ...], reductions: Iterable[Reduction]
) -> tuple[Permutation, ...]:
    """The symmetries of `group` under which reductions use corresponding links, too."""
    return _keeping(topology, group, reductions, same_links=True)


def _keeping(
    topology: DeviceTopology,
    group: tuple[Permutation, ...],
    reductions: Iterable[Reduction],
    same_links: bool,
) -> tuple[Permutation, ...]:
    numbers = range(topology.num_devices)
    plans = [
        {
            devices: all_reduce.plan(topology, devices, elements, element_bytes, gathers)
            for devices in itertools.combinations(numbers, size)
        }
        for size, elements, element_bytes, gathers in set(reductions)
        if 1 < size <= len(numbers)
    ]
    kept = []
    for image in group:
        links = {
            link: target
            for a, b in itertools.permutations(numbers, 2)
            for link, target in zip(
                topology.route(a, b).links, topology.route(image[a], image[b]).links, strict=True
            )
        }
        keeps = True
        for by_devices in plans:
            for devices, plan in by_devices.items():
                other = by_devices[tuple(sorted(image[device] for device in devices))]
                same = {links[link] for link in plan.links} == set(other.links)
                keeps &= plan.time_ns == other.time_ns and (same or not same_links)
        if keeps:
            kept.append(image)
    return tuple(kept)


def cosets(
    group: tuple[Permutation, ...], subgroup: tuple[Permutation, ...]
) -> tuple[Permutation, ...]:
    """Symmetries of which each one of `group` is one, followed by one of `subgroup`."""
    found: list[Permutation] = []
    reached: set[Permutation] = set()
    for image in group:
        if image not in reached:
            found.append(image)
            reached.update(tuple(after[device] for device in image) for after in subgroup)
    return tuple(found)


def _extend_links(
    topology: DeviceTopology, images: list[int], links: dict[int, int]
) -> dict[int, int] | None:
    """What links correspond to, with the newest device; None if that cannot be."""
    newest = len(images) - 1
    links = dict(links)
    taken = set(links.values())
    for other in range(newest):
        for a, b in ((newest, other), (other, newest)):
            route, image = topology.route(a, b), topology.route(images[a], images[b])
            if len(route.links) != len(image.links):
                return None
            for link, target in zip(route.links, image.links, strict=True):
                if link not in links:
                    same = _speed(topology.links[link]) == _speed(topology.links[target])
                    if target in taken or not same:
                        return None
                    links[link] = target
                    taken.add(target)
                elif links[link] != target:
                    return None
    return links


def _kind(device: Device) -> tuple:
    return (
        device.kind,
        device.model,
        device.memory_bytes,
        device.peak_flops_per_s,
        device.memory_bandwidth_bytes_per_s,
        device.task_overhead_ns,
    )


def _speed(link: Link) -> tuple[float, int]:
    return link.bandwidth_bytes_per_s, link.latency_ns
