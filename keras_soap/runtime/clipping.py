"""Clipping by norm, where gradients are sharded: the norm is that of the whole.

1. Each region of a weight counts once, on one of the devices that hold it.
2. Sums of squares of regions meet on one device; every holder is sent the whole sum.
3. Each holder clips its shard by Keras's formula with that sum.

These few bytes are no task of the task graph, and are not simulated.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_soap.runtime import collectives
from keras_soap.runtime.exchange import move, on

Gradients = Mapping[int, Mapping[str, Any]]
"""By the number of the weight, and by device."""

Clip = Callable[[Any], Any]


def clips(
    optimizer: keras.optimizers.Optimizer,
    gradients: Gradients,
    holders: Mapping[int, Sequence[Sequence[str]]],
) -> dict[int, dict[str, Clip]]:
    """What clips each shard's gradient as Keras would clip the whole; empty if nothing is to do.

    Args:
        optimizer: Whose `clipnorm` or `global_clipnorm` it is.
        gradients: Of all shards, as they are clipped: unscaled, and averaged.
        holders: For each weight, and each of its regions, the devices that hold it.
    """
    if (optimizer.clipnorm or 0) > 0:
        groups = [[number] for number in gradients]
    elif (optimizer.global_clipnorm or 0) > 0:
        groups = [list(gradients)]
    else:
        return {}
    result: dict[int, dict[str, Clip]] = {}
    with tf.name_scope("clip"):
        for numbers in groups:
            squares = _sum_of_squares(numbers, gradients, holders)
            for number in numbers:
                result[number] = {
                    device: _clip(optimizer, squares[device]) for device in gradients[number]
                }
    return result


def _sum_of_squares(
    numbers: Sequence[int],
    gradients: Gradients,
    holders: Mapping[int, Sequence[Sequence[str]]],
) -> dict[str, tf.Tensor]:
    """The sum over all regions of the weights, on each device that has any of the gradients."""
    found = []
    for number in numbers:
        for devices in holders[number]:
            present = [device for device in devices if device in gradients[number]]
            if present:
                # Another holder for each weight, so that the work is shared.
                device = present[number % len(present)]
                with on(device):
                    found.append((device, _squares(gradients[number][device])))
    devices = list(dict.fromkeys(d for number in numbers for d in gradients[number]))
    if len(numbers) == 1 and len(found) == 1:
        # The weight is not split: every holder has the norm at hand, to the same bit.
        result = {}
        for device in devices:
            with on(device):
                result[device] = _squares(gradients[numbers[0]][device])
        return result
    first = devices[0]
    arrived = [x if device == first else move(x, device, first) for device, x in found]
    with on(first):
        dtype = arrived[0].dtype
        total = tf.add_n([tf.cast(x, dtype) for x in arrived])
    return collectives.spread(total, first, devices)


def _squares(gradient: Any) -> tf.Tensor:
    # As Keras: rows of a sparse gradient that are there twice count apart.
    values = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
    return tf.reduce_sum(tf.square(values))


def _clip(optimizer: keras.optimizers.Optimizer, squares: tf.Tensor) -> Clip:
    """Clips on the device that it is called under, where `squares` is."""

    def by_norm(gradient: Any) -> Any:
        # tf.clip_by_norm, with a sum that is given.
        is_sparse = isinstance(gradient, tf.IndexedSlices)
        values = gradient.values if is_sparse else gradient
        total = tf.cast(squares, values.dtype)
        is_positive = total > 0
        norm = tf.where(is_positive, tf.sqrt(tf.where(is_positive, total, 1)), total)
        limit = tf.cast(optimizer.clipnorm, values.dtype)
        clipped = values * limit / tf.maximum(norm, limit)
        if is_sparse:
            return tf.IndexedSlices(clipped, gradient.indices, gradient.dense_shape)
        return clipped

    def by_global_norm(gradient: Any) -> Any:
        # keras.src.optimizers.base_optimizer.clip_by_global_norm, which makes rows dense.
        limit = optimizer.global_clipnorm
        norm = tf.sqrt(squares)
        scale = limit * tf.minimum(1.0 / norm, 1.0 / limit) + (norm - norm)
        return tf.convert_to_tensor(gradient) * tf.cast(scale, gradient.dtype)

    return by_norm if (optimizer.clipnorm or 0) > 0 else by_global_norm
