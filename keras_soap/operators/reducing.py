"""Operations that reduce over axes of a sample: those stay whole, all others are split."""

from typing import Any

import numpy as np

from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions, volume, whole
from keras_soap.operators.rule import Rule


class Reduction(Rule):
    """Sums, means, extremes and the like along axes of a sample."""

    kind = "reduction"
    layers = (
        *("Sum", "Mean", "Var", "Std", "Prod", "Max", "Min", "Amax", "Amin"),
        *("Argmax", "Argmin", "Any", "All", "CountNonzero"),
    )

    def refuses(self, attributes, inputs, output):
        if 0 in self._axes(attributes, len(inputs[0].shape)):
            return "it reduces over samples"
        return None

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        shape = operator.input_specs[0].shape
        result = whole(len(regions), shape)
        reduced = self._axes(operator.attributes, len(shape))
        kept = [axis for axis in range(len(shape)) if axis not in reduced]
        made = kept if operator.attributes.get("keepdims") else range(len(kept))
        result[:, kept] = regions[:, list(made)]
        return [result]

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return 1.0 * volume(self.input_regions(operator, regions)[0])

    def _axes(self, attributes: Any, rank: int) -> list[int]:
        axis = attributes.get("axis")
        if axis is None:
            return list(range(rank))
        return [a % rank for a in (axis if isinstance(axis, list) else [axis])]
