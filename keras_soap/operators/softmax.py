"""Softmax and its like: normalized over an axis.

A softmax is split along that axis, too. Parts of one position find the largest value m and
Z = Σ exp(x - m), one number each; then

    softmax(x) = exp(x - m) / Z    and    log softmax(x) = x - m - log Z.
"""

from typing import Any

import numpy as np

from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions, volume
from keras_soap.operators.constants import cut_broadcast, with_cut_constants
from keras_soap.operators.rule import (
    Combine,
    Dimension,
    PartCall,
    PartResult,
    Rule,
    axis_dimensions,
)


class OverAxis(Rule):
    """Base of rules whose operators may be a softmax over one axis, or its logarithm."""

    def axis(self, operator: Operator) -> int | None:
        """The axis of a softmax; None if the operator is none."""
        raise NotImplementedError(f"{type(self).__name__} has no axis")

    def is_log(self, operator: Operator) -> bool:
        """Whether it is the logarithm of one."""
        raise NotImplementedError(f"{type(self).__name__} has no is_log")

    def combines(self, operator: Operator, regions: Regions) -> tuple[Combine, ...]:
        axis = self.axis(operator)
        if axis is None or np.all(regions[:, axis] == (0, operator.output.shape[axis])):
            return ()
        elements = volume(np.delete(regions, axis, axis=1))
        over = tuple(d.name for d in self.dimensions(operator) if d.axis == axis)
        return (
            Combine("largest", over, elements, operator.output.dtype, "max"),
            Combine("sum", over, elements, operator.output.dtype),
        )

    def contribute(self, call: PartCall, number: int) -> Any:
        import tensorflow as tf

        x, axis = self._input(call)
        if number == 0:
            return tf.reshape(tf.stop_gradient(tf.reduce_max(x, axis)), [-1])
        return tf.reshape(tf.reduce_sum(tf.exp(x - _along(x, axis, call.combined[0])), axis), [-1])

    def compute(self, call: PartCall) -> PartResult:
        import tensorflow as tf

        if not call.combined:
            return super().compute(with_cut_constants(call, cut_broadcast))
        x, axis = self._input(call)
        shifted = x - _along(x, axis, call.combined[0])
        total = _along(x, axis, call.combined[1])
        if self.is_log(call.part.operator):
            return PartResult((shifted - tf.math.log(total),))
        return PartResult((tf.exp(shifted) / total,))

    def _input(self, call: PartCall) -> tuple[Any, int]:
        """The input in the dtype of the output, and the axis."""
        import tensorflow as tf

        axis = self.axis(call.part.operator)
        assert axis is not None
        return tf.cast(call.inputs[0], call.part.operator.output.dtype), axis


class Softmax(OverAxis):
    """Softmax layers and operations."""

    kind = "softmax"
    layers = ("Softmax",)
    takes_arrays = True

    def refuses(self, attributes, inputs, output):
        if attributes.get("axis", -1) is None:
            return "it normalizes over all axes"
        return None

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        axis = operator.attributes.get("axis", -1)
        whole = axis if isinstance(axis, list) else (axis,)
        return axis_dimensions(operator, skip=whole if self.axis(operator) is None else ())

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        # A maximum, a difference, an exponential (about 8), a sum and a quotient.
        return 12.0 * volume(regions)

    def axis(self, operator: Operator) -> int | None:
        axis = operator.attributes.get("axis", -1)
        if isinstance(axis, list) or "call" in operator.attributes:  # such as a constant mask
            return None
        return axis % len(operator.output.shape)

    def is_log(self, operator: Operator) -> bool:
        return False


class LogSoftmax(Softmax):
    """The operation."""

    kind = "log_softmax"
    layers = ("LogSoftmax",)

    def is_log(self, operator: Operator) -> bool:
        return True


class Normalizing(Softmax):
    """What is normalized over axes in other ways: these stay whole."""

    kind = "normalizing"
    layers = ("Sparsemax", "UnitNormalization")

    def axis(self, operator: Operator) -> int | None:
        return None


def _along(x: Any, axis: int, value: Any) -> Any:
    """A value for each position of `x` but along `axis`, in a shape that broadcasts."""
    import tensorflow as tf

    shape = list(x.shape)
    shape[axis] = 1
    return tf.reshape(value, shape)
