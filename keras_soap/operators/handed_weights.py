"""Operators that read weights from other operators, or hand them on.

1. Blocks of a layer that is opened in time are computed by one layer on one set of weights, yet
   each is split and placed on its own. So the weights belong to the first block, and are *handed
   on*: each block reads them from the one before, as inputs, and makes them again as outputs, next
   to what it computes.
2. So it is with weights that are read in ways which no split fits alike, such as a table that is
   looked up and projected onto: they belong to an operator of kind `"weight"`, and are handed to
   all that read them (see `weights`).
3. Where neighbours lie on the same devices nothing moves. Where they do not, weights move with the
   activations, and the sum of the gradients of all readers comes back.
4. What is handed on takes no memory of its own; what arrives from another device does.

A kind that ends in `_block` or `_handed` is of these: `"lstm_block"` is a block of an LSTM, and
`"embedding_handed"` looks up a table that another operator has. Its attributes are those of the
layer, and `"weights"`: [shape, dtype, trainable] of each, `"handed"`: positions of those that it
reads, behind its other inputs and in this order, and `"hands_on"`: whether it makes them all, for
the next block.
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

BLOCK = "_block"
"""Suffix of the kind of a block of steps."""

HANDED = "_handed"
"""Suffix of the kind of what reads a weight from an operator of kind `"weight"`."""


class HandedWeights(Rule):
    """A kind of operator, with weights that are handed to it or that it hands on.

    Args:
        rule: Of the kind with weights of its own.
    """

    several_outputs = True

    def __init__(self, rule: Rule):
        self.rule = rule

    def layer_operator(self, operator: Operator) -> Operator:
        """It as an operator of the layer's own kind, with weights of its own."""
        specs = _weights(operator)
        inputs = len(operator.inputs) - len(_handed(operator))
        outputs = len(operator.output_specs) - _num_handed_on(operator)
        return dataclasses.replace(
            operator,
            kind=operator.kind.removesuffix(BLOCK).removesuffix(HANDED),
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
        held = self.rule.weight_regions(inner, regions)
        handed = [held[position] for position in _handed(operator)]
        return [*self.rule.input_regions(inner, regions), *handed]

    def weight_shapes(self, operator: Operator) -> list[tuple[int, ...]]:
        return _own(operator, self.rule.weight_shapes(self.layer_operator(operator)))

    def weight_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        return _own(operator, self.rule.weight_regions(self.layer_operator(operator), regions))

    def rows_of_inputs(self, operator: Operator) -> Sequence[int]:
        first = len(operator.inputs) - len(_handed(operator))
        return [
            first + number
            for number, position in enumerate(_handed(operator))
            if position in self.rule.sparse_weights
        ]

    def made_outputs(self, operator: Operator) -> Sequence[int]:
        return self.rule.made_outputs(self.layer_operator(operator))

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

        operator, inner = call.part.operator, self._layer_call(call)
        result = self.rule.compute(inner)
        outputs = result.outputs
        if _num_handed_on(operator):
            outputs = (*outputs, *(tf.identity(weight) for weight in inner.weights))
        own = _own(operator, range(len(inner.weights)))
        # Weights that readers change are not handed to them: capture refuses that.
        updates = {own.index(position): new for position, new in result.updates.items()}
        return dataclasses.replace(result, outputs=outputs, updates=updates)

    def _layer_call(self, call: PartCall) -> PartCall:
        part, operator = call.part, self.layer_operator(call.part.operator)
        inputs = len(operator.inputs)
        handed = _handed(part.operator)

        def merged(own: Sequence[Any], given: Sequence[Any]) -> tuple[Any, ...]:
            by_position = dict(zip(handed, given, strict=True))
            left = iter(own)
            return tuple(
                by_position[position] if position in by_position else next(left)
                for position in range(len(operator.weights))
            )

        return dataclasses.replace(
            call,
            part=Part(
                operator,
                part.index,
                part.output,
                part.inputs[:inputs],
                merged(part.weights, part.inputs[inputs:]),
            ),
            inputs=call.inputs[:inputs],
            weights=merged(call.weights, call.inputs[inputs:]),
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


def _weights(operator: Operator) -> tuple[WeightSpec, ...]:
    own = iter(operator.weight_specs)
    return tuple(
        WeightSpec(f"weight_{number}", operator.layer, tuple(shape), dtype, trainable)
        if number in _handed(operator)
        else next(own)
        for number, (shape, dtype, trainable) in enumerate(operator.attributes["weights"])
    )


def _handed(operator: Operator) -> Sequence[int]:
    """Positions of the weights that it reads from other operators."""
    return operator.attributes["handed"]


def _own(operator: Operator, of_weights: Sequence[Any]) -> list[Any]:
    """Of one thing for each weight those of the weights that are its own."""
    handed = _handed(operator)
    return [one for position, one in enumerate(of_weights) if position not in handed]


def _num_handed_on(operator: Operator) -> int:
    """How many weights it hands to the next block: all or none."""
    return len(operator.attributes["weights"]) if operator.attributes["hands_on"] else 0
