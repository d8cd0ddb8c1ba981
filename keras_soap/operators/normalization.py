"""Normalization over axes of a sample: those axes stay whole, all others are split."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions, volume
from keras_soap.operators.rule import (
    Dimension,
    DimensionKind,
    Part,
    Rule,
    axis_dimensions,
)

FLOPS_PER_ELEMENT = 8.0
"""A mean, a variance and an affine map take about two operations, four and two an element."""


class LayerNormalization(Rule):
    """LayerNormalization and RMSNormalization."""

    kind = "layer_normalization"
    layers = ("LayerNormalization", "RMSNormalization")

    def refuses(self, attributes, inputs, output):
        rank = len(output.shape)
        axes = sorted(axis % rank for axis in _axes(attributes))
        # Of RMSNormalization; LayerNormalization lays its weights along the axes.
        if "center" not in attributes and axes != list(range(rank - len(axes), rank)):
            return "its scale is laid along the last axes, and it normalizes others"
        return None

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        return axis_dimensions(operator, skip=_axes(operator.attributes))

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return FLOPS_PER_ELEMENT * volume(regions)


def _axes(attributes: Mapping[str, Any]) -> Sequence[int]:
    axis = attributes.get("axis", -1)
    return axis if isinstance(axis, list) else (axis,)


class GroupNormalization(Rule):
    """GroupNormalization: batch (S) and whole groups of channels (P) are split."""

    kind = "group_normalization"
    layers = ("GroupNormalization",)

    def refuses(self, attributes, inputs, output):
        if attributes.get("axis", -1) not in (-1, len(output.shape) - 1):
            return "its channels are not the last axis"
        return None

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        return axis_dimensions(
            operator,
            kinds={"channel": DimensionKind.PARAMETER},
            steps={"channel": self._group_size(operator)},
            skip=range(1, len(operator.output.shape) - 1),
        )

    def weight_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        return [regions[:, -1:] for _ in operator.weight_specs]

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return FLOPS_PER_ELEMENT * volume(regions)

    def shrink(self, part: Part) -> dict[str, Any]:
        start, stop = part.output[-1]
        return {"groups": (stop - start) // self._group_size(part.operator)}

    def _group_size(self, operator: Operator) -> int:
        channels, groups = operator.output.shape[-1], operator.attributes["groups"]
        return 1 if groups == -1 else channels // groups
