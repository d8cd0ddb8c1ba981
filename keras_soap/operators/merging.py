"""Merging layers and the operations of the same names: every axis is split.

A layer takes a list of tensors, an operation takes two; `PartCall.arguments` knows which. They
differ in how they broadcast tensors of fewer axes: an operation as NumPy does, a layer keeps the
batch axis first.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_soap.graph.operator_graph import Operator, TensorSpec
from keras_soap.graph.region import Regions, broadcast_regions, volume
from keras_soap.operators.bias import UNKNOWN, is_misread
from keras_soap.operators.elementwise import Elementwise
from keras_soap.operators.rule import PartCall, PartResult, Rule


class Merging(Elementwise):
    """Differences, products and extremes of several tensors."""

    kind = "merging"
    layers = ("Subtract", "Multiply", "Maximum", "Minimum")

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        if "trainable" not in operator.attributes:  # an operation, not a layer
            return super().input_regions(operator, regions)
        rank = regions.shape[1]
        result = []
        for spec in operator.input_specs:
            batch, *rest = spec.shape
            expanded = (batch, *[1] * (rank - len(spec.shape)), *rest)
            region = broadcast_regions(regions, expanded)
            kept = [0, *range(rank - len(rest), rank)]
            result.append(region[:, kept])
        return result

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return 1.0 * max(len(operator.inputs) - 1, 1) * volume(regions)


class Sum(Merging):
    """Sums and means of several tensors, which Keras may take for biases (`bias`)."""

    kind = "sum"
    layers = ("Add", "Average")

    def refuses(self, attributes, inputs, output):
        if "axis" in attributes:
            return "it is the operation Average, a weighted mean along an axis"
        operands = attributes.get("operands")
        if operands and is_misread(*_shapes(operands, inputs, output)):
            return "Keras adds its second argument along another axis than broadcasting does"
        return None

    def cut(self, call: PartCall) -> PartCall:
        return _without_misreading(super().cut(call))


def _shapes(
    operands: Sequence[Any], inputs: Sequence[TensorSpec], output: TensorSpec
) -> list[tuple[int, ...]]:
    """Of the terms of an operation, as Keras sees them: it does not know the number of samples."""
    result: list[tuple[int, ...]] = []
    for operand in operands:
        match operand:
            case ["input", number]:
                shape = inputs[number].shape
                if shape and len(shape) == len(output.shape) and shape[0] == output.shape[0]:
                    shape = (UNKNOWN, *shape[1:])
            case ["weight", _, *shape] | ["array", *shape]:
                shape = tuple(shape)
            case _:  # A number.
                shape = ()
        result.append(shape)
    return result


def _without_misreading(call: PartCall) -> PartCall:
    """The call with terms spelled out where Keras would add one along another axis (`bias`)."""
    from keras import Layer, ops, tree

    from keras_soap.operators.computation import with_weights

    sizes = tuple(stop - start for start, stop in call.part.output)

    def aligned(value: Any) -> Any:
        shape = tuple(getattr(value, "shape", ()))
        if not isinstance(call.layer, Layer):
            return value
        return ops.reshape(value, (*shape[:1], *[1] * (len(sizes) - len(shape)), *shape[1:]))

    def arguments(inputs: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = with_weights(call, *call.arguments(inputs))
        terms = list(map(aligned, tree.flatten(given)))
        shapes = [tuple(getattr(term, "shape", ())) for term in terms]
        sums = itertools.accumulate(shapes, np.broadcast_shapes)
        if not any(map(is_misread, sums, shapes[1:])):
            return given
        spelled_out: Any = [ops.broadcast_to(term, sizes) for term in terms]
        return tree.pack_sequence_as(given, spelled_out)

    return dataclasses.replace(call, arguments=arguments)


class Concatenate(Rule):
    """Concatenation; a part reads what it needs of each input, of some perhaps nothing."""

    kind = "concatenate"
    layers = ("Concatenate",)

    def refuses(self, attributes, inputs, output):
        if not isinstance(attributes.get("axis"), int):
            return "its axis is not known"
        return None

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        axis = operator.attributes["axis"] % regions.shape[1]
        offset, result = 0, []
        for spec in operator.input_specs:
            region = regions.copy()
            region[:, axis] = np.clip(regions[:, axis] - offset, 0, spec.shape[axis])
            result.append(region)
            offset += spec.shape[axis]
        return result

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return np.zeros(len(regions))

    def compute(self, call: PartCall) -> PartResult:
        from keras import ops

        operator = call.part.operator
        parts: list[Any] = [
            ops.cast(tensor, operator.output.dtype) for tensor in call.inputs if tensor is not None
        ]
        axis = operator.attributes["axis"]
        return PartResult((ops.concatenate(parts, axis) if len(parts) > 1 else parts[0],))
