"""What layers add to the loss with `add_loss` inside of their `call`.

A layer that does so is an operator that makes its losses as one more output: for each of its
samples a share of them (see `operators.fallback`). It is split by sample if a trial shows that its
losses are means over samples, or sums; else it runs whole. An operator of kind loss adds the shares
up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np

from keras_soap.capture.loss_terms import report_dtype
from keras_soap.capture.time_blocks import Arguments
from keras_soap.operators.computation import collecting_losses, total_of_losses


@dataclass(frozen=True)
class AddedTerm:
    """The losses of one call of a layer, in the place of a `LossTerm`.

    Attributes:
        loss: The layer.
    """

    loss: keras.Layer

    weight: ClassVar[float] = 1.0
    tracker: ClassVar[None] = None
    metrics: ClassVar[tuple] = ()
    metric_variables: ClassVar[tuple] = ()

    def result(self, inputs: Any, normalizer: Any) -> tuple[Any, Any]:
        """What a part adds to the loss, and its report of that."""
        del normalizer
        value = keras.ops.sum(inputs[0])
        dtype = report_dtype(keras.backend.standardize_dtype(value.dtype))
        return value, keras.ops.reshape(keras.ops.cast(value, dtype), [1])


def kind_of_losses(
    layer: keras.Layer, arguments: Arguments, values: Sequence[np.ndarray]
) -> str | None:
    """How the losses that a call adds depend on its samples.

    Args:
        layer: It.
        arguments: Puts flat inputs into its arguments.
        values: Random inputs of four samples.

    Returns:
        `"mean"` or `"sum"` over samples; `"whole"` for neither; None if it adds nothing, or cannot
        be tried.
    """
    inner = list(layer._flatten_layers(include_self=False))
    loops = (keras.layers.RNN, keras.layers.TimeDistributed, keras.layers.Bidirectional)
    adds = not _is_keras(layer) or any(
        not _is_keras(one) or one.activity_regularizer is not None for one in inner
    )
    # Losses of a loop's steps are not to be had outside of it.
    if not adds or isinstance(layer, loops) or any(isinstance(one, loops) for one in inner):
        return None

    def run(part: slice) -> float | None:
        args, kwargs = arguments([keras.ops.convert_to_tensor(value[part]) for value in values])
        if layer._call_has_training_arg:
            kwargs = {"training": True, **kwargs}
        mapping = [(variable, variable.value) for variable in layer.variables]
        with collecting_losses(layer, mapping) as scope:
            layer(*args, **kwargs)
            losses = list(scope.losses)
        return float(total_of_losses(losses)) if losses else None

    try:
        whole, *halves = run(slice(0, 4)), run(slice(0, 2)), run(slice(2, 4))
    except Exception:
        # As for any other layer, what goes wrong on random values shows when it is captured.
        return None
    if whole is None or None in halves:
        return None if whole is None else "whole"
    total = sum(half for half in halves if half is not None)
    for kind, expected in (("mean", total / 2), ("sum", total)):
        if np.isclose(whole, expected, rtol=1e-4, atol=1e-6):
            return kind
    return "whole"


def _is_keras(layer: keras.Layer) -> bool:
    """Whether it is one of Keras's own, which add nothing but what they regularize."""
    return type(layer).__module__.partition(".")[0] == "keras"
