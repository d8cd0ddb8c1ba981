"""Embeddings: batch (S), positions (A), width of the vectors (P) and vocabulary (P) are split.

The vocabulary is no axis of what an embedding makes, so its operator has a space (positions, width,
vocabulary) to be split. A part with some of the rows looks up the words that are its own, and has
zeros for all others; parts of one position and width then add up. So the table is never gathered,
and a part's gradient is of its own rows alone.
"""

import dataclasses
from typing import Any

import numpy as np

from keras_soap.graph.operator_graph import SPACE, Operator, TensorSpec
from keras_soap.graph.region import Regions, full_axis, stack_axes, volume
from keras_soap.operators.rule import (
    NOT_AN_AXIS,
    Combine,
    Dimension,
    DimensionKind,
    Part,
    PartCall,
    PartResult,
    Rule,
    axis_dimensions,
    default_names,
)


class Embedding(Rule):
    """Rows of a table; its gradient is as many rows as there are indices.

    An operator without a space, of a graph that was written by hand, keeps its vocabulary whole.
    """

    kind = "embedding"
    layers = ("Embedding",)
    sparse_weights = (0,)

    def refuses(self, attributes, inputs, output):
        if attributes.get("lora_rank") or attributes.get("quantization_config"):
            return "LoRA and quantized layers have other weights"
        return None

    def output_specs(self, attributes, made):
        return TensorSpec((*made[0].shape, attributes["input_dim"]), SPACE), *made

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        made = operator.output_specs[operator.first_made]
        names = (*default_names(len(made.shape))[:-1], "embedding")
        kinds: dict[str, DimensionKind] = dict.fromkeys(
            ("embedding", "vocabulary"), DimensionKind.PARAMETER
        )
        if not operator.first_made:
            return axis_dimensions(operator, names, kinds)
        *axes, vocabulary = axis_dimensions(operator, (*names, "vocabulary"), kinds)
        return *axes, dataclasses.replace(vocabulary, axes=(vocabulary.axis, NOT_AN_AXIS))

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        return [regions[:, : _width_axis(operator)]]

    def weight_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        vocabulary = full_axis(len(regions), operator.weight_specs[0].shape[0])
        if operator.first_made:
            vocabulary = regions[:, -1]
        return [stack_axes(vocabulary, regions[:, _width_axis(operator)])]

    def sparse_rows(self, operator: Operator, regions: Regions) -> np.ndarray:
        # A part has a row for every word; those of other parts are zero.
        return volume(regions[:, : _width_axis(operator)])

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return np.zeros(len(regions))

    def combines(self, operator: Operator, regions: Regions) -> tuple[Combine, ...]:
        if not operator.first_made or np.all(regions[:, -1] == (0, operator.output.shape[-1])):
            return ()
        elements = volume(regions[:, :-1])
        return (Combine("vectors", ("vocabulary",), elements, operator.output_specs[1].dtype),)

    def contribute(self, call: PartCall, number: int) -> Any:
        import tensorflow as tf

        operator = call.part.operator
        start, stop = call.part.output[-1]
        (words,), (table,) = call.inputs, call.weights
        if words.dtype not in (tf.int32, tf.int64):
            words = tf.cast(words, tf.int32)
        size = operator.output.shape[-1]
        words = tf.where(words < 0, words + size, words)  # as keras.ops.take
        # What is no word at all is for the first or last part, and fails there as it does whole.
        after = words >= start if start > 0 else tf.ones_like(words, tf.bool)
        before = words < stop if stop < size else tf.ones_like(words, tf.bool)
        is_here = after & before
        vectors = tf.gather(table, tf.where(is_here, words - start, 0))
        vectors = tf.cast(vectors, operator.output_specs[1].dtype)
        vectors = tf.where(tf.expand_dims(is_here, -1), vectors, tf.zeros([], vectors.dtype))
        return tf.reshape(vectors, [-1])

    def shrink(self, part: Part) -> dict[str, Any]:
        start, stop = part.output[_width_axis(part.operator)]
        return {"output_dim": stop - start}

    def compute(self, call: PartCall) -> PartResult:
        import tensorflow as tf

        if call.combined:
            width = call.weights[0].shape[-1]
            outputs = (tf.reshape(call.combined[0], [*call.inputs[0].shape, width]),)
        else:
            outputs = super().compute(call).outputs
        return PartResult((None,) * call.part.operator.first_made + outputs)


class TableLookup(Embedding):
    """The operation Take on a weight: rows of a table, as an embedding that is not a layer's."""

    kind = "table_lookup"
    layers = ("Take",)
    takes_weights = True

    def refuses(self, attributes, inputs, output):
        operands = [operand for operand in attributes["operands"] if operand]
        if [operand[:2] for operand in operands] != [["weight", 0], ["input", 0]] or attributes.get(
            "axis"
        ) != 0:
            return "it takes others than rows of a weight"
        if len(output.shape) != len(inputs[0].shape) + 1:
            return "its table is not a matrix"
        return None

    def output_specs(self, attributes, made):
        (rows, _), *_ = (o[2:] for o in attributes["operands"] if o and o[0] == "weight")
        return TensorSpec((*made[0].shape, rows), SPACE), *made

    def shrink(self, part: Part) -> dict[str, Any]:
        return {}


def _width_axis(operator: Operator) -> int:
    """The axis of the first output that is the width of the vectors."""
    return len(operator.input_specs[0].shape)
