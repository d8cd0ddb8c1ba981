"""Recurrent layers, cut in time: one operator is a block of consecutive steps. Planning only.

1. A block takes a piece of the sequence and the states before it, and gives its outputs and the
   states after it. Blocks of one layer are on the same weights.
2. Batch (S) and units (P) are split; time is split by cutting into blocks.
3. Where units are split, every step but the last needs the hidden state of all units: a combine.
4. Weights of the four gates stand side by side, unit by unit; Keras has them gate by gate, which
   gives the same number of elements to each part.
"""

import numpy as np

from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions, full_axis, stack_axes
from keras_soap.operators.rule import Combine, Dimension, DimensionKind, Rule


class LstmBlock(Rule):
    """Steps of an LSTM: inputs are the piece and both states, outputs the same.

    Attributes of the operator: none. Weights: kernel, recurrent kernel, bias.
    """

    kind = "lstm_block"

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        batch, _, units = operator.output.shape
        return (
            Dimension("sample", (0, 0, 0), batch, DimensionKind.SAMPLE),
            Dimension("units", (2, 1, 1), units, DimensionKind.PARAMETER),
        )

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        sample, units = regions[:, 0], regions[:, 2]
        _, length, features = operator.input_specs[0].shape
        count = len(regions)
        return [
            stack_axes(sample, full_axis(count, length), full_axis(count, features)),
            stack_axes(sample, full_axis(count, operator.output.shape[-1])),
            stack_axes(sample, units),
        ]

    def weight_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        count, gates = len(regions), 4 * regions[:, 2]
        kernel, recurrent_kernel, _ = (spec.shape for spec in operator.weight_specs)
        return [
            stack_axes(full_axis(count, kernel[0]), gates),
            stack_axes(full_axis(count, recurrent_kernel[0]), gates),
            gates[:, None],
        ]

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        batch, length, units = (regions[..., 1] - regions[..., 0]).T
        features = operator.weight_specs[0].shape[0] + operator.weight_specs[1].shape[0]
        return 8.0 * features * batch * length * units

    def combines(self, operator: Operator, regions: Regions) -> tuple[Combine, ...]:
        _, length, units = operator.output.shape
        if np.all(regions[:, 2, 1] - regions[:, 2, 0] == units):
            return ()
        elements = (regions[:, 0, 1] - regions[:, 0, 0]) * units
        dtype = operator.output.dtype
        return tuple(
            Combine(f"state_{step}", ("units",), elements, dtype) for step in range(length - 1)
        )

    def compute(self, call):
        raise NotImplementedError("recurrent blocks can be planned, but not run yet")


class DotAttention(Rule):
    """Attention of queries (batch, steps, units) over a memory (batch, length, units).

    Batch (S) and steps (A) are split.
    """

    kind = "dot_attention"

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        batch, steps, _ = operator.output.shape
        return (
            Dimension("sample", (0,), batch, DimensionKind.SAMPLE),
            Dimension("length", (1,), steps, DimensionKind.ATTRIBUTE),
        )

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        _, length, units = operator.input_specs[1].shape
        count = len(regions)
        memory = stack_axes(regions[:, 0], full_axis(count, length), full_axis(count, units))
        return [regions.copy(), memory]

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        batch, steps, units = (regions[..., 1] - regions[..., 0]).T
        return 4.0 * operator.input_specs[1].shape[1] * batch * steps * units

    def compute(self, call):
        raise NotImplementedError("attention blocks can be planned, but not run yet")
