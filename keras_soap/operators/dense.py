"""Dense layers: `output[…, units] = activation(input[…, features] @ kernel + bias)`."""

from typing import Any

import numpy as np

from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions, full_axis, stack_axes, volume
from keras_soap.operators.activations import unknown_activation, unsplit_axes
from keras_soap.operators.rule import (
    Dimension,
    DimensionKind,
    Part,
    Rule,
    axis_dimensions,
    default_names,
)


class Dense(Rule):
    """Splits the batch, middle axes (A) and units (P); the contraction dimension stays whole."""

    kind = "dense"
    layers = ("Dense",)

    def refuses(self, attributes, inputs, output):
        if attributes.get("lora_rank") or attributes.get("quantization_config"):
            return "LoRA and quantized layers have other weights"
        return unknown_activation(attributes)

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        names = (*default_names(len(operator.output.shape))[:-1], "units")
        return axis_dimensions(
            operator,
            names,
            {"units": DimensionKind.PARAMETER},
            skip=unsplit_axes(operator.attributes),
        )

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        result = regions.copy()
        result[:, -1] = (0, operator.input_specs[0].shape[-1])
        return [result]

    def weight_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        units = regions[:, -1]
        features = full_axis(len(regions), operator.input_specs[0].shape[-1])
        return [stack_axes(features, units), units[:, None]][: len(operator.weight_specs)]

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return 2.0 * operator.input_specs[0].shape[-1] * volume(regions)

    def shrink(self, part: Part) -> dict[str, Any]:
        start, stop = part.output[-1]
        return {"units": stop - start}
