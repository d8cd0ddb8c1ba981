"""Sliding windows: which inputs a range of outputs sees, and how much of that is padding.

Output `o` of an axis sees inputs `o * stride - before + tap * dilation`, for each tap. What lies
outside the tensor is padding. Shared by convolutions and pooling.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions
from keras_soap.operators.rule import Part


@dataclass(frozen=True, slots=True)
class Window:
    """The window of one axis.

    Attributes:
        size: Number of taps.
        stride: Inputs between the windows of two neighbouring outputs.
        dilation: Inputs between two neighbouring taps.
        before: Padding before the first input.
        inputs: Size of the axis in the input.
    """

    size: int
    stride: int
    dilation: int
    before: int
    inputs: int

    @property
    def span(self) -> int:
        """Inputs from the first tap to the last."""
        return (self.size - 1) * self.dilation + 1

    def seen(self, ranges: np.ndarray) -> np.ndarray:
        """(parts, 2): what `ranges` of outputs see, padding included."""
        start = ranges[:, 0] * self.stride - self.before
        stop = (ranges[:, 1] - 1) * self.stride - self.before + self.span
        return np.stack([start, stop], axis=1)

    def padding(self, start: int, stop: int) -> tuple[int, int]:
        """How much of what outputs [start, stop) see lies before and after the tensor."""
        first, last = self.seen(np.array([[start, stop]]))[0].tolist()
        return max(-first, 0), max(last - self.inputs, 0)

    def counts(self, start: int, stop: int) -> np.ndarray:
        """For each output in [start, stop) how many taps fall inside the tensor."""
        first = np.arange(start, stop)[:, None] * self.stride - self.before
        taps = first + np.arange(self.size) * self.dilation
        return np.sum((taps >= 0) & (taps < self.inputs), axis=1)


def windows(operator: Operator, size: str) -> tuple[Window, ...]:
    """The windows of the spatial axes.

    Args:
        operator: Its attributes have `strides`, `padding` and perhaps `dilation_rate`.
        size: The attribute that has the sizes: `"kernel_size"` or `"pool_size"`.
    """
    attributes = operator.attributes
    inputs = operator.input_specs[0].shape[1:-1]
    sizes = per_axis(attributes[size], len(inputs))
    strides = per_axis(attributes.get("strides") or sizes, len(inputs))
    dilations = per_axis(attributes.get("dilation_rate") or 1, len(inputs))
    result = []
    for taps, stride, dilation, n in zip(sizes, strides, dilations, inputs, strict=True):
        span = (taps - 1) * dilation + 1
        before = 0
        if attributes["padding"] == "same":
            # https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2
            before = max((math.ceil(n / stride) - 1) * stride + span - n, 0) // 2
        elif attributes["padding"] == "causal":
            before = span - 1
        result.append(Window(taps, stride, dilation, before, n))
    return tuple(result)


def input_regions(regions: Regions, of: Sequence[Window]) -> Regions:
    """`regions` of the output with spatial axes replaced by what they see inside the tensor."""
    result = regions.copy()
    for axis, window in enumerate(of, 1):
        result[:, axis] = np.clip(window.seen(regions[:, axis]), 0, window.inputs)
    return result


def splits_space(part: Part) -> bool:
    """Whether the part makes less than the whole of the spatial axes."""
    sizes = part.operator.output.shape[1:-1]
    return part.output[1:-1] != tuple((0, size) for size in sizes)


def pad(part: Part, of: Sequence[Window], tensor: Any, value: Any = 0) -> Any:
    """`tensor`, padded with `value` where the part sees beyond the border of the whole tensor."""
    amounts = [w.padding(*range_) for w, range_ in zip(of, part.output[1:-1], strict=True)]
    return pad_spatial(tensor, amounts, value)


def pad_spatial(tensor: Any, amounts: Sequence[tuple[int, int]], value: Any = 0) -> Any:
    """`tensor` padded by (before, after) on each axis between batch and channels."""
    import tensorflow as tf

    if not any(amount for pair in amounts for amount in pair):
        return tensor
    return tf.pad(tensor, [(0, 0), *amounts, (0, 0)], constant_values=value)


def per_axis(value: Any, rank: int) -> tuple[int, ...]:
    """A config value for each of `rank` axes: JSON has made lists of tuples, or it is a number."""
    return tuple(value) if isinstance(value, (list, tuple)) else (value,) * rank


def channels_first(attributes: Mapping[str, Any]) -> str | None:
    """A reason to refuse, shared by all rules that know channels-last tensors only."""
    if attributes.get("data_format") == "channels_first":
        return "only channels_last tensors have a rule"
    return None
