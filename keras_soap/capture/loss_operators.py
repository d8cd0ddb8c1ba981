"""The operators of one output's loss and metrics.

See the rules of `losses`, of which this is a part.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
from keras.src.losses.losses import LossFunctionWrapper
from keras.src.metrics.reduction_metrics import MeanMetricWrapper

from keras_soap.capture.builder import GraphBuilder
from keras_soap.capture.loss_terms import (
    MEANS,
    WEIGHTED_MEAN,
    BatchLossTerm,
    BatchMetricTerm,
    CrossEntropyTerm,
    LossTerm,
    MetricTerm,
    TrackedMetric,
    loss_values,
    report_dtype,
)
from keras_soap.capture.loss_trials import (
    CROSS_ENTROPIES,
    NUM_SAMPLES,
    is_of_keras,
    kind_of_loss,
    kind_of_metric,
    takes_logits,
    treats_values_alone,
)
from keras_soap.capture.traced import Traced
from keras_soap.errors import CaptureError
from keras_soap.graph.operator_graph import TensorRef, TensorSpec


class LossOutput:
    """An output with a loss, while its operators are added.

    Args:
        builder: Adds them.
        name: Of the loss.
        read: Prediction, target and, if there are, sample weights and mask.
        loss: The Keras loss.
        reads_weights: Whether there are sample weights.
        reads_mask: Whether there is a mask.
    """

    def __init__(
        self,
        builder: GraphBuilder,
        name: str,
        read: Sequence[Traced],
        loss: keras.losses.Loss,
        reads_weights: bool,
        reads_mask: bool,
    ):
        if loss.reduction not in (*MEANS, WEIGHTED_MEAN, "sum"):
            raise CaptureError(
                f"Loss {name!r} has reduction={loss.reduction!r}, which cannot be summed over "
                "parts. Use 'sum_over_batch_size' or 'sum'."
            )
        self.builder, self.name, self.loss, self.read = builder, name, loss, read
        self.reads_weights, self.reads_mask = reads_weights, reads_mask
        self.specs = [builder.spec(tensor) for tensor in read]
        y_pred, y_true = (keras.KerasTensor(spec.shape, spec.dtype) for spec in self.specs[:2])
        has_values = type(loss).__call__ is keras.losses.Loss.__call__
        values = keras.src.backend.compute_output_spec(
            lambda t, p: loss_values(loss, t, p) if has_values else loss(t, p), y_true, y_pred
        )
        self.dtype = keras.backend.standardize_dtype(values.dtype)
        self.shape = tuple(int(size) for size in values.shape)
        self.kind: str | None = None
        """Of a loss that does not treat values alone."""
        if not treats_values_alone(loss, self.specs, self.shape):
            is_tried = not reads_weights and not reads_mask
            self.kind = kind_of_loss(loss, self.specs) if is_tried else "whole"
            self.shape = (builder.batch_size,)
        elif reads_mask and self.specs[-1].shape != self.shape:
            raise CaptureError(
                f"Output {name!r} has a mask of shape {self.specs[-1].shape}, but its loss has "
                f"values of shape {self.shape}. Let the loss give a value for each step."
            )
        self.blocks = self._blocks(read)
        self.logits = [self._logits(refs[0]) for refs in self.blocks]
        if self.logits == [None] and read[0].blocks:
            of_blocks = [self._logits(ref) for ref in read[0].blocks]
            found = tuple(ref for ref in of_blocks if ref is not None)
            if len(found) == len(of_blocks):
                self.logits = [builder.whole(Traced(blocks=found))]

    def add(
        self,
        weight: float,
        tracker: Any,
        metrics: tuple[tuple[keras.metrics.Metric, bool], ...],
    ) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
        """Adds operators for the loss, and for metrics that are none of its business.

        Args:
            weight: Of the loss in the total.
            tracker: As in `LossTerm`.
            metrics: `(metric, whether it takes sample weights)`.

        Returns:
            Numbers of operators of the loss, and of each of the others.
        """
        logits, splits_classes = self.logits, self._splits_classes()
        batch_size, *values_shape = self.shape
        shared = (batch_size, tuple(values_shape), self.reads_weights, self.reads_mask)
        tracked = [self._tracked(*pair, shared) for pair in metrics]
        of_batches = tuple(one for one in tracked if one.kind == "whole")
        of_parts = [one for one in tracked if one.kind != "whole"]
        here = tuple(one for one in of_parts if not splits_classes or _finds_classes(one.metric))
        elsewhere = tuple(one for one in of_parts if one not in here)
        shared = (*shared, report_dtype(self.dtype))
        of_loss = (self.loss, float(weight), tracker, math.prod(self.shape))
        shape = (self.shape[0], *self._block_shape)
        attributes: dict[str, Any] = {}
        if splits_classes:
            is_logits = logits[0] is None
            is_sparse = _function(self.loss).startswith("sparse")
            term = CrossEntropyTerm(here, *shared, *of_loss, None if is_logits else 0, is_sparse)
            attributes |= {"is_sparse": is_sparse, "finds_classes": bool(here)}
            shape = (*shape, self.specs[0].shape[-1])
            inputs = [
                (refs[0] if of_block is None else of_block, *refs[1:])
                for refs, of_block in zip(self.blocks, logits, strict=True)
            ]
        else:
            at = None if logits[0] is None else len(self.blocks[0])
            if self.kind is not None:
                term = BatchLossTerm(here, *shared, *of_loss, at, self.kind)
                attributes |= {"is_whole": True} if self.kind == "whole" else {}
            else:
                term = LossTerm(here, *shared, *of_loss, at)
            inputs = [
                refs if of_block is None else (*refs, of_block)
                for refs, of_block in zip(self.blocks, logits, strict=True)
            ]
        attributes |= {
            "loss": _function(self.loss) or type(self.loss).__name__,
            "weight": term.weight,
            "report_bytes": term.report_bytes,
            # The prediction, where the loss is of its logits alone.
            "constant_inputs": [0] if term.logits_at and _cross_entropy(self.loss) else [],
            "is_normalized": term.is_normalized,
        }
        kind = "cross_entropy" if splits_classes else "loss"
        losses = self._add_all("loss", kind, inputs, shape, attributes, term)
        more: list[tuple[int, ...]] = []
        if elsewhere:
            more.append(self._add_metrics(MetricTerm(elsewhere, *shared), self.blocks))
        if of_batches:
            whole = tuple(self.builder.whole(tensor) for tensor in self.read)
            # States grow from step to step: with all digits that they can have.
            of_whole = BatchMetricTerm(of_batches, *shared[:-1], "float64")
            more.append(self._add_metrics(of_whole, [whole]))
        return losses, tuple(more)

    def _add_metrics(
        self, term: MetricTerm, inputs: Sequence[Sequence[TensorRef]]
    ) -> tuple[int, ...]:
        attributes: dict[str, Any] = {
            "report_bytes": term.report_bytes,
            "constant_inputs": [0],
            "metrics": [tracked.metric.name for tracked in term.metrics],
        }
        shape, prefix = (self.shape[0], *self._block_shape), "metrics"
        if term.replaces_states:
            attributes["is_whole"] = True
            shape, prefix = self.shape, "metrics_of_batches"
        return self._add_all(prefix, "metrics", inputs, shape, attributes, term)

    def _tracked(
        self, metric: keras.metrics.Metric, is_weighted: bool, shared: tuple[Any, ...]
    ) -> TrackedMetric:
        tracked = TrackedMetric(metric, is_weighted)
        term = MetricTerm((tracked,), *shared, "float64")
        term = dataclasses.replace(term, batch_size=NUM_SAMPLES)
        return dataclasses.replace(tracked, kind=kind_of_metric(term, self.specs))

    def _blocks(self, read: Sequence[Traced]) -> list[tuple[TensorRef, ...]]:
        """What each operator reads: one for each block of steps, or one for all."""
        prediction, count = read[0], len(read[0].blocks)
        steps = [spec.shape[1:2] == self.shape[1:2] for spec in self.specs]
        # What a loss is divided by is added up over the parts of one operator.
        adds_up = not self.reads_mask and self.loss.reduction in (*MEANS, "sum")
        adds_up &= getattr(self.loss, "_fn_kwargs", {}).get("ignore_class") is None
        self._block_shape = self.shape[1:]
        if prediction.whole is not None or not self.shape[1:2] or not all(steps[:2]) or not adds_up:
            return [tuple(self.builder.whole(tensor) for tensor in read)]
        assert self.builder.time_blocks is not None
        self._block_shape = (self.shape[1] // count, *self.shape[2:])
        by_input = [
            self.builder.time_blocks.cut(tensor)
            if has_steps
            else (self.builder.whole(tensor),) * count
            for tensor, has_steps in zip(read, steps, strict=True)
        ]
        return list(zip(*by_input, strict=True))

    def _logits(self, prediction: TensorRef) -> TensorRef | None:
        """What the prediction is a softmax or sigmoid of, if the loss works on that."""
        operator = self.builder.operators[prediction.operator]
        attributes = operator.attributes
        layer = self.builder.layers[prediction.operator]
        wanted = _cross_entropy(self.loss)
        for activation in ("softmax", "sigmoid") if wanted is None else (wanted,):
            is_activation = operator.kind != "dense" and attributes.get("activation") == activation
            is_layer = type(layer).__name__.lower() == activation
            if is_activation or (is_layer and attributes.get("axis", -1) == -1):
                break
        else:
            return None
        same_dtype = operator.output.dtype == keras.backend.standardize_dtype(self.loss.dtype)
        if len(operator.inputs) > 1 or not same_dtype or not takes_logits(self.loss, self.specs):
            return None
        return operator.inputs[0]

    def _splits_classes(self) -> bool:
        """Whether the loss is a cross-entropy of logits that are at hand."""
        loss, (y_pred, y_true) = self.loss, self.specs[:2]
        kinds = (
            LossFunctionWrapper,
            keras.losses.SparseCategoricalCrossentropy,
            keras.losses.CategoricalCrossentropy,
        )
        given = getattr(loss, "_fn_kwargs", {})
        if self.kind or type(loss) not in kinds or _cross_entropy(loss) != "softmax":
            return False
        if self.logits[0] is None and not given.get("from_logits"):
            return False
        if given.get("axis", -1) not in (-1, len(y_pred.shape) - 1) or y_pred.shape[-1] == 1:
            return False
        labels = (self.shape, (*self.shape, 1))
        if not _function(loss).startswith("sparse"):
            labels = (y_pred.shape,)
        return (
            y_pred.shape[:-1] == self.shape
            and y_true.shape in labels
            and self.dtype in ("float32", "float64")
        )

    def _add_all(
        self,
        prefix: str,
        kind: str,
        inputs: Sequence[Sequence[TensorRef]],
        shape: tuple[int, ...],
        attributes: dict[str, Any],
        term: MetricTerm,
    ) -> tuple[int, ...]:
        several = len(inputs) > 1
        return tuple(
            self.builder.add(
                f"{prefix}/{self.name}/block_{number}" if several else f"{prefix}/{self.name}",
                kind,
                "",
                refs,
                (TensorSpec(shape, self.dtype),),
                attributes,
                term,
            )
            for number, refs in enumerate(inputs)
        )


def _finds_classes(metric: keras.metrics.Metric) -> bool:
    """Whether a metric asks of a prediction for its largest class, and for nothing else."""
    functions = (
        keras.metrics.sparse_categorical_accuracy,
        keras.metrics.categorical_accuracy,
    )
    return (
        isinstance(metric, MeanMetricWrapper)
        and type(metric).update_state is MeanMetricWrapper.update_state
        and metric._fn in functions
    )


def _function(loss: Any) -> str:
    """Name of the function that a loss wraps, or nothing."""
    return getattr(getattr(loss, "fn", None), "__name__", "")


def _cross_entropy(loss: Any) -> str | None:
    """The activation that a loss is the cross-entropy of, if it is one of Keras's."""
    is_known = is_of_keras(getattr(loss, "fn", None))
    return CROSS_ENTROPIES.get(_function(loss)) if is_known else None
