"""Captures a Keras model to plan for it, with no data at hand: targets follow from the losses."""

from typing import Any

import keras

from keras_soap.capture.captured_model import CapturedModel
from keras_soap.capture.losses import capture_step
from keras_soap.capture.model import capture
from keras_soap.errors import CaptureError
from keras_soap.graph.operator_graph import OperatorGraph


def capture_for_planning(
    model: keras.Model, batch_size: int, training: bool, time_chunk: int | None = None
) -> OperatorGraph:
    """The operator graph of a model; for training, with its losses.

    A model that is not compiled is compiled with the loss that its last layer suggests.

    Args:
        model: A built model.
        batch_size: Samples in one step.
        training: Whether to add targets and losses.
        time_chunk: As in `capture.model.capture`.
    """
    return capture_with_layers(model, batch_size, training, time_chunk).graph


def capture_with_layers(
    model: keras.Model, batch_size: int, training: bool, time_chunk: int | None = None
) -> CapturedModel:
    """The same with the Keras layers that the operators are calls of, as measuring needs it."""
    if not isinstance(model, keras.Model):
        raise CaptureError(
            f"The model is a {type(model).__name__}. Return a Keras model or an OperatorGraph."
        )
    # Says what is wrong with a model, if anything.
    forward = capture(model, batch_size, time_chunk)
    if not training:
        return forward.in_prediction()
    if isinstance(model, keras.Sequential):
        inputs, outputs = model.inputs[0], model.outputs[0]
    else:
        inputs, outputs = model.input, model.output
    if not model.compiled:
        model.compile(loss=keras.tree.map_structure(_suggested_loss, outputs))
    targets = _targets(model, outputs, batch_size)
    inputs = keras.tree.map_structure(lambda x: _sized(x.shape, batch_size, x.dtype), inputs)
    model._symbolic_build(data_batch=(inputs, targets))
    return capture_step(model, batch_size, targets, time_chunk=time_chunk).model


def _suggested_loss(output: Any) -> str:
    """Softmax at the end: classes. Else a regression."""
    layer = output._keras_history.operation
    activation = getattr(getattr(layer, "activation", None), "__name__", "")
    if activation == "softmax" or type(layer).__name__ == "Softmax":
        return "sparse_categorical_crossentropy"
    return "mean_squared_error"


def _targets(model: Any, outputs: Any, batch_size: int) -> Any:
    """Symbolic targets: whole numbers without the last axis for sparse losses, else as outputs."""

    def target(output: Any, loss: Any) -> Any:
        name = (
            loss if isinstance(loss, str) else getattr(loss, "name", getattr(loss, "__name__", ""))
        )
        if "sparse" in name:
            return _sized(output.shape[:-1], batch_size, "int32")
        return _sized(output.shape, batch_size, output.dtype)

    losses = model.loss
    if isinstance(outputs, dict):
        losses = losses if isinstance(losses, dict) else dict.fromkeys(outputs, losses)
        return {name: target(output, losses.get(name)) for name, output in outputs.items()}
    flat = keras.tree.flatten(outputs)
    if isinstance(losses, dict):
        losses = [losses.get(name) for name in model.output_names]
    elif not isinstance(losses, (list, tuple)):
        losses = [losses] * len(flat)
    targets = [target(*pair) for pair in zip(flat, losses, strict=True)]
    return keras.tree.pack_sequence_as(outputs, targets)


def _sized(shape: Any, batch_size: int, dtype: str) -> Any:
    return keras.KerasTensor((batch_size, *shape[1:]), dtype)
