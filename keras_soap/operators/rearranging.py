"""Layers that pad, crop, repeat or permute: every axis is split, elements only move."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions
from keras_soap.operators.rule import Dimension, Part, PartCall, PartResult, Rule, axis_dimensions
from keras_soap.operators.windows import channels_first, pad_spatial, per_axis


class _Rearranging(Rule):
    """What these layers share: they do no arithmetic."""

    def refuses(self, attributes, inputs, output):
        return channels_first(attributes)

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return np.zeros(len(regions))


class ZeroPadding(_Rearranging):
    """ZeroPadding1D, 2D and 3D; a part may be nothing but padding."""

    kind = "zero_padding"
    layers = ("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        result = regions.copy()
        for axis, (before, _) in enumerate(_borders(operator, "padding"), 1):
            size = operator.input_specs[0].shape[axis]
            result[:, axis] = np.clip(regions[:, axis] - before, 0, size)
        return [result]

    def compute(self, call: PartCall) -> PartResult:
        import tensorflow as tf

        part, (tensor,) = call.part, call.inputs
        if tensor is None:
            shape = [stop - start for start, stop in part.output]
            return PartResult((tf.zeros(shape, part.operator.output.dtype),))
        amounts = [
            (start + before - out_start, out_stop - stop - before)
            for (start, stop), (out_start, out_stop), (before, _) in zip(
                part.inputs[0][1:-1],
                part.output[1:-1],
                _borders(part.operator, "padding"),
                strict=True,
            )
        ]
        return PartResult((tf.cast(pad_spatial(tensor, amounts), part.operator.output.dtype),))


class Cropping(_Rearranging):
    """Cropping1D, 2D and 3D: what a part reads is what it makes."""

    kind = "cropping"
    layers = ("Cropping1D", "Cropping2D", "Cropping3D")
    free = True

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        result = regions.copy()
        for axis, (before, _) in enumerate(_borders(operator, "cropping"), 1):
            result[:, axis] += before
        return [result]

    def compute(self, call: PartCall) -> PartResult:
        return PartResult(tuple(call.inputs))


class UpSampling(_Rearranging):
    """UpSampling1D, 2D and 3D; interpolation looks at neighbours, so then space stays whole."""

    kind = "up_sampling"
    layers = ("UpSampling1D", "UpSampling2D", "UpSampling3D")

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        nearest = operator.attributes.get("interpolation", "nearest") == "nearest"
        spatial = range(1, len(operator.output.shape) - 1)
        return axis_dimensions(operator, skip=() if nearest else spatial)

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        result = regions.copy()
        for axis, size in enumerate(_factors(operator), 1):
            result[:, axis, 0] = regions[:, axis, 0] // size
            result[:, axis, 1] = -(-regions[:, axis, 1] // size)
        return [result]

    def compute(self, call: PartCall) -> PartResult:
        (made,) = super().compute(call).outputs
        crop = [slice(None)]
        for size, (read, _), (start, stop) in zip(
            _factors(call.part.operator),
            call.part.inputs[0][1:-1],
            call.part.output[1:-1],
            strict=True,
        ):
            crop.append(slice(start - read * size, stop - read * size))
        return PartResult((made[tuple(crop)],))


class RepeatVector(_Rearranging):
    """RepeatVector: every step reads the same vector."""

    kind = "repeat_vector"
    layers = ("RepeatVector",)

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        return [regions[:, [0, 2]]]

    def shrink(self, part: Part) -> dict[str, Any]:
        start, stop = part.output[1]
        return {"n": stop - start}


class Permute(_Rearranging):
    """Permute, and the operations Transpose, Swapaxes and Moveaxis."""

    kind = "permute"
    layers = ("Permute", "Transpose", "Swapaxes", "Moveaxis")

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        result = np.empty_like(regions)
        result[:, _permutation(operator.attributes, regions.shape[1])] = regions
        return [result]


def _permutation(attributes: Mapping[str, Any], rank: int) -> list[int]:
    """For each axis of the output the axis of the input."""
    if "dims" in attributes:
        return [0, *attributes["dims"]]
    axes = list(range(rank))
    if "axis1" in attributes:
        one, other = attributes["axis1"], attributes["axis2"]
        axes[one], axes[other] = axes[other], axes[one]
        return axes
    if "source" in attributes:
        source, destination = (
            [a % rank for a in (value if isinstance(value, list) else [value])]
            for value in (attributes["source"], attributes["destination"])
        )
        rest = iter(axis for axis in axes if axis not in source)
        moved = dict(zip(destination, source, strict=True))
        return [moved[axis] if axis in moved else next(rest) for axis in axes]
    return [axis % rank for axis in attributes.get("axes") or reversed(axes)]


class Flip(_Rearranging):
    """The operation Flip; a part reads its mirror image."""

    kind = "flip"
    layers = ("Flip",)

    def refuses(self, attributes, inputs, output):
        if 0 in self._axes(attributes, len(output.shape)):
            return "it changes the order of samples"
        return None

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        shape = operator.output.shape
        result = regions.copy()
        for axis in self._axes(operator.attributes, len(shape)):
            result[:, axis] = shape[axis] - regions[:, axis, ::-1]
        return [result]

    def _axes(self, attributes: Mapping[str, Any], rank: int) -> list[int]:
        axis = attributes.get("axis")
        if axis is None:
            return list(range(rank))
        return [a % rank for a in (axis if isinstance(axis, list) else [axis])]


def _borders(operator: Operator, attribute: str) -> tuple[tuple[int, ...], ...]:
    """(before, after) of each spatial axis."""
    value = operator.attributes[attribute]
    rank = len(operator.output.shape) - 2
    if rank == 1:
        value = [value]
    return tuple(per_axis(border, 2) for border in per_axis(value, rank))


def _factors(operator: Operator) -> tuple[int, ...]:
    return per_axis(operator.attributes["size"], len(operator.output.shape) - 2)
