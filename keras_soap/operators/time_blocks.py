"""Layers that are opened in time: an operator for each block of consecutive steps.

1. Blocks of a layer are computed by one layer on one set of weights, yet each is split and placed
   on its own. So the weights belong to the first block, and are *handed on*: each block reads them
   from the one before, as inputs, and makes them again as outputs, next to what it computes.
2. Where neighbouring blocks lie on the same devices nothing moves. Where they do not, the weights
   move on with the states, and the sum of the gradients of all later blocks comes back.
3. What is handed on takes no memory of its own; what arrives from another device does.

A kind that ends in `_block` is of these: `"lstm_block"` is a block of an LSTM. Its attributes are
those of the layer, and `"weights"`: [shape, dtype, trainable] of each, `"is_handed"` and
`"hands_on"`: whether it reads them from another block, and makes them for another.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_soap.graph.operator_graph import Operator, WeightSpec
from keras_soap.graph.region import Regions, whole
from keras_soap.operators.rule import (
    NOT_AN_AXIS,
    Combine,
    Dimension,
    Part,
    PartCall,
    PartResult,
    Rule,
)

SUFFIX = "_block"


class Block(Rule):
    """A block of steps of a layer with weights.

    Args:
        rule: Of the layer.
    """

    several_outputs = True

    def __init__(self, rule: Rule):
        self.rule = rule

    def layer_operator(self, operator: Operator) -> Operator:
        """The block as an operator of the layer's own kind, with weights of its own."""
        specs = _weights(operator)
        inputs = len(operator.inputs) - _num_handed(operator)
        outputs = len(operator.output_specs) - _num_handed_on(operator)
        return dataclasses.replace(
            operator,
            kind=operator.kind.removesuffix(SUFFIX),
            inputs=operator.inputs[:inputs],
            input_specs=operator.input_specs[:inputs],
            output_specs=operator.output_specs[:outputs],
            weights=tuple(range(len(specs))),
            weight_specs=specs,
        )

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        inner = self.layer_operator(operator)
        found = self.rule.dimensions(inner)
        if not _num_handed_on(operator):
            return found
        return tuple(
            dataclasses.replace(d, axes=(*d.axes, *self._axes_in_weights(inner, d))) for d in found
        )

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        inner = self.layer_operator(operator)
        handed = self.rule.weight_regions(inner, regions) if _num_handed(operator) else []
        return [*self.rule.input_regions(inner, regions), *handed]

    def weight_shapes(self, operator: Operator) -> list[tuple[int, ...]]:
        if _num_handed(operator):
            return []
        return self.rule.weight_shapes(self.layer_operator(operator))

    def weight_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        if _num_handed(operator):
            return []
        return self.rule.weight_regions(self.layer_operator(operator), regions)

    def made_outputs(self, operator: Operator) -> Sequence[int]:
        return range(len(operator.output_specs) - _num_handed_on(operator))

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return self.rule.flops(self.layer_operator(operator), regions)

    def backward_flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return self.rule.backward_flops(self.layer_operator(operator), regions)

    def combines(self, operator: Operator, regions: Regions) -> tuple[Combine, ...]:
        return self.rule.combines(self.layer_operator(operator), regions)

    def contribute(self, call: PartCall, number: int) -> Any:
        return self.rule.contribute(self._layer_call(call), number)

    def compute(self, call: PartCall) -> PartResult:
        import tensorflow as tf

        inner = self._layer_call(call)
        outputs = self.rule.compute(inner).outputs
        if not _num_handed_on(call.part.operator):
            return PartResult(outputs)
        return PartResult((*outputs, *(tf.identity(weight) for weight in inner.weights)))

    def _layer_call(self, call: PartCall) -> PartCall:
        part, operator = call.part, self.layer_operator(call.part.operator)
        inputs = len(operator.inputs)
        handed = _num_handed(part.operator) > 0
        return dataclasses.replace(
            call,
            part=Part(
                operator,
                part.index,
                part.output,
                part.inputs[:inputs],
                part.inputs[inputs:] if handed else part.weights,
            ),
            inputs=call.inputs[:inputs],
            weights=call.inputs[inputs:] if handed else call.weights,
        )

    def _axes_in_weights(self, inner: Operator, dimension: Dimension) -> list[int]:
        """For each weight the axis that a split of `dimension` splits."""
        regions = whole(1, inner.output.shape)
        regions[0, dimension.axis] = (0, dimension.step)
        axes = []
        for shape, region in zip(
            self.rule.weight_shapes(inner), self.rule.weight_regions(inner, regions), strict=True
        ):
            split = np.flatnonzero(region[0, :, 1] < shape)
            axes.append(int(split[0]) if len(split) else NOT_AN_AXIS)
        return axes


class Steps(Rule):
    """Some steps of a tensor: a view of it, from `"start"` on along axis 1."""

    kind = "steps"
    free = True

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        result = regions.copy()
        result[:, 1] += operator.attributes["start"]
        return [result]

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return np.zeros(len(regions))

    def compute(self, call: PartCall) -> PartResult:
        return PartResult(tuple(call.inputs))


def _weights(operator: Operator) -> tuple[WeightSpec, ...]:
    return tuple(
        WeightSpec(f"weight_{number}", operator.layer, tuple(shape), dtype, trainable)
        for number, (shape, dtype, trainable) in enumerate(operator.attributes["weights"])
    )


def _num_handed(operator: Operator) -> int:
    """How many weights it reads from the block before: all or none."""
    return len(operator.attributes["weights"]) if operator.attributes["is_handed"] else 0


def _num_handed_on(operator: Operator) -> int:
    """How many weights it hands to the next block: all or none."""
    return len(operator.attributes["weights"]) if operator.attributes["hands_on"] else 0
