"""Device groups that make sense for a number of parts, and orders in which parts fill them.

1. A group is `size` devices a fixed stride apart. With stride 1 they are neighbours; with the
   size of a node as stride they are one device of each node.
2. Groups are aligned: those of one size and stride tile the devices, as far as they go.
3. Parts fill a group row-major, or with the dimensions in another order, so that a dimension that
   talks much can lie within a node and one that talks little across nodes.
4. Whole nodes (`on_nodes`) are the plainest groups: samples are split within a node, and samples or
   parameters across nodes.
"""

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from keras_soap.topology.device_topology import DeviceTopology


@functools.cache
def strides(num_devices: int, size: int) -> tuple[int, ...]:
    """Strides that groups of `size` devices can have: divisors of `num_devices` that fit."""
    if size == 1:
        return (1,)
    return tuple(
        stride
        for stride in range(1, num_devices // size + 1)
        if stride == 1 or num_devices % stride == 0
    )


def num_groups(num_devices: int, size: int, stride: int) -> int:
    """How many aligned groups of `size` devices, `stride` apart, there are."""
    return num_devices // (size * stride) * stride


def group(size: int, stride: int, number: int) -> range:
    """The devices of aligned group `number`."""
    block, offset = divmod(number, stride)
    start = block * size * stride + offset
    return range(start, start + size * stride, stride)


@functools.cache
def orders(degrees: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """For each order of the split dimensions: which device of a group each part takes.

    The first is row-major.
    """
    split = [axis for axis, degree in enumerate(degrees) if degree > 1]
    result = []
    for permuted in itertools.permutations(split):
        shape = [degrees[axis] for axis in permuted]
        positions = np.arange(math.prod(shape)).reshape(shape)
        result.append(tuple(positions.transpose(np.argsort(permuted)).ravel().tolist()))
    return tuple(dict.fromkeys(result))


def structured(degrees: tuple[int, ...], num_devices: int) -> Iterator[tuple[int, ...]]:
    """All aligned groups in all orders, each once."""
    size = math.prod(degrees)
    seen: set[tuple[int, ...]] = set()
    for stride in strides(num_devices, size):
        for number in range(num_groups(num_devices, size, stride)):
            devices = group(size, stride, number)
            for order in orders(degrees):
                placed = tuple(devices[position] for position in order)
                if placed not in seen:
                    seen.add(placed)
                    yield placed


@dataclass(frozen=True)
class OnNodes:
    """Whole nodes that are next to each other, and how an operator is split over them.

    Attributes:
        start: The first device.
        samples: Into how many parts at most samples are split. A part's device follows that of the
            part with the samples before.
        parameters: The same of parameters. A part's device is `samples` devices behind that of the
            part with the parameters before: in the next node.
    """

    start: int
    samples: int
    parameters: int


def on_nodes(topology: DeviceTopology) -> tuple[OnNodes, ...]:
    """All of them: of 1, 2, 4, … and all nodes. None if nodes are not alike, or there is but one.

    The last ones are of all nodes, and of these the first splits samples.
    """
    nodes = [device.node for device in topology.devices]
    num_nodes = len(set(nodes))
    size = len(nodes) // num_nodes
    if num_nodes < 2 or nodes != sorted(nodes) or set(map(nodes.count, nodes)) != {size}:
        return ()
    found = []
    for count in sorted({*(2**n for n in range(num_nodes.bit_length())), num_nodes}):
        for first in range(0, num_nodes - count + 1, count):
            found.append(OnNodes(first * size, count * size, 1))
            if count > 1:
                found.append(OnNodes(first * size, size, count))
    return tuple(found)


def every(size: int, num_devices: int) -> Iterator[tuple[int, ...]]:
    """All ordered choices of `size` different devices."""
    return itertools.permutations(range(num_devices), size)
