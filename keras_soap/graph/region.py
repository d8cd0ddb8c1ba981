"""Regions of tensors: half-open boxes, for all parts of an operator at once.

A `Regions` is an int64 array (parts, rank, 2): for each part and axis the range [start, stop).
An empty range means that the part has nothing to do with the tensor.
"""

import functools
from collections.abc import Sequence

import numpy as np

Regions = np.ndarray


def volume(regions: Regions) -> np.ndarray:
    """int64 (parts,): elements of each region."""
    return np.prod(regions[..., 1] - regions[..., 0], axis=-1, dtype=np.int64)


def whole(parts: int, shape: Sequence[int]) -> Regions:
    """The whole tensor, for each part."""
    region = np.zeros((parts, len(shape), 2), np.int64)
    region[..., 1] = shape
    return region


def stack_axes(*axes: np.ndarray) -> Regions:
    """Regions from one (parts, 2) array of ranges per axis."""
    return np.stack(axes, axis=1)


def full_axis(parts: int, size: int) -> np.ndarray:
    """(parts, 2): the whole range of an axis, for each part."""
    return np.tile(np.array([[0, size]], np.int64), (parts, 1))


def broadcast_regions(regions: Regions, shape: Sequence[int]) -> Regions:
    """What an elementwise operator reads of an input of `shape` to make `regions`.

    As in NumPy: axes align at the end, and an axis of size 1 is read whole.
    """
    result = whole(len(regions), shape)
    offset = regions.shape[1] - len(shape)
    for axis, size in enumerate(shape):
        if size != 1:
            result[:, axis] = regions[:, offset + axis]
    return result


@functools.cache
def spatial_axes(rank: int) -> tuple[int, ...]:
    """Axes between batch and channels of a channels-last tensor."""
    return tuple(range(1, rank - 1))
