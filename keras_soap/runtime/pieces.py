"""Cuts tensors into regions, and puts regions together."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

Range = tuple[int, int]
Region = tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """A region of an input of the model, by its operator's number, on a device."""

    number: int
    region: Region
    device: str


def ranges(region: np.ndarray) -> Region:
    """A region of `graph.region`, int64 (rank, 2), as one that can be compared and looked up."""
    return tuple((start, stop) for start, stop in region.tolist())


def cut(tensor: tf.Tensor, has: Region, wanted: Region) -> tf.Tensor:
    """The region `wanted` of a tensor that holds the region `has`. The tensor itself if equal."""
    if has == wanted:
        return tensor
    begin = [start - origin for (start, _), (origin, _) in zip(wanted, has, strict=True)]
    size = [stop - start for start, stop in wanted]
    return tf.slice(tensor, begin, size)


def assemble(pieces: Sequence[tuple[Region, tf.Tensor]]) -> tf.Tensor:
    """The tensor that `pieces` tile as a grid."""
    if len(pieces) == 1:
        return pieces[0][1]
    rank = len(pieces[0][0])
    axis = next(a for a in range(rank) if len({region[a] for region, _ in pieces}) > 1)
    slabs: dict[Range, list[tuple[Region, tf.Tensor]]] = {}
    for region, tensor in pieces:
        slabs.setdefault(region[axis], []).append((region, tensor))
    return tf.concat([assemble(slabs[key]) for key in sorted(slabs)], axis)


def accumulate(pieces: Sequence[tuple[Region, tf.Tensor]], whole: Region) -> tf.Tensor:
    """The sum of `pieces`, each placed at its region of `whole`, zeros elsewhere.

    Pieces that tile `whole` as a grid are joined. Of others, such as the overlapping halos of a
    convolution, only what overlaps is added: padding each to the whole and adding up all would go
    over the whole as often as there are pieces, and once more.
    """
    if tiles([region for region, _ in pieces], whole):
        return assemble(pieces)
    axes = range(len(whole))
    axis = next((a for a in axes if any(region[a] != whole[a] for region, _ in pieces)), None)
    if axis is None:
        return tf.add_n([tensor for _, tensor in pieces])
    ends = {end for region, _ in pieces for end in region[axis]}
    strips = []
    for strip in itertools.pairwise(sorted({*whole[axis], *ends})):
        within = (*whole[:axis], strip, *whole[axis + 1 :])
        found = []
        for region, tensor in pieces:
            if region[axis][0] <= strip[0] and strip[1] <= region[axis][1]:
                here = (*region[:axis], strip, *region[axis + 1 :])
                found.append((here, cut(tensor, region, here)))
        strips.append(accumulate(found, within) if found else _zeros(within, pieces[0][1].dtype))
    return tf.concat(strips, axis)


def _zeros(region: Region, dtype: tf.DType) -> tf.Tensor:
    return tf.zeros([stop - start for start, stop in region], dtype)


def add_up(gradients: Sequence[Any]) -> Any:
    """The sum of gradients of one tensor; None of none. A sparse one stays so where it is alone."""
    if len(gradients) < 2:
        return gradients[0] if gradients else None
    return tf.add_n([tf.convert_to_tensor(gradient) for gradient in gradients])


def tiles(regions: Sequence[Region], whole: Region) -> bool:
    """Whether `regions` are the cells of a grid over `whole`, each once."""
    ranges = [sorted({region[axis] for region in regions}) for axis in range(len(whole))]
    cells = 1
    for axis, found in enumerate(ranges):
        cells *= len(found)
        edges = [whole[axis][0], *(stop for _, stop in found)]
        if [start for start, _ in found] != edges[:-1] or edges[-1] != whole[axis][1]:
            return False
    return cells == len(regions) == len(set(regions))
