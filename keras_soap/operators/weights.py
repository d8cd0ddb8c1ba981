"""Weights as tensors, and what is computed of weights alone.

1. A weight that is read in ways which no split fits alike, or computed with before anything else
   is (`ops.transpose(weight)`), is an operator of kind `"weight"`: it has the weight, and makes it.
   Any axis can be split (P).
2. It is the same for all samples. So there may be a copy for each of several parts of the batch:
   the operator has a space (samples, axes of the weight), and parts along samples hold copies,
   whose gradients are reduced as those of any weight. Readers find the copy nearest to them, so
   data parallelism moves what it always does.
3. What is computed of weights alone is split and copied likewise: a kind that ends in `_of_weights`
   is that of an operation, with such a space before its outputs.

Their attribute `"copies"` is how many copies there can be: the samples of a batch.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_soap.graph.operator_graph import SPACE, Operator, TensorSpec
from keras_soap.graph.region import Regions
from keras_soap.operators.rule import (
    NOT_AN_AXIS,
    Combine,
    Dimension,
    DimensionKind,
    PartCall,
    PartResult,
    Rule,
)

OF_WEIGHTS = "_of_weights"
"""Suffix of the kind of an operation on weights alone."""


class Weight(Rule):
    """A weight, which other operators read."""

    kind = "weight"
    free = True

    def output_specs(self, attributes, made):
        return _space(attributes, made[0]), *made

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        axes = [
            Dimension(f"axis_{axis}", (axis + 1, axis), size, DimensionKind.PARAMETER)
            for axis, size in enumerate(operator.output_specs[1].shape)
        ]
        return _copies(operator), *axes

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        return []

    def weight_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        return [regions[:, 1:]]

    def made_outputs(self, operator: Operator) -> Sequence[int]:
        return ()

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return np.zeros(len(regions))

    def compute(self, call: PartCall) -> PartResult:
        import tensorflow as tf

        return PartResult((None, tf.identity(call.weights[0])))


class OfWeights(Rule):
    """An operation on weights alone.

    Args:
        rule: Of the operation.
    """

    several_outputs = True

    def __init__(self, rule: Rule):
        self.rule = rule
        self.free = rule.free

    def operation(self, operator: Operator) -> Operator:
        """It without copies."""
        kind = operator.kind.removesuffix(OF_WEIGHTS)
        return dataclasses.replace(operator, kind=kind, output_specs=operator.output_specs[1:])

    def output_specs(self, attributes, made):
        outputs = self.rule.output_specs(attributes, made)
        return _space(attributes, outputs[0]), *outputs

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        found = self.rule.dimensions(self.operation(operator))
        axes = [
            dataclasses.replace(
                dimension,
                name=_axis_name(dimension.name),
                axes=(dimension.axis + 1, *dimension.axes),
                kind=DimensionKind.PARAMETER,
            )
            for dimension in found
        ]
        return _copies(operator), *axes

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        return self.rule.input_regions(self.operation(operator), regions[:, 1:])

    def made_outputs(self, operator: Operator) -> Sequence[int]:
        return [1 + number for number in self.rule.made_outputs(self.operation(operator))]

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return self.rule.flops(self.operation(operator), regions[:, 1:])

    def backward_flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return self.rule.backward_flops(self.operation(operator), regions[:, 1:])

    def combines(self, operator: Operator, regions: Regions) -> tuple[Combine, ...]:
        return tuple(
            dataclasses.replace(combine, over=tuple(map(_axis_name, combine.over)))
            for combine in self.rule.combines(self.operation(operator), regions[:, 1:])
        )

    def contribute(self, call: PartCall, number: int) -> Any:
        return self.rule.contribute(self._call(call), number)

    def compute(self, call: PartCall) -> PartResult:
        return PartResult((None, *self.rule.compute(self._call(call)).outputs))

    def _call(self, call: PartCall) -> PartCall:
        operator = self.operation(call.part.operator)
        part = dataclasses.replace(call.part, operator=operator, output=call.part.output[1:])
        return dataclasses.replace(call, part=part)


def _space(attributes: dict[str, Any], made: TensorSpec) -> TensorSpec:
    return TensorSpec((attributes["copies"], *made.shape), SPACE)


def _copies(operator: Operator) -> Dimension:
    axes = (0, *[NOT_AN_AXIS] * (len(operator.output_specs) - 1))
    return Dimension("sample", axes, operator.output.shape[0], DimensionKind.SAMPLE)


def _axis_name(name: str) -> str:
    """Of an operation's axis: the first is no sample where it is one of a weight."""
    return "axis_0" if name == "sample" else name
