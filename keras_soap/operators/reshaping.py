"""Reshaping: elements keep their row-major order, and a part's are a box on both sides.

Axes of the input and of the output fall into groups of equal products, the finest there are:
(8, 4, 6) → (8, 2, 12) is [8 → 8] and [4 · 6 → 2 · 12]. In a group the leading axis of the output
is split, so that parts are runs of the group's elements, and in as many equal parts as the leading
axis of the input can be split in as well; so `Dimension.step` is its size over the greatest common
divisor of the two.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions, whole
from keras_soap.operators.rule import (
    Dimension,
    PartCall,
    PartResult,
    Rule,
    axis_dimensions,
    default_names,
)
from keras_soap.operators.windows import channels_first


@dataclass(frozen=True, slots=True)
class _Group:
    """Axes of the input and of the output that hold the same elements.

    Attributes:
        input: Its leading axis in the input.
        output: Its leading axis in the output.
    """

    input: int
    output: int


class Reshape(Rule):
    """Flatten, Reshape and the operations that do no more than that."""

    kind = "reshape"
    layers = ("Flatten", "Reshape", "ExpandDims", "Squeeze", "Ravel")
    free = True

    def refuses(self, attributes, inputs, output):
        if math.prod(output.shape) == 0:
            return "it has no elements"
        return channels_first(attributes)

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        shape = operator.output.shape
        inputs = operator.input_specs[0].shape
        names = default_names(len(shape))
        pairs = {group.output: group.input for group in _groups(inputs, shape)}
        steps = {
            names[axis]: shape[axis] // math.gcd(shape[axis], inputs[pairs[axis]]) for axis in pairs
        }
        skip = [axis for axis in range(len(shape)) if axis not in pairs]
        return axis_dimensions(operator, names, steps=steps, skip=skip)

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        inputs, shape = operator.input_specs[0].shape, operator.output.shape
        result = whole(len(regions), inputs)
        for group in _groups(inputs, shape):
            result[:, group.input] = (
                regions[:, group.output] * inputs[group.input] // shape[group.output]
            )
        return [result]

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return np.zeros(len(regions))

    def compute(self, call: PartCall) -> PartResult:
        from keras import ops

        shape = [stop - start for start, stop in call.part.output]
        return PartResult((ops.reshape(call.inputs[0], shape),))


def _groups(inputs: Sequence[int], outputs: Sequence[int]) -> list[_Group]:
    """The finest groups, without axes of size 1, which hold nothing to split."""
    left = [axis for axis, size in enumerate(inputs) if size > 1]
    right = [axis for axis, size in enumerate(outputs) if size > 1]
    groups = []
    while left and right:
        group = _Group(left.pop(0), right.pop(0))
        groups.append(group)
        have, want = inputs[group.input], outputs[group.output]
        while have != want:
            if have < want:
                have *= inputs[left.pop(0)]
            else:
                want *= outputs[right.pop(0)]
    return groups
