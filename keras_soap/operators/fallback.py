"""What happens to layers that no other rule covers. They name no layers: capture chooses them."""

import math
from typing import Any

import numpy as np

from keras_soap.graph.operator_graph import Operator, TensorSpec
from keras_soap.graph.region import Regions, volume, whole
from keras_soap.operators.noise import with_own_seeds, with_shared_seeds
from keras_soap.operators.rule import Dimension, DimensionKind, PartCall, PartResult, Rule

ADDED_LOSSES = "adds_losses"
"""Attribute of a layer that adds to the loss: `"mean"` or `"sum"` over samples, or `"whole"`."""


class Whole(Rule):
    """Runs as it is, on one device.

    If the layer adds losses, their share in each sample is its last output: they are its sum.
    """

    kind = "whole"

    def output_specs(self, attributes, made):
        if ADDED_LOSSES not in attributes:
            return tuple(made)
        dtype = "float64" if made[0].dtype == "float64" else "float32"
        return *made, TensorSpec(made[0].shape[:1] or (1,), dtype)

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        return ()

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        return [whole(len(regions), spec.shape) for spec in operator.input_specs]

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        # Taken for a matrix product with its weights at every position of every sample.
        specs = (*operator.input_specs, operator.output)
        positions = max(math.prod(spec.shape[1:-1]) for spec in specs)
        weights = sum(math.prod(spec.shape) for spec in operator.weight_specs if spec.trainable)
        samples = regions[:, 0, 1] - regions[:, 0, 0] if regions.shape[1] else np.ones(len(regions))
        return 2.0 * weights * positions * samples + volume(regions)

    def compute(self, call: PartCall) -> PartResult:
        operator = call.part.operator
        kind = operator.attributes.get(ADDED_LOSSES)
        if kind is None:
            return super().compute(call)
        from keras import ops

        from keras_soap.operators import computation

        losses: list[Any] = []
        result = computation.call_shrunk(call, {}, call.inputs, losses)
        samples = result.outputs[0].shape[0] if operator.output.shape else 1
        size = operator.output.shape[0] if kind == "mean" else samples
        total: Any = ops.cast(computation.total_of_losses(losses), operator.output_specs[-1].dtype)
        shares = ops.broadcast_to(total / size, (samples,))
        return PartResult((*result.outputs, shares), result.updates)


class Samplewise(Whole):
    """Treats samples independently, so the batch (S) is split, and nothing else."""

    kind = "samplewise"

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        axes = (0,) * len(operator.output_specs)
        return (Dimension("sample", axes, operator.output.shape[0], DimensionKind.SAMPLE),)

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        result = super().input_regions(operator, regions)
        for region, spec in zip(result, operator.input_specs, strict=True):
            if spec.shape[:1] == operator.output.shape[:1]:
                region[:, 0] = regions[:, 0]
        return result

    def compute(self, call: PartCall) -> PartResult:
        number = call.part.index
        return with_shared_seeds(call, number, super().compute(with_own_seeds(call, number)))
