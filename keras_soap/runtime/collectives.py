"""Runs the reductions of `tasks.all_reduce` inside a multi-device function.

Every device ends with bit-identical results: all add in the order of ranks, or receive the sum that
one of them made.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_soap.tasks.all_reduce import chunk, is_direct, rounds

REDUCTIONS: dict[str, Callable[[Sequence[tf.Tensor]], tf.Tensor]] = {
    "sum": tf.add_n,
    "max": lambda tensors: tf.reduce_max(tf.stack(tensors), axis=0),
}


def move(tensor: tf.Tensor, device: str) -> tf.Tensor:
    """A copy of `tensor` on `device`."""
    with tf.device(device):
        return tf.identity(tensor)


def reduce(
    tensors: Sequence[tf.Tensor], devices: Sequence[str], reduction: str = "sum"
) -> list[tf.Tensor]:
    """All-reduce: what each device has of the whole, for tensors of equal shape.

    Args:
        tensors: One on each of `devices`.
        devices: Names of different devices, in the order of their numbers.
        reduction: `"sum"` or `"max"`.
    """
    if len(tensors) == 1:
        return list(tensors)
    combine = REDUCTIONS[reduction]
    num_elements = tensors[0].shape.num_elements()
    if is_direct(len(tensors), num_elements * tensors[0].dtype.size):
        return [
            _on(
                device,
                combine,
                [
                    t if source == device else move(t, device)
                    for t, source in zip(tensors, devices, strict=True)
                ],
            )
            for device in devices
        ]
    return _ring(tensors, devices, combine)


def _ring(
    tensors: Sequence[tf.Tensor], devices: Sequence[str], combine: Callable[..., tf.Tensor]
) -> list[tf.Tensor]:
    ranks = len(devices)
    shape, dtype = tensors[0].shape, tensors[0].dtype
    num_elements = shape.num_elements()
    sizes = [
        stop - start for start, stop in (chunk(rank, ranks, num_elements) for rank in range(ranks))
    ]
    chunks = []
    for tensor, device in zip(tensors, devices, strict=True):
        with tf.device(device):
            chunks.append(tf.split(tf.reshape(tensor, [-1]), sizes))
    starts = {chunk(rank, ranks, num_elements)[0]: rank for rank in range(ranks) if sizes[rank]}
    for number, moves in enumerate(rounds(ranks, num_elements, dtype.size)):
        for step in moves:
            piece = starts[step.start]
            source, target = chunks[step.source], chunks[step.destination]
            arrived = move(source[piece], devices[step.destination])
            if number < ranks - 1:
                arrived = _on(devices[step.destination], combine, [target[piece], arrived])
            target[piece] = arrived
    return [
        _on(device, lambda pieces: tf.reshape(tf.concat(pieces, 0), shape), pieces)
        for device, pieces in zip(devices, chunks, strict=True)
    ]


def gather_slices(
    slices: Sequence[tf.IndexedSlices], devices: Sequence[str]
) -> list[tf.IndexedSlices]:
    """All rows of sparse gradients, on each device, in the order of ranks."""
    if len(slices) == 1:
        return list(slices)
    result = []
    for own, device in zip(slices, devices, strict=True):
        here = [
            s
            if s is own
            else tf.IndexedSlices(move(s.values, device), move(s.indices, device), own.dense_shape)
            for s in slices
        ]
        with tf.device(device):
            result.append(join_slices(here))
    return result


def join_slices(slices: Sequence[tf.IndexedSlices]) -> tf.IndexedSlices:
    """The rows of several sparse gradients on one device."""
    if len(slices) == 1:
        return slices[0]
    return tf.IndexedSlices(
        tf.concat([s.values for s in slices], 0),
        tf.concat([s.indices for s in slices], 0),
        slices[0].dense_shape,
    )


def _on(device: str, function: Callable[..., tf.Tensor], argument: Any) -> tf.Tensor:
    with tf.device(device):
        return function(argument)
