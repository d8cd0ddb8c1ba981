"""Which parts of a producer make what a part of its consumer reads, in closed form.

A producer's parts form a regular grid over its output. So along each axis the cells that a range
touches are a range of cells, and the overlaps are the product of those ranges: their number is the
work, and no pair that does not overlap is ever looked at.

Where a dimension of the producer is no axis of the tensor, parts along it make copies. Each part of
the consumer reads one of them: part `c` of `n` reads copy `c * copies // n`. So an operator that is
split and placed like its producer finds the copy on its own device.

A piece that is not all that a part made is cut from it, and one that is not all that a part reads
is joined with others there. Both copy it, but for cutting along the first axis, which gives a view.

Gradients of what several read are added up where it was made: of `k` tensors all are read, and one
is written, which is what `(k + 1) / 2` copies do. They are counted where they become necessary: of
what is sent back to a part, what goes beyond all of it once costs three half copies, and what goes
beyond all of it twice one more.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_soap.graph.region import Regions, volume
from keras_soap.operators.rule import NOT_AN_AXIS


@dataclass(frozen=True, slots=True)
class Overlaps:
    """Pairs of parts of the two ends of an edge, by consumer part, then by producer part.

    Attributes:
        producer: int32 (N,). Part of the producer.
        consumer: int32 (N,). Part of the consumer.
        regions: int64 (N, rank, 2). What the one makes and the other reads.
        num_elements: int64 (N,). Elements of those regions.
        copied: int64 (2, N). How often a region is copied to be cut and joined, 0 to 2: on the way
            to the consumer, and its gradient on the way back.
        added: int64 (N,). How many elements are copied to add the gradient to those that came back
            for what was read before, in halves of elements.
    """

    producer: np.ndarray
    consumer: np.ndarray
    regions: Regions
    num_elements: np.ndarray
    copied: np.ndarray
    added: np.ndarray

    def copied_bytes(self, element_bytes: int, sends_back: bool) -> np.ndarray:
        """int64 (2, N): there and back, what is copied if both parts are in one memory.

        Args:
            element_bytes: Of the tensor.
            sends_back: Whether a gradient goes back along the edge.
        """
        there, back = self.copied * self.num_elements * element_bytes
        return np.stack([there, back + sends_back * self.added * element_bytes // 2])


def find(
    shape: Sequence[int],
    axes: Sequence[int],
    degrees: Sequence[int],
    regions: Regions,
    before: int = 0,
) -> Overlaps:
    """Overlaps between a producer's grid and the regions that a consumer's parts read.

    Args:
        shape: Of the tensor on the edge.
        axes: For each of the producer's dimensions its axis in the tensor, or `NOT_AN_AXIS`.
        degrees: For each of them into how many parts it is split; parts are row-major.
        regions: int64 (parts, rank, 2). For each of the consumer's parts what it reads.
        before: How many other consumers have sent back gradients of the tensor already.
    """
    cell, stride, copies = _grid(shape, axes, degrees)
    first, counts = _cells(cell, regions)
    totals = np.prod(counts, axis=1, dtype=np.int64)
    consumer = np.repeat(np.arange(len(regions)), totals)
    rest = np.arange(totals.sum()) - np.repeat(np.cumsum(totals) - totals, totals)
    index = np.empty((len(consumer), len(shape)), np.int64)
    for axis in reversed(range(len(shape))):
        count = counts[consumer, axis]
        index[:, axis] = first[consumer, axis] + rest % count
        rest = rest // count
    read = regions[consumer]
    made = np.stack([index * cell, (index + 1) * cell], axis=-1)
    overlap = np.stack(
        [np.maximum(read[..., 0], made[..., 0]), np.minimum(read[..., 1], made[..., 1])], axis=-1
    )
    copied = np.stack([_copied(made, overlap, read), _copied(read, overlap, made)])
    producer = index @ stride
    copy = consumer * math.prod(degree for degree, _ in copies) // max(len(regions), 1)
    for degree, after in reversed(copies):
        producer = producer + copy % degree * after
        copy = copy // degree
    num_elements = volume(overlap)
    added = _added(producer, num_elements, math.prod(cell.tolist()), before)
    return Overlaps(
        producer.astype(np.int32), consumer.astype(np.int32), overlap, num_elements, copied, added
    )


def count(
    shape: Sequence[int],
    axes: Sequence[int],
    degrees: Sequence[int],
    regions: Regions,
) -> int:
    """How many overlaps `find` would give."""
    cell, _, _ = _grid(shape, axes, degrees)
    _, counts = _cells(cell, regions)
    return int(np.prod(counts, axis=1, dtype=np.int64).sum())


def _copied(has: Regions, moved: Regions, needs: Regions) -> np.ndarray:
    """int64 (N,): of regions that are cut from what one side has, for what the other needs."""
    is_cut = (has[:, 1:] != moved[:, 1:]).any(axis=(1, 2))
    is_joined = (moved != needs).any(axis=(1, 2))
    return is_cut.astype(np.int64) + is_joined


def _added(producer: np.ndarray, num_elements: np.ndarray, of_part: int, before: int) -> np.ndarray:
    """int64 (N,): halves of elements; see `Overlaps.added`.

    Args:
        producer: Part of each pair.
        num_elements: That its gradient has.
        of_part: Elements of a part of the producer.
        before: How many times as many have come back already.
    """
    order = np.argsort(producer, kind="stable")
    so_far = np.cumsum(num_elements[order])
    first = np.flatnonzero(np.diff(producer[order], prepend=-1))
    counts = np.diff(first, append=len(order))
    sent = num_elements[order]
    after = so_far - np.repeat(so_far[first] - sent[first], counts) + before * of_part

    def halves(elements: np.ndarray) -> np.ndarray:
        once, twice = (np.maximum(elements - times * of_part, 0) for times in (1, 2))
        return 3 * (once - twice) + twice

    added = np.empty_like(num_elements)
    added[order] = halves(after) - halves(after - sent)
    return added


def _grid(
    shape: Sequence[int], axes: Sequence[int], degrees: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]:
    """Of the producer: size of a part along each axis; from one part to the next; copies."""
    grid = np.ones(len(shape), np.int64)
    stride = np.zeros(len(shape), np.int64)
    after = math.prod(degrees)
    copies: list[tuple[int, int]] = []
    for axis, degree in zip(axes, degrees, strict=True):
        after //= degree
        if axis == NOT_AN_AXIS:
            copies.append((degree, after))
        else:
            grid[axis], stride[axis] = degree, after
    return np.maximum(np.asarray(shape, np.int64) // grid, 1), stride, copies


def _cells(cell: np.ndarray, regions: Regions) -> tuple[np.ndarray, np.ndarray]:
    """For each region and axis the first cell that it touches, and how many it does."""
    first = regions[..., 0] // cell
    counts = np.maximum(-(-regions[..., 1] // cell) - first, 0)
    counts[volume(regions) == 0] = 0
    return first, counts
