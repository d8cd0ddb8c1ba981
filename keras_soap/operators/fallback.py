"""What happens to layers that no other rule covers. They name no layers: capture chooses them."""

import math

import numpy as np

from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions, volume, whole
from keras_soap.operators.noise import with_own_seeds, with_shared_seeds
from keras_soap.operators.rule import Dimension, DimensionKind, PartCall, PartResult, Rule


class Whole(Rule):
    """Runs as it is, on one device."""

    kind = "whole"

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
