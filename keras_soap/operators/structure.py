"""Operators that are not layers: inputs and targets of the model, and what nothing reads."""

from collections.abc import Sequence

import numpy as np

from keras_soap.graph.operator_graph import INPUT, Operator
from keras_soap.graph.region import Regions
from keras_soap.graph.unread import UNREAD, as_read
from keras_soap.operators import registry
from keras_soap.operators.rule import Dimension, PartCall, PartResult, Rule


class Input(Rule):
    """A tensor that every step brings anew: model inputs, targets, sample weights.

    Each region of it is placed where it is read, ahead of the step. So it has no parts to place,
    and takes no time.
    """

    kind = INPUT
    free = True

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        return ()

    def made_outputs(self, operator: Operator) -> Sequence[int]:
        return ()

    def flops(self, operator, regions):
        return super().flops(operator, regions) * 0

    def input_regions(self, operator, regions):
        return []


class Unread(Rule):
    """An operator that nothing in a step reads (see `graph.unread`).

    TensorFlow prunes it, so it takes no time and nothing is sent to it. It keeps its place, its
    dimensions and its weights, since other steps run it, under the configuration that it has here.
    """

    kind = UNREAD
    free = True

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        operator = as_read(operator)
        return registry.find(operator.kind).dimensions(operator)

    def weight_shapes(self, operator: Operator) -> list[tuple[int, ...]]:
        operator = as_read(operator)
        return registry.find(operator.kind).weight_shapes(operator)

    def weight_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        operator = as_read(operator)
        return registry.find(operator.kind).weight_regions(operator, regions)

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        return [
            np.zeros((len(regions), len(spec.shape), 2), np.int64) for spec in operator.input_specs
        ]

    def made_outputs(self, operator: Operator) -> Sequence[int]:
        return ()

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return super().flops(operator, regions) * 0

    def compute(self, call: PartCall) -> PartResult:
        import tensorflow as tf

        operator = call.part.operator
        region = np.array(call.part.output, np.int64).reshape(1, -1, 2)
        outputs = [
            None
            if spec.is_space
            else tf.zeros((made[0, :, 1] - made[0, :, 0]).tolist(), spec.dtype)
            for spec, made in zip(
                operator.output_specs, self.output_regions(operator, region), strict=True
            )
        ]
        return PartResult(tuple(outputs))
