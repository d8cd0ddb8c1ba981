"""Trials of losses and metrics on random batches: what becomes of them when a batch is cut.

1. A loss *treats values alone* if halves of a batch, along any axis of its values, give halves of
   the values. Keras's own do, but for a few, and need no trial.
2. Another loss may still be a mean, or a sum, over samples: as a function that reduces what it
   returns is. Else it needs the whole batch.
3. A loss *takes logits* if it gives something else for a prediction that Keras knows the logits of:
   Keras's cross-entropies do, and need no trial; so does whatever calls them.
4. What a batch adds to the state of a metric is mostly the sum of what its halves add, or, where a
   function returns the mean of a batch, their mean; whatever the state was before. Of other metrics
   the state depends on whole batches, in their order.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from keras.src.losses.losses import LossFunctionWrapper
from keras.src.metrics.reduction_metrics import MeanMetricWrapper

from keras_soap.capture.calls import is_keras
from keras_soap.capture.loss_terms import MetricTerm, loss_values
from keras_soap.graph.operator_graph import TensorSpec

_OF_BATCHES = frozenset({"circle", "dice", "tversky"})
"""Functions of Keras's that do not treat values alone."""
CROSS_ENTROPIES = {
    "binary_crossentropy": "sigmoid",
    "categorical_crossentropy": "softmax",
    "sparse_categorical_crossentropy": "softmax",
}
"""Functions of Keras's that are of logits alone, and the activation that these are before."""
_OF_LOGITS = frozenset({*CROSS_ENTROPIES, "binary_focal_crossentropy"})
"""Functions of Keras's that take logits."""
NUM_SAMPLES = 4

Run = Callable[[Sequence[Any]], Sequence[np.ndarray]]


def treats_values_alone(
    loss: keras.losses.Loss, specs: Sequence[TensorSpec], shape: tuple[int, ...]
) -> bool:
    """Whether a loss can be computed part by part, along every axis of its values.

    Args:
        loss: With values of `shape`.
        specs: Of prediction and target.
        shape: Of the values of a batch.
    """
    if type(loss).__call__ is not keras.losses.Loss.__call__:
        return False
    if shape[:1] != specs[0].shape[:1]:
        return False
    if is_keras(loss) and isinstance(loss, LossFunctionWrapper) and _is_alone(loss):
        return True

    def run(inputs: Sequence[Any]) -> list[np.ndarray]:
        return [keras.ops.convert_to_numpy(loss_values(loss, inputs[1], inputs[0]))]

    values = _random_inputs(specs[:2])
    return all(
        _agrees(run, values, shape, axis, lambda a, b, axis=axis: np.concatenate([a, b], axis))
        for axis in range(len(shape))
    )


def takes_logits(loss: keras.losses.Loss, specs: Sequence[TensorSpec]) -> bool:
    """Whether a loss looks for what the prediction is a softmax or sigmoid of.

    Args:
        loss: Called without sample weights.
        specs: Of prediction and target.
    """
    if is_keras(loss) and isinstance(loss, LossFunctionWrapper) and is_of_keras(loss.fn):
        # Where it leaves out a class, Keras loses sight of the logits.
        return loss.fn.__name__ in _OF_LOGITS and loss._fn_kwargs.get("ignore_class") is None
    y_pred, y_true = map(tf.constant, _random_inputs(specs[:2]))
    hinted = tf.identity(y_pred)
    hinted._keras_logits = 1 - 3 * y_pred
    try:
        plain, other = (loss(y_true, prediction) for prediction in (y_pred, hinted))
        return not _close(*map(keras.ops.convert_to_numpy, (plain, other)))
    except Exception as error:
        logging.debug("A loss is not tried: %s", error)
        return False


def kind_of_loss(loss: keras.losses.Loss, specs: Sequence[TensorSpec]) -> str:
    """How a loss that does not treat values alone depends on samples.

    Args:
        loss: Called without sample weights.
        specs: Of prediction and target.

    Returns:
        `"mean"` or `"sum"` over samples, or `"whole"`.
    """

    def run(inputs: Sequence[Any]) -> list[np.ndarray]:
        return [keras.ops.convert_to_numpy(loss(inputs[1], inputs[0]))]

    return _kind(run, _random_inputs(specs[:2]), ())


def kind_of_metric(term: MetricTerm, specs: Sequence[TensorSpec]) -> str:
    """How the state of the metric of a term depends on parts of a batch.

    Args:
        term: Of one metric, whose state is a sum as far as it knows.
        specs: Of the inputs of the term.

    Returns:
        `"sum"` of what parts add; `"mean"` over samples; `"whole"` for neither.
    """
    (tracked,) = term.metrics
    metric = tracked.metric
    if is_keras(metric) and (not isinstance(metric, MeanMetricWrapper) or _is_alone(metric)):
        return "sum"

    def run(inputs: Sequence[Any]) -> list[np.ndarray]:
        states = term.metric_states(*inputs[:2], inputs)
        return [keras.ops.convert_to_numpy(state) for state in states]

    def run_again(inputs: Sequence[Any]) -> list[np.ndarray]:
        before = [keras.ops.ones(v.shape, v.dtype) for v in metric.variables]
        states = term.metric_states(*inputs[:2], inputs, before=before)
        return [
            keras.ops.convert_to_numpy(state - one)
            for state, one in zip(states, before, strict=True)
        ]

    values = _random_inputs(specs)
    kind = _kind(run, values, term.values_shape)
    if kind == "whole" or not all(map(_close, run(values), run_again(values))):
        return "whole"
    # Shares of a whole number are none.
    is_counted = any("float" not in variable.dtype for variable in metric.variables)
    return "whole" if kind == "mean" and is_counted else kind


def _is_alone(wrapper: Any) -> bool:
    """Whether a function that a loss or metric of Keras's wraps is known to treat values alone."""
    function = getattr(wrapper, "fn", None) or getattr(wrapper, "_fn", None)
    given = getattr(wrapper, "_fn_kwargs", {})
    return (
        is_of_keras(function)
        and getattr(function, "__name__", "") not in _OF_BATCHES
        and given.get("axis", -1) == -1
    )


def is_of_keras(function: Any) -> bool:
    """Whether a function that a loss or metric wraps is Keras's own."""
    return str(getattr(function, "__module__", "")).startswith("keras.")


def _kind(run: Run, values: Sequence[np.ndarray], more: tuple[int, ...]) -> str:
    """How what `run` gives depends on samples, if it is a sum along all of the axes after them."""
    shape = (NUM_SAMPLES, *more)
    if not all(_agrees(run, values, shape, axis, np.add) for axis in range(1, len(shape))):
        return "whole"
    for kind, joined in (("sum", np.add), ("mean", lambda a, b: (a + b) / 2)):
        if _agrees(run, values, shape, 0, joined):
            return kind
    return "whole"


def _agrees(
    run: Run,
    values: Sequence[np.ndarray],
    shape: tuple[int, ...],
    axis: int,
    joined: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> bool:
    """Whether what halves give, joined, is what the whole gives."""
    size = NUM_SAMPLES if axis == 0 else shape[axis]
    if size < 2:
        return True

    def cut(value: np.ndarray, half: slice) -> np.ndarray:
        has_axis = value.ndim > axis and value.shape[axis] == size
        return value[(slice(None),) * axis + (half,)] if has_axis else value

    halves = (slice(0, size // 2), slice(size // 2, size))
    try:
        together = run([tf.constant(value) for value in values])
        parts = [run([tf.constant(cut(value, half)) for value in values]) for half in halves]
    except Exception as error:
        # Whatever the user's code raises on random values, or on batches of other sizes.
        logging.debug("A loss or metric is not tried: %s", error)
        return False
    return all(
        np.all(np.isfinite(a)) and _close(a, joined(b, c))
        for a, b, c in zip(together, *parts, strict=True)
    )


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-4, atol=1e-5)


def _random_inputs(specs: Sequence[TensorSpec]) -> list[np.ndarray]:
    """Of a few samples; what is not whole numbers is positive, as probabilities and weights are."""
    random = np.random.default_rng(0)
    values = []
    for spec in specs:
        shape = (NUM_SAMPLES, *spec.shape[1:])
        dtype = tf.as_dtype(spec.dtype).as_numpy_dtype
        if spec.is_floating:
            values.append(random.uniform(0.1, 0.9, shape).astype(dtype))
        else:
            values.append(random.integers(0, 2, shape).astype(dtype))
    return values
