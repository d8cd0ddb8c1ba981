"""Pooling: batch (S), spatial axes with their halo (A) and channels (A) are split."""

import math
from typing import Any

import numpy as np

from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions, volume, whole
from keras_soap.operators.rule import Dimension, Part, PartCall, PartResult, Rule, axis_dimensions
from keras_soap.operators.windows import (
    channels_first,
    input_regions,
    pad,
    splits_space,
    windows,
)


class _Pooling(Rule):
    """What pooling over windows shares. Padding never takes part in the result."""

    def refuses(self, attributes, inputs, output):
        return channels_first(attributes)

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        return [input_regions(regions, windows(operator, "pool_size"))]

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        taps = math.prod(window.size for window in windows(operator, "pool_size"))
        return 1.0 * taps * volume(regions)

    def shrink(self, part: Part) -> dict[str, Any]:
        return {"padding": "valid"} if splits_space(part) else {}


class MaxPooling(_Pooling):
    """MaxPooling1D, MaxPooling2D and MaxPooling3D."""

    kind = "max_pooling"
    layers = ("MaxPooling1D", "MaxPooling2D", "MaxPooling3D")

    def prepare(self, part: Part, inputs: list[Any]) -> list[Any]:
        if not splits_space(part):
            return inputs
        (tensor,) = inputs
        return [pad(part, windows(part.operator, "pool_size"), tensor, tensor.dtype.min)]


class AveragePooling(_Pooling):
    """AveragePooling1D, AveragePooling2D and AveragePooling3D."""

    kind = "average_pooling"
    layers = ("AveragePooling1D", "AveragePooling2D", "AveragePooling3D")

    def prepare(self, part: Part, inputs: list[Any]) -> list[Any]:
        if not splits_space(part):
            return inputs
        return [pad(part, windows(part.operator, "pool_size"), inputs[0])]

    def compute(self, call: PartCall) -> PartResult:
        result = super().compute(call)
        if not splits_space(call.part):
            return result
        # A mean over zeros too has been taken; the layer's is over elements of the tensor only.
        (mean,) = result.outputs
        of = windows(call.part.operator, "pool_size")
        for axis, (window, range_) in enumerate(zip(of, call.part.output[1:-1], strict=True), 1):
            share = window.counts(*range_) / window.size
            if np.any(share != 1):
                shape = [-1 if a == axis else 1 for a in range(len(mean.shape))]
                mean = mean / share.reshape(shape).astype(mean.dtype.as_numpy_dtype)
        return PartResult((mean,))


class GlobalPooling(Rule):
    """Global pooling: spatial axes are reduced over, and read whole."""

    kind = "global_pooling"
    layers = tuple(f"Global{mode}Pooling{n}D" for mode in ("Average", "Max") for n in (1, 2, 3))

    def refuses(self, attributes, inputs, output):
        if len(inputs) > 1:
            return "a mask is reduced over as well"
        return channels_first(attributes)

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        spatial = range(1, len(operator.output.shape) - 1)
        return axis_dimensions(operator, skip=tuple(spatial))

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        spatial = whole(len(regions), operator.input_specs[0].shape[1:-1])
        return [np.concatenate([regions[:, :1], spatial, regions[:, -1:]], axis=1)]

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return volume(self.input_regions(operator, regions)[0]).astype(np.float64)
