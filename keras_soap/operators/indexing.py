"""Slicing, splitting and stacking: elements are picked, and nothing is computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions
from keras_soap.operators.rule import Dimension, PartCall, PartResult, Rule, axis_dimensions


class _Picking(Rule):
    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return np.zeros(len(regions))


@dataclass(frozen=True, slots=True)
class _Axis:
    """An axis of what is sliced: where it begins, and its axis in the output, if it is kept."""

    start: int
    output: int | None


class GetItem(_Picking):
    """`tensor[key]` for whole numbers, slices without steps, new axes and an ellipsis."""

    kind = "get_item"
    layers = ("GetItem",)

    def refuses(self, attributes, inputs, output):
        if len(inputs) != 1:
            return "its key is a tensor"
        axes = _sliced(attributes["call"], inputs[0].shape)
        if axes is None:
            return "its key is not of numbers and slices without steps"
        if not axes or axes[0] != _Axis(0, 0) or inputs[0].shape[0] != output.shape[0]:
            return "it picks samples"
        return None

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        shape = operator.input_specs[0].shape
        result = np.empty((len(regions), len(shape), 2), np.int64)
        for axis, sliced in enumerate(_sliced(operator.attributes["call"], shape) or ()):
            if sliced.output is None:
                result[:, axis] = (sliced.start, sliced.start + 1)
            else:
                result[:, axis] = regions[:, sliced.output] + sliced.start
        return [result]

    def compute(self, call: PartCall) -> PartResult:
        from keras import ops

        return PartResult((ops.reshape(call.inputs[0], _sizes(call)),))


def _sliced(key: Sequence[Any], shape: Sequence[int]) -> list[_Axis] | None:
    """What a key makes of each axis, or None if it is of another kind."""
    key = list(key)
    if "Ellipsis" not in key:
        key.append("Ellipsis")
    taken = sum(item is not None for item in key) - 1
    axes: list[_Axis] = []
    made = 0
    for item in key:
        if item is None:
            made += 1
        elif item == "Ellipsis":
            for _ in range(len(shape) - taken):
                axes.append(_Axis(0, made))
                made += 1
        elif isinstance(item, dict):
            start, stop, step = item["slice"]
            if not all(x is None or type(x) is int for x in (start, stop, step)):
                return None
            start, _, step = slice(start, stop, step).indices(shape[len(axes)])
            if step != 1:
                return None
            axes.append(_Axis(start, made))
            made += 1
        elif type(item) is int:
            axes.append(_Axis(item % shape[len(axes)], None))
        else:
            return None
    return axes


class Split(_Picking):
    """The operation Split: all outputs are split alike, along any axis but the one it is about."""

    kind = "split"
    layers = ("Split",)
    several_outputs = True

    def refuses(self, attributes, inputs, output):
        if attributes.get("axis", 0) % len(output.shape) == 0:
            return "it separates samples"
        return None

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        return axis_dimensions(operator, skip=(operator.attributes["axis"],))

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        (spec,) = operator.input_specs
        axis = operator.attributes["axis"] % len(spec.shape)
        result = regions.copy()
        result[:, axis] = (0, spec.shape[axis])
        return [result]


class Stack(_Picking):
    """The operation Stack; a part reads only those tensors that it holds."""

    kind = "stack"
    layers = ("Stack",)

    def refuses(self, attributes, inputs, output):
        if attributes.get("axis", 0) % len(output.shape) == 0:
            return "it makes samples"
        return None

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        axis = operator.attributes["axis"] % regions.shape[1]
        others = [a for a in range(regions.shape[1]) if a != axis]
        result = []
        for number in range(len(operator.inputs)):
            region = regions[:, others].copy()
            outside = (regions[:, axis, 0] > number) | (regions[:, axis, 1] <= number)
            region[outside] = 0
            result.append(region)
        return result

    def compute(self, call: PartCall) -> PartResult:
        from keras import ops

        operator = call.part.operator
        held = [ops.cast(x, operator.output.dtype) for x in call.inputs if x is not None]
        return PartResult((ops.stack(held, operator.attributes["axis"]),))


class Repeat(_Picking):
    """The operation Repeat: every element stands several times in a row along an axis."""

    kind = "repeat"
    layers = ("Repeat",)

    def refuses(self, attributes, inputs, output):
        if type(attributes.get("repeats")) is not int or type(attributes.get("axis")) is not int:
            return "it repeats elements each its own times"
        if attributes["axis"] % len(output.shape) == 0:
            return "it repeats samples"
        return None

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        axis, times = self._axis(operator), operator.attributes["repeats"]
        result = regions.copy()
        result[:, axis, 0] = regions[:, axis, 0] // times
        result[:, axis, 1] = -(-regions[:, axis, 1] // times)
        return [result]

    def compute(self, call: PartCall) -> PartResult:
        operator = call.part.operator
        axis, times = self._axis(operator), operator.attributes["repeats"]
        (made,) = super().compute(call).outputs
        start, stop = call.part.output[axis]
        first = call.part.inputs[0][axis][0] * times
        crop = [slice(None)] * axis + [slice(start - first, stop - first)]
        return PartResult((made[tuple(crop)],))

    def _axis(self, operator: Operator) -> int:
        return operator.attributes["axis"] % len(operator.output.shape)


class BroadcastTo(_Picking):
    """The operation BroadcastTo."""

    kind = "broadcast"
    layers = ("BroadcastTo",)
    free = True

    def compute(self, call: PartCall) -> PartResult:
        from keras import ops

        return PartResult((ops.broadcast_to(call.inputs[0], _sizes(call)),))


def _sizes(call: PartCall) -> list[int]:
    return [stop - start for start, stop in call.part.output]
