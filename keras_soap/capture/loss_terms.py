"""What parts of losses and metrics compute: Keras's own losses and metrics, on slices.

Inputs of a part are its slices of the prediction (or its logits), the target, the sample weights
(if there are any), the mask of the prediction (if it has one), and the logits (where the loss works
on them and metrics read the prediction).
"""

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
from keras.src.losses.loss import squeeze_or_expand_to_same_rank

MEANS = ("sum_over_batch_size", "mean")
WEIGHTED_MEAN = "mean_with_sample_weight"


def report_dtype(dtype: str) -> str:
    """Of the vector that a part reports: enough digits for its loss."""
    return "float64" if dtype == "float64" else "float32"


class TermWithoutTarget(abc.ABC):
    """What layers add to the loss, in the place of a `LossTerm`: without target and metrics."""

    weight: ClassVar[float] = 1.0
    tracker: ClassVar[None] = None
    metrics: ClassVar[tuple] = ()
    metric_variables: ClassVar[tuple] = ()

    @abc.abstractmethod
    def value(self, inputs: Any) -> Any:
        """What a part adds to the loss: a scalar."""

    def result(self, inputs: Any, normalizer: Any) -> tuple[Any, Any]:
        """The same, and the part's report of it."""
        del normalizer
        value = self.value(inputs)
        dtype = report_dtype(keras.backend.standardize_dtype(value.dtype))
        return value, keras.ops.reshape(keras.ops.cast(value, dtype), [1])


@dataclass(frozen=True)
class TrackedMetric:
    """A metric of one output.

    Attributes:
        metric: Keras's or the user's.
        is_weighted: Whether it takes sample weights.
        kind: What its state is of what parts of a batch add: their `"sum"`, or their `"mean"` over
            samples; `"whole"` where it must see the whole batch (see `loss_trials`).
    """

    metric: keras.metrics.Metric
    is_weighted: bool
    kind: str = "sum"


@dataclass(frozen=True)
class MetricTerm:
    """Metrics of one output.

    Attributes:
        metrics: Whose states are added up over parts.
        batch_size: Samples of a whole batch.
        values_shape: Shape of the unreduced values of one sample, of the loss of that output.
        reads_weights: Whether sample weights are among the inputs.
        reads_mask: Whether the mask of the prediction is.
        dtype: Of what is reported.
    """

    metrics: tuple[TrackedMetric, ...]
    batch_size: int
    values_shape: tuple[int, ...]
    reads_weights: bool
    reads_mask: bool
    dtype: str

    replaces_states: ClassVar[bool] = False
    """Whether what is reported are states themselves, not what is added to them."""

    @property
    def metric_variables(self) -> list[keras.Variable]:
        return [variable for tracked in self.metrics for variable in tracked.metric.variables]

    @property
    def report_elements(self) -> int:
        """Elements of what a part reports."""
        return sum(int(np.prod(v.shape)) for v in self.metric_variables)

    @property
    def report_bytes(self) -> int:
        return tf.as_dtype(self.dtype).size * self.report_elements

    def result(self, inputs: Sequence[Any], normalizer: Any) -> tuple[Any, Any]:
        """Nothing to train, and the report of a part."""
        del normalizer
        return tf.zeros([], self.dtype), self._report(self.metric_states(*inputs[:2], inputs))

    def metric_states(
        self, y_pred: Any, y_true: Any, inputs: Sequence[Any], before: Sequence[Any] | None = None
    ) -> list[Any]:
        """What a part adds to the state of each metric: all variables of all metrics, flat.

        Args:
            y_pred: The part's prediction.
            y_true: Its target.
            inputs: All that it reads.
            before: States to start from, flat; by default zeros.
        """
        weights, mask = self._weights_and_mask(inputs)
        if mask is not None:
            # Where Keras's metrics look for it. On a copy: others read the tensor.
            y_pred = tf.identity(y_pred)
            set_keras_mask(y_pred, mask)
        # Means are of samples: a sample's mean over some of its values counts for as many of them.
        here = math.prod(y_pred.shape[1 : 1 + len(self.values_shape)])
        share = here / math.prod(self.values_shape)
        samples = y_pred.shape[0] / self.batch_size
        if before is None:
            before = [keras.ops.zeros(v.shape, v.dtype) for v in self.metric_variables]
        left = iter(before)
        added = []
        for tracked in self.metrics:
            metric = tracked.metric
            start = [next(left) for _ in metric.variables]
            given = [weights] if tracked.is_weighted and weights is not None else []
            states = metric.stateless_update_state(start, y_true, y_pred, *given)
            factor = share if isinstance(metric, keras.metrics.Mean) else 1.0
            factor *= samples if tracked.kind == "mean" else 1.0
            added += states if factor == 1.0 else [state * factor for state in states]
        return added

    def _weights_and_mask(self, inputs: Sequence[Any]) -> tuple[Any, Any]:
        rest = list(inputs[2:])
        weights = rest.pop(0) if self.reads_weights else None
        return weights, rest.pop(0) if self.reads_mask else None

    def _report(self, values: Sequence[Any]) -> Any:
        """One vector of what a part reports."""
        return tf.concat([tf.reshape(tf.cast(value, self.dtype), [-1]) for value in values], 0)


@dataclass(frozen=True)
class BatchMetricTerm(MetricTerm):
    """Metrics that see whole batches one after the other, as on one device."""

    replaces_states: ClassVar[bool] = True

    def result(self, inputs: Sequence[Any], normalizer: Any) -> tuple[Any, Any]:
        """Nothing to train, and the states that follow from those that there are."""
        del normalizer
        before = [variable.value for variable in self.metric_variables]
        states = self.metric_states(*inputs[:2], inputs, before)
        return tf.zeros([], self.dtype), self._report(states)


@dataclass(frozen=True)
class LossTerm(MetricTerm):
    """One loss of one output, with metrics of that output.

    Attributes:
        loss: The Keras loss.
        weight: Its weight in the total.
        tracker: The metric that Keras tracks it with, where there are several losses.
        num_values: Unreduced loss values of a whole batch.
        logits_at: Which input is the logits of the prediction, where the loss works on them.
    """

    loss: keras.losses.Loss
    weight: float
    tracker: keras.metrics.Metric | None
    num_values: int
    logits_at: int | None

    @property
    def report_elements(self) -> int:
        """Its loss, and what it adds to metrics."""
        return 1 + super().report_elements

    @property
    def ignore_class(self) -> int | None:
        """The label whose values a sparse cross-entropy leaves out."""
        return getattr(self.loss, "_fn_kwargs", {}).get("ignore_class")

    @property
    def is_normalized(self) -> bool:
        """Whether it is divided by a sum over the whole batch."""
        is_masked = self.reads_mask or self.ignore_class is not None
        if self.loss.reduction == WEIGHTED_MEAN:
            return is_masked or self.reads_weights
        return is_masked and self.loss.reduction in MEANS

    def result(self, inputs: Sequence[Any], normalizer: Any) -> tuple[Any, Any]:
        """What a part adds to the loss, not yet weighted, and its report.

        Args:
            inputs: Of the part.
            normalizer: Of all parts; None if it is the only one.
        """
        loss = self.reduced(self._values(inputs)[0], inputs, normalizer)
        return loss, self._report([loss, *self.metric_states(*inputs[:2], inputs)])

    def normalizer(self, inputs: Sequence[Any]) -> Any:
        """What a part adds to what the loss is divided by: a scalar."""
        if self.loss.reduction == WEIGHTED_MEAN:
            return tf.reduce_sum(self._factors(inputs))
        return tf.reduce_sum(self._mask(inputs))

    def reduced(self, values: Any, inputs: Sequence[Any], normalizer: Any) -> Any:
        """The part's share of the loss, by Keras's formula for the whole: a scalar."""
        factors = self._factors(inputs)
        if factors is not None:
            values, factors = squeeze_or_expand_to_same_rank(values, factors)
            values = values * factors
        total = tf.reduce_sum(values)
        if self.is_normalized:
            whole = self.normalizer(inputs) if normalizer is None else normalizer
            return tf.math.divide_no_nan(total, tf.cast(whole, total.dtype))
        if self.loss.reduction == "sum":
            return total
        return total / tf.cast(self.num_values, total.dtype)

    def _values(self, inputs: Sequence[Any]) -> tuple[Any, Any]:
        """Unreduced values, and their mask or None."""
        values = loss_values(self.loss, inputs[1], self._prediction(inputs))
        return values, get_keras_mask(values)

    def _prediction(self, inputs: Sequence[Any]) -> Any:
        """The prediction, with its logits where Keras's cross-entropies look for them."""
        y_pred = inputs[0]
        if self.logits_at is not None:
            # On a copy, which metrics do not read.
            y_pred = tf.identity(tf.cast(y_pred, self.loss.dtype))
            y_pred._keras_logits = tf.cast(inputs[self.logits_at], self.loss.dtype)
        return y_pred

    def _mask(self, inputs: Sequence[Any]) -> Any:
        """1 for values that count, 0 for others; None if all do."""
        _, mask = self._weights_and_mask(inputs)
        if mask is not None:
            mask = tf.cast(mask, "bool")
        if self.ignore_class is not None:
            y_true = tf.cast(inputs[1], self.loss.dtype)
            is_valid = tf.not_equal(y_true, tf.cast(self.ignore_class, y_true.dtype))
            shape = [inputs[0].shape[0], *inputs[0].shape[1:-1]]
            is_valid = tf.reshape(is_valid, shape)
            mask = is_valid if mask is None else mask & is_valid
        return None if mask is None else tf.cast(mask, self.loss.dtype)

    def _factors(self, inputs: Sequence[Any]) -> Any:
        """Sample weights and mask multiplied, as `keras.losses` does; None for neither."""
        mask = self._mask(inputs)
        weights, _ = self._weights_and_mask(inputs)
        if weights is None:
            return mask
        weights = tf.cast(weights, self.loss.dtype)
        if mask is None:
            return weights
        mask, weights = squeeze_or_expand_to_same_rank(mask, weights)
        return mask * weights


@dataclass(frozen=True)
class BatchLossTerm(LossTerm):
    """A loss that does not treat values alone: the mean or sum over samples, or of whole batches.

    Attributes:
        kind: `"mean"`, `"sum"` or `"whole"` (see `loss_trials`).
    """

    kind: str

    @property
    def is_normalized(self) -> bool:
        return False

    def result(self, inputs: Sequence[Any], normalizer: Any) -> tuple[Any, Any]:
        del normalizer
        y_pred = self._prediction(inputs)
        weights, mask = self._weights_and_mask(inputs)
        if mask is not None:
            y_pred = y_pred if self.logits_at is not None else tf.identity(y_pred)
            set_keras_mask(y_pred, mask)
        loss = self.loss(inputs[1], y_pred, sample_weight=weights)
        if self.kind == "mean":
            loss = loss * (y_pred.shape[0] / self.batch_size)
        return loss, self._report([loss, *self.metric_states(*inputs[:2], inputs)])


@dataclass(frozen=True)
class CrossEntropyTerm(LossTerm):
    """A cross-entropy that reads logits alone, with metrics that the largest of them decide.

    Attributes:
        is_sparse: Whether labels are numbers of classes.
    """

    is_sparse: bool

    @property
    def label_smoothing(self) -> float:
        return self.loss._fn_kwargs.get("label_smoothing") or 0.0

    def report_of_classes(self, loss: Any, inputs: Sequence[Any], hits: Any) -> Any:
        """The report of a part with some of the classes.

        Args:
            loss: What the part adds to the loss.
            inputs: Of the part.
            hits: For each value whether the largest logit is the label's; None in parts that
                leave it to another to say so.
        """
        if hits is None:
            return self._report([loss, *(tf.zeros(v.shape) for v in self.metric_variables)])
        # Two classes stand for all: the label's own, which has the larger logit in a hit.
        y_true = tf.where(hits, 0, 1)
        y_pred = tf.stack([tf.ones_like(y_true), tf.zeros_like(y_true)], -1)
        y_true = tf.reshape(y_true, inputs[1].shape) if self.is_sparse else tf.one_hot(y_true, 2)
        y_pred = tf.cast(y_pred, self.loss.dtype)
        return self._report([loss, *self.metric_states(y_pred, y_true, inputs)])


def loss_values(loss: keras.losses.Loss, y_true: Any, y_pred: Any) -> Any:
    """Unreduced values of a Keras loss, after the conversions of `Loss.__call__`."""
    y_pred = keras.ops.convert_to_tensor(y_pred, dtype=loss.dtype)
    y_true = keras.ops.convert_to_tensor(y_true, dtype=loss.dtype)
    return keras.ops.convert_to_tensor(loss.call(y_true, y_pred), dtype=loss.dtype)
