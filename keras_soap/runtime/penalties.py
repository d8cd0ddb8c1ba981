"""Regularizers of weights: each region of a weight adds to the loss once, to gradients everywhere.

They read weights where these are, and send a scalar for each region: no task of the task graph, and
not simulated.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_soap.capture.penalties import adds_up
from keras_soap.errors import ExecutionError
from keras_soap.runtime.exchange import move, on
from keras_soap.runtime.shards import ShardStore


class WeightPenalties:
    """What the regularizers of a model's weights add in one step.

    Args:
        weights: The trainable variables of the model.
        store: Where they are.
    """

    def __init__(self, weights: Sequence[keras.Variable], store: ShardStore):
        self._weights = [weight for weight in weights if weight.regularizer is not None]
        self._store = store
        for weight in self._weights:
            kind = type(weight.regularizer).__name__
            if weight not in store:
                raise ExecutionError(
                    f"{weight.path} has the regularizer {kind}, but no operator reads it. Drop "
                    "the regularizer, or freeze the weight."
                )
            if len(set(store[weight].regions)) > 1 and not adds_up(weight.regularizer):
                raise ExecutionError(
                    f"{weight.path} has the regularizer {kind}, which needs the whole weight, but "
                    "the strategy splits it. Search with dims='SOA', or use L1, L2 or L1L2."
                )

    def values(self, device: str) -> list[tf.Tensor]:
        """What they add to the loss: scalars on `device`, which add up."""
        result = []
        for weight in self._weights:
            sharded = self._store[weight]
            for region in dict.fromkeys(sharded.regions):
                holders = [d for d in sharded.devices if sharded.region(d) == region]
                source = device if device in holders else holders[0]
                with on(source):
                    value = tf.cast(weight.regularizer(self._read(weight, source)), "float32")
                result.append(value if source == device else move(value, source, device))
        return result

    def add_to(self, gradients: dict[int, dict[str, Any]], loss_scale: Any) -> None:
        """Adds their gradients.

        Args:
            gradients: By `id` of the weight and device; changed in place.
            loss_scale: Gives what losses are multiplied by, on a device; or None.
        """
        for weight in self._weights:
            by_device = gradients.setdefault(id(weight), {})
            for device in self._store[weight].devices:
                scale = loss_scale(device)
                with on(device):
                    value = self._read(weight, device)
                    with tf.GradientTape() as tape:
                        tape.watch(value)
                        penalty = weight.regularizer(value)
                    start = None if scale is None else tf.cast(scale, penalty.dtype)
                    added = tape.gradient(penalty, value, output_gradients=start)
                    if added is None:
                        continue
                    added = tf.reshape(added, self._store[weight].on(device).shape)
                    if device in by_device:
                        added = tf.convert_to_tensor(by_device[device]) + added
                    by_device[device] = added

    def _read(self, weight: keras.Variable, device: str) -> tf.Tensor:
        sharded = self._store[weight]
        value = sharded.on(device).value.read_value()
        if len(set(sharded.regions)) == 1:
            # Of the view that parts have of it.
            value = tf.reshape(value, weight.shape)
        return value
