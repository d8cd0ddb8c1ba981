"""Convolutions: batch (S), spatial axes with their halo (A) and output channels (P) are split.

A part that makes the whole of the spatial axes pads as the layer does; any other pads what lies
outside the tensor itself, and runs a `valid` clone. Input channels, which are reduced over, stay
whole, but for those that a group or a depthwise kernel does not look at.
"""

import math
from typing import Any

import numpy as np

from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions, full_axis, volume, whole
from keras_soap.operators.activations import unknown_activation, unsplit_axes
from keras_soap.operators.rule import (
    Dimension,
    DimensionKind,
    Part,
    Rule,
    axis_dimensions,
)
from keras_soap.operators.windows import (
    channels_first,
    input_regions,
    pad,
    splits_space,
    windows,
)


class _Convolution(Rule):
    """What all convolutions share."""

    def refuses(self, attributes, inputs, output):
        if attributes.get("lora_rank") or attributes.get("quantization_config"):
            return "LoRA and quantized layers have other weights"
        return channels_first(attributes) or unknown_activation(attributes)

    def channel_step(self, operator: Operator) -> int:
        """Output channels that cannot be separated."""
        return 1

    def input_channels(self, operator: Operator, channels: np.ndarray) -> np.ndarray:
        """(parts, 2): input channels that ranges of output channels see. Here: all."""
        return full_axis(len(channels), operator.input_specs[0].shape[-1])

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        return axis_dimensions(
            operator,
            kinds={"channel": DimensionKind.PARAMETER},
            steps={"channel": self.channel_step(operator)},
            skip=unsplit_axes(operator.attributes),
        )

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        result = input_regions(regions, windows(operator, "kernel_size"))
        result[:, -1] = self.input_channels(operator, regions[:, -1])
        return [result]

    def prepare(self, part: Part, inputs: list[Any]) -> list[Any]:
        if not splits_space(part):
            return inputs
        return [pad(part, windows(part.operator, "kernel_size"), inputs[0])]

    def shrink(self, part: Part) -> dict[str, Any]:
        return {"padding": "valid" if splits_space(part) else part.operator.attributes["padding"]}


class Convolution(_Convolution):
    """Conv1D, Conv2D and Conv3D; grouped ones are split by whole groups of channels."""

    kind = "convolution"
    layers = ("Conv1D", "Conv2D", "Conv3D")

    def channel_step(self, operator: Operator) -> int:
        groups = operator.attributes.get("groups", 1)
        return operator.output.shape[-1] // groups if groups > 1 else 1

    def input_channels(self, operator: Operator, channels: np.ndarray) -> np.ndarray:
        groups = operator.attributes.get("groups", 1)
        if groups == 1:
            return super().input_channels(operator, channels)
        inputs = operator.input_specs[0].shape[-1] // groups
        return channels // self.channel_step(operator) * inputs

    def weight_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        kernel = whole(len(regions), operator.weight_specs[0].shape)
        kernel[:, -1] = regions[:, -1]
        return [kernel, regions[:, -1:]][: len(operator.weight_specs)]

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return 2.0 * math.prod(operator.weight_specs[0].shape[:-1]) * volume(regions)

    def shrink(self, part: Part) -> dict[str, Any]:
        start, stop = part.output[-1]
        changes = {**super().shrink(part), "filters": stop - start}
        if part.operator.attributes.get("groups", 1) > 1:
            changes["groups"] = (stop - start) // self.channel_step(part.operator)
        return changes


class DepthwiseConvolution(_Convolution):
    """DepthwiseConv1D and DepthwiseConv2D: an output channel sees one input channel."""

    kind = "depthwise_convolution"
    layers = ("DepthwiseConv1D", "DepthwiseConv2D")

    def channel_step(self, operator: Operator) -> int:
        return operator.attributes["depth_multiplier"]

    def input_channels(self, operator: Operator, channels: np.ndarray) -> np.ndarray:
        return channels // self.channel_step(operator)

    def weight_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        kernel = whole(len(regions), operator.weight_specs[0].shape)
        kernel[:, -2] = self.input_channels(operator, regions[:, -1])
        return [kernel, regions[:, -1:]][: len(operator.weight_specs)]

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return 2.0 * math.prod(operator.weight_specs[0].shape[:-2]) * volume(regions)


class SeparableConvolution(_Convolution):
    """SeparableConv1D and SeparableConv2D: all parts of the channels share the depthwise stage."""

    kind = "separable_convolution"
    layers = ("SeparableConv1D", "SeparableConv2D")

    def weight_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        depthwise = whole(len(regions), operator.weight_specs[0].shape)
        pointwise = whole(len(regions), operator.weight_specs[1].shape)
        pointwise[:, -1] = regions[:, -1]
        return [depthwise, pointwise, regions[:, -1:]][: len(operator.weight_specs)]

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        *taps, inputs, multiplier = operator.weight_specs[0].shape
        middle = volume(regions[:, :-1]) * inputs * multiplier
        return 2.0 * math.prod(taps) * middle + 2.0 * inputs * multiplier * volume(regions)

    def shrink(self, part: Part) -> dict[str, Any]:
        start, stop = part.output[-1]
        return {**super().shrink(part), "filters": stop - start}
