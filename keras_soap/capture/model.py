"""Captures the operator graph of a Keras model.

1. The graphs of Functional and Sequential models are read node by node, and nested ones in their
   places; `call` of a subclassed model is traced first (see `opening`).
2. Every call of a layer is an operator; a shared layer makes several, on the same weights. What
   has no rule is opened up, or falls back (see `decisions`).
3. A softmax or sigmoid that a layer ends with is an operator of its own, so that the layer can be
   split along it, and a cross-entropy can read the logits, as Keras's own does.
4. A weight belongs to its readers, or is an operator of its own (see `weights`).
5. With a `time_chunk`, recurrent layers and what follows them step by step are opened into an
   operator for each block of steps (see `time_blocks`).
"""

from typing import Any

import keras

from keras_soap.capture.builder import GraphBuilder
from keras_soap.capture.captured_model import CapturedModel
from keras_soap.capture.traced import Traced


def capture(model: keras.Model, batch_size: int, time_chunk: int | None = None) -> CapturedModel:
    """The forward operators of `model` on batches of `batch_size` samples.

    Args:
        model: A built model. A subclassed one must have been told its inputs (see
            `functions.learn_inputs`).
        batch_size: Samples in one step, over all devices together.
        time_chunk: Steps of recurrent layers in one operator; by default all of them.

    Raises:
        CaptureError: If the model is not built, or cannot be traced, or a shape is unknown, or
            `time_chunk` does not divide the steps of a layer.
    """
    builder, (inputs, outputs, structure) = add_model(model, batch_size, time_chunk)
    return builder.finish(inputs, outputs, structure)


def add_model(
    model: keras.Model, batch_size: int, time_chunk: int | None = None
) -> tuple[GraphBuilder, tuple[list[int], list[Traced], Any]]:
    """A builder with the operators of `model`, and what `GraphBuilder.add_model` gives."""
    builder = GraphBuilder(model.name, batch_size, time_chunk)
    added = builder.add_model(model)
    apart = builder.weights.read_apart()
    if not apart:
        return builder, added
    builder = GraphBuilder(model.name, batch_size, time_chunk, apart)
    return builder, builder.add_model(model)
