"""Embeddings: batch (S), positions (A) and the width of the vectors (P) are split."""

from typing import Any

import numpy as np

from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions, full_axis, stack_axes, volume
from keras_soap.operators.rule import (
    Dimension,
    DimensionKind,
    Part,
    Rule,
    axis_dimensions,
    default_names,
)


class Embedding(Rule):
    """Rows of a table; its gradient is as many rows as there are indices."""

    kind = "embedding"
    layers = ("Embedding",)
    sparse_weights = (0,)

    def refuses(self, attributes, inputs, output):
        if attributes.get("lora_rank") or attributes.get("quantization_config"):
            return "LoRA and quantized layers have other weights"
        return None

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        names = (*default_names(len(operator.output.shape))[:-1], "embedding")
        return axis_dimensions(operator, names, {"embedding": DimensionKind.PARAMETER})

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        return [regions[:, :-1]]

    def weight_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        vocabulary = full_axis(len(regions), operator.weight_specs[0].shape[0])
        return [stack_axes(vocabulary, regions[:, -1])]

    def sparse_rows(self, operator: Operator, regions: Regions) -> np.ndarray:
        return volume(regions[:, :-1])

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return np.zeros(len(regions))

    def shrink(self, part: Part) -> dict[str, Any]:
        start, stop = part.output[-1]
        return {"output_dim": stop - start}
