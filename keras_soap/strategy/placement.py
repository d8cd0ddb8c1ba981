"""Device groups that make sense for a number of parts, and orders in which parts fill them.

1. A group is `size` devices a fixed stride apart. With stride 1 they are neighbours; with the
   size of a node as stride they are one device of each node.
2. Groups are aligned: those of one size and stride tile the devices, as far as they go.
3. Parts fill a group row-major, or with the dimensions in another order, so that a dimension that
   talks much can lie within a node and one that talks little across nodes.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np


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


def every(size: int, num_devices: int) -> Iterator[tuple[int, ...]]:
    """All ordered choices of `size` different devices."""
    return itertools.permutations(range(num_devices), size)


def canonical(devices: Sequence[int], symmetries: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The smallest of the images of `devices` under `symmetries` (permutations of devices)."""
    return min(tuple(image[device] for device in devices) for image in symmetries)
