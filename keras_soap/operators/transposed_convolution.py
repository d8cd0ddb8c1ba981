"""Transposed convolutions: batch (S), spatial axes with their halo (A) and filters (P) are split.

Input `i` adds to the outputs `i * stride - before + tap`. A part runs a `valid` clone, whose first
output is its first input's first tap, and cuts what it is to make out of that.
"""

from typing import Any

import numpy as np

from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions, volume, whole
from keras_soap.operators.convolution import Convolution
from keras_soap.operators.rule import Part, PartCall, PartResult
from keras_soap.operators.windows import pad_spatial, per_axis, splits_space


class TransposedConvolution(Convolution):
    """Conv1DTranspose, Conv2DTranspose and Conv3DTranspose."""

    kind = "transposed_convolution"
    layers = ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")

    def refuses(self, attributes, inputs, output):
        if attributes.get("output_padding") is not None:
            return "output_padding is beyond the rule"
        if max(per_axis(attributes.get("dilation_rate", 1), 1)) > 1:
            return "dilation is beyond the rule"
        return super().refuses(attributes, inputs, output)

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        result = whole(len(regions), operator.input_specs[0].shape)
        result[:, 0] = regions[:, 0]
        for axis, size in enumerate(operator.input_specs[0].shape[1:-1], 1):
            result[:, axis] = np.clip(_giving(operator, axis, regions[:, axis]), 0, size)
        return [result]

    def weight_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        kernel = whole(len(regions), operator.weight_specs[0].shape)
        kernel[:, -2] = regions[:, -1]
        return [kernel, regions[:, -1:]][: len(operator.weight_specs)]

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        *taps, _, channels = operator.weight_specs[0].shape
        filters = regions[:, -1, 1] - regions[:, -1, 0]
        positions = volume(self.input_regions(operator, regions)[0][:, :-1])
        return 2.0 * np.prod(taps) * channels * filters * positions

    def prepare(self, part: Part, inputs: list[Any]) -> list[Any]:
        if not splits_space(part):
            return inputs
        amounts = []
        for axis in range(1, len(part.output) - 1):
            ((first, last),) = _giving(part.operator, axis, np.array([part.output[axis]])).tolist()
            start, stop = part.inputs[0][axis]
            amounts.append((start - first, last - stop))
        return [pad_spatial(inputs[0], amounts)]

    def compute(self, call: PartCall) -> PartResult:
        result = super().compute(call)
        part, (made,) = call.part, result.outputs
        if not splits_space(part):
            return result
        crop = [slice(None)]
        for axis in range(1, len(part.output) - 1):
            start, stop = part.output[axis]
            _, stride, before = _axis(part.operator, axis)
            first = int(_giving(part.operator, axis, np.array([part.output[axis]]))[0, 0])
            origin = first * stride - before
            crop.append(slice(start - origin, stop - origin))
        return PartResult((made[tuple(crop)],))


def _axis(operator: Operator, axis: int) -> tuple[int, int, int]:
    """Taps, stride and outputs cut off before the first, of a spatial axis."""
    rank = len(operator.output.shape) - 2
    taps = per_axis(operator.attributes["kernel_size"], rank)[axis - 1]
    stride = per_axis(operator.attributes["strides"], rank)[axis - 1]
    same = operator.attributes["padding"] == "same"
    return taps, stride, max(taps - stride, 0) // 2 if same else 0


def _giving(operator: Operator, axis: int, ranges: np.ndarray) -> np.ndarray:
    """(parts, 2): which inputs add to `ranges` of outputs, as if the axis had no ends."""
    taps, stride, before = _axis(operator, axis)
    first = (ranges[:, 0] + before - (taps - 1)) // stride
    last = (ranges[:, 1] - 1 + before) // stride
    return np.stack([first, last + 1], axis=1)
