"""Batch normalization: batch (S), spatial axes (A) and channels (P) are split.

A strategy never changes the mathematics: moments are those of the whole batch. So parts that hold
different elements of a channel add up, between two stages,

    a = Σ (x - s)    and    b = Σ (x - s)²,

and each finds mean = s + a/N and variance = b/N - (a/N)², where N counts the elements of a channel.
The shift s, the moving mean, is close to the mean and known to all parts, so the difference loses
no digits to cancellation (T. F. Chan, G. H. Golub, R. J. LeVeque, "Algorithms for computing the
sample variance", 1983).
"""

import math
from typing import Any

import numpy as np

from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions, volume
from keras_soap.operators.normalization import FLOPS_PER_ELEMENT
from keras_soap.operators.rule import (
    Combine,
    Dimension,
    DimensionKind,
    PartCall,
    PartResult,
    Rule,
    axis_dimensions,
)


class BatchNormalization(Rule):
    """BatchNormalization of the last axis."""

    kind = "batch_normalization"
    layers = ("BatchNormalization",)

    def refuses(self, attributes, inputs, output):
        if attributes.get("axis", -1) not in (-1, len(output.shape) - 1):
            return "its channels are not the last axis"
        if attributes.get("training") is True:
            return "training=True in its call asks for moments in inference, too"
        if attributes.get("synchronized"):
            return "synchronized=True is for tf.distribute; here moments are always the batch's"
        if attributes.get("renorm"):
            return "renorm has other weights"
        if len(inputs) > 1:
            return "moments under a mask are not those of the batch"
        return None

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        return axis_dimensions(operator, kinds={"channel": DimensionKind.PARAMETER})

    def weight_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        return [regions[:, -1:] for _ in operator.weight_specs]

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return FLOPS_PER_ELEMENT * volume(regions)

    def combines(self, operator: Operator, regions: Regions) -> tuple[Combine, ...]:
        frozen = not operator.attributes.get("trainable", True)
        alone = np.all(volume(regions[:, :-1]) == math.prod(operator.output.shape[:-1]))
        if frozen or operator.attributes.get("training") is False or alone:
            return ()
        over = tuple(dimension.name for dimension in self.dimensions(operator)[:-1])
        dtype = "float64" if operator.output.dtype == "float64" else "float32"
        elements = 2 * volume(regions[:, -1:])
        return (Combine("moments", over, elements, dtype, training_only=True),)

    def contribute(self, call: PartCall, number: int) -> Any:
        import tensorflow as tf

        x = _input(call)
        difference = x - _shift(call)
        axes = tuple(range(len(x.shape) - 1))
        # Stacked, since the gradient of a concatenation is cut out at sizes found in the step.
        sums = tf.reduce_sum(difference, axes), tf.reduce_sum(tf.square(difference), axes)
        return tf.stack(sums)

    def compute(self, call: PartCall) -> PartResult:
        import tensorflow as tf

        from keras_soap.operators.computation import in_training

        x = _input(call)
        attributes = call.part.operator.attributes
        weights = [tf.cast(weight, x.dtype) for weight in call.weights]
        *affine, moving_mean, moving_variance = weights
        gamma = affine.pop(0) if attributes.get("scale", True) else None
        beta = affine.pop(0) if attributes.get("center", True) else None
        mean, variance, updates = moving_mean, moving_variance, {}
        if in_training(call) and attributes.get("trainable", True):
            mean, variance = _moments(call, x)
            rest = 1.0 - attributes["momentum"]
            for position, (old, new) in enumerate(
                [(moving_mean, mean), (moving_variance, variance)], len(weights) - 2
            ):
                new = old * attributes["momentum"] + new * rest
                updates[position] = tf.cast(new, call.weights[position].dtype)
        # `keras.ops.batch_normalization` is this very function.
        y = tf.nn.batch_normalization(
            x,
            mean,
            variance,
            offset=beta,  # pyright: ignore[reportArgumentType]  # None is allowed
            scale=gamma,  # pyright: ignore[reportArgumentType]
            variance_epsilon=attributes["epsilon"],
        )
        return PartResult((tf.cast(y, call.layer.compute_dtype),), updates)


def _input(call: PartCall) -> Any:
    """The input in the precision that Keras normalizes in: float32 at least."""
    import tensorflow as tf

    (x,) = call.inputs
    x = tf.cast(x, call.layer.compute_dtype)
    return x if x.dtype == tf.float64 else tf.cast(x, tf.float32)


def _shift(call: PartCall) -> Any:
    import tensorflow as tf

    return tf.stop_gradient(tf.cast(call.weights[-2], _input(call).dtype))


def _moments(call: PartCall, x: Any) -> tuple[Any, Any]:
    """Mean and variance of each channel over the whole batch."""
    import tensorflow as tf

    if not call.combined:
        return tf.nn.moments(x, tuple(range(len(x.shape) - 1)))
    num_elements = math.prod(call.part.operator.output.shape[:-1])
    a, b = tf.unstack(call.combined[0] * (1 / num_elements))
    # Rounding may leave a constant channel a tiny negative variance.
    return _shift(call) + a, tf.nn.relu(b - tf.square(a))
