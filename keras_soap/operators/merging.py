"""Merging layers and the operations of the same names: every axis is split.

A layer takes a list of tensors, an operation takes two; `PartCall.arguments` knows which. They
differ in how they broadcast tensors of fewer axes: an operation as NumPy does, a layer keeps the
batch axis first.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions, broadcast_regions, volume
from keras_soap.operators.elementwise import Elementwise
from keras_soap.operators.rule import PartCall, PartResult, Rule


class Merging(Elementwise):
    """Sums, products, means and extremes of several tensors."""

    kind = "merging"
    layers = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")

    def refuses(self, attributes, inputs, output):
        if "axis" in attributes:
            return "it is the operation of that name, a weighted mean along an axis"
        return None

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

    def cut(self, call: PartCall) -> PartCall:
        call = super().cut(call)
        return _broadcasting(call) if type(call.layer).__name__ == "Add" else call


def _broadcasting(call: PartCall) -> PartCall:
    """The call with columns repeated along the last axis.

    Keras takes a column of n elements that it adds to rows of n for a bias of the rows, as happens
    to parts of tensors of other sizes.
    """
    from keras import ops, tree

    from keras_soap.operators.computation import with_weights

    sizes = [stop - start for start, stop in call.part.output]

    def repeated(value: Any) -> Any:
        shape: tuple[int, ...] = tuple(getattr(value, "shape", ()))
        if len(shape) < 2 or shape[-1] > 1 or sizes[-1] == 1:
            return value
        return ops.broadcast_to(value, (*shape[:-1], sizes[-1]))

    def arguments(inputs: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = with_weights(call, *call.arguments(inputs))
        repeat: Any = tree.map_structure
        return repeat(repeated, args), repeat(repeated, kwargs)

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
