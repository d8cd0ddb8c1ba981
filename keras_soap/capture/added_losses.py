"""What layers add to the loss with `add_loss` inside of their `call`.

A layer that does so is an operator that makes its losses as one more output: for each of its
samples a share of them (see `operators.fallback`). It is split by sample if a trial shows that its
losses are means over samples, or sums; else it runs whole. An operator of kind loss adds the shares
up.

A model that does so itself is opened up: what it adds is made by operators like all else.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from absl import logging

from keras_soap.capture.calls import Call, is_keras
from keras_soap.capture.draws import draws_of_part
from keras_soap.capture.loss_terms import TermWithoutTarget
from keras_soap.capture.trials import other_value, random_inputs
from keras_soap.operators.computation import collecting_losses, total_of_losses


@dataclass(frozen=True)
class AddedTerm(TermWithoutTarget):
    """The losses of one call of a layer.

    Attributes:
        loss: The layer.
    """

    loss: keras.Layer

    def value(self, inputs: Any) -> Any:
        return keras.ops.sum(inputs[0])


@contextlib.contextmanager
def recorded_losses(layer: keras.Layer) -> Iterator[list[Any]]:
    """Collects what the traced `call` of a layer adds to the loss itself."""
    losses: list[Any] = []
    vars(layer)["add_loss"] = lambda loss: losses.extend(keras.tree.flatten(loss))
    try:
        yield losses
    finally:
        del vars(layer)["add_loss"]


def kind_of_losses(call: Call) -> str | None:
    """How the losses that a call of a layer adds depend on its samples.

    Returns:
        `"mean"` or `"sum"` over samples; `"whole"` for neither; None if it adds nothing, or cannot
        be tried.
    """
    layer = call.operation
    inner = list(layer._flatten_layers(include_self=False))
    loops = (keras.layers.RNN, keras.layers.TimeDistributed, keras.layers.Bidirectional)
    # Keras's own add nothing but what they regularize.
    adds = not is_keras(layer) or any(
        not is_keras(one) or one.activity_regularizer is not None for one in inner
    )
    # Losses of a loop's steps are not to be had outside of it.
    if not adds or isinstance(layer, loops) or any(isinstance(one, loops) for one in inner):
        return None

    values = random_inputs(call.inputs)

    def run(part: slice) -> float | None:
        args, kwargs = call.fill([keras.ops.convert_to_tensor(value[part]) for value in values])
        if layer._call_has_training_arg:
            kwargs = {"training": True, **kwargs}
        mapping = [(variable, other_value(variable)) for variable in layer.variables]
        with draws_of_part(layer, part, 4), collecting_losses(layer, mapping) as scope:
            layer(*args, **kwargs)
            losses = list(scope.losses)
        return float(total_of_losses(losses)) if losses else None

    try:
        whole, *halves = run(slice(0, 4)), run(slice(0, 2)), run(slice(2, 4))
    except Exception as error:
        # Whatever the user's code raises on random values. If it adds losses nevertheless,
        # `penalties.check_all_captured` refuses it by name.
        logging.debug("Losses of %s are not tried: %s", layer.name, error)
        return None
    if whole is None or None in halves:
        return None if whole is None else "whole"
    total = sum(half for half in halves if half is not None)
    for kind, expected in (("mean", total / 2), ("sum", total)):
        if np.isclose(whole, expected, rtol=1e-4, atol=1e-6):
            return kind
    return "whole"
