"""The operators of one output's loss and metrics.

See the rules of `losses`, of which this is a part.
"""

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
    CrossEntropyTerm,
    LossTerm,
    MetricTerm,
    loss_values,
    report_dtype,
)
from keras_soap.capture.time_blocks import Traced
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
        self.builder, self.name, self.loss = builder, name, loss
        self.reads_weights, self.reads_mask = reads_weights, reads_mask
        self.specs = [builder.spec(tensor) for tensor in read]
        y_pred, y_true = (keras.KerasTensor(spec.shape, spec.dtype) for spec in self.specs[:2])
        values = keras.src.backend.compute_output_spec(
            lambda t, p: loss_values(loss, t, p), y_true, y_pred
        )
        self.dtype = keras.backend.standardize_dtype(values.dtype)
        self.shape = tuple(int(size) for size in values.shape)
        if not self.shape or self.shape[0] != builder.batch_size:
            raise CaptureError(
                f"Loss {name!r} gives values of shape {self.shape} for a batch of "
                f"{builder.batch_size}. Let it return one value for each sample; Keras takes the "
                "mean."
            )
        if reads_mask and self.specs[-1].shape != self.shape:
            raise CaptureError(
                f"Output {name!r} has a mask of shape {self.specs[-1].shape}, but its loss has "
                f"values of shape {self.shape}. Let the loss give a value for each step."
            )
        self.blocks = self._blocks(read)
        self.logits = [_logits(builder, refs[0], loss) for refs in self.blocks]
        if self.logits == [None] and read[0].blocks:
            of_blocks = [_logits(builder, ref, loss) for ref in read[0].blocks]
            found = tuple(ref for ref in of_blocks if ref is not None)
            if len(found) == len(of_blocks):
                self.logits = [builder.whole(Traced(blocks=found))]

    def add(
        self,
        weight: float,
        tracker: Any,
        metrics: tuple[tuple[keras.metrics.Metric, bool], ...],
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Adds operators for the loss, and for metrics that are none of its business."""
        logits, splits_classes = self.logits, self._splits_classes()
        here = tuple(pair for pair in metrics if not splits_classes or _finds_classes(pair[0]))
        elsewhere = tuple(pair for pair in metrics if pair not in here)
        shared = (self.reads_weights, self.reads_mask, report_dtype(self.dtype))
        of_loss = (self.loss, float(weight), tracker, math.prod(self.shape))
        shape = (self.shape[0], *self._block_shape)
        attributes: dict[str, Any] = {}
        if splits_classes:
            is_logits = logits[0] is None
            is_sparse = _function(self.loss).startswith("sparse")
            term = CrossEntropyTerm(
                here, self.shape[1:], *shared, *of_loss, None if is_logits else 0, is_sparse
            )
            attributes |= {"is_sparse": is_sparse, "finds_classes": bool(here)}
            shape = (*shape, self.specs[0].shape[-1])
            inputs = [
                (refs[0] if of_block is None else of_block, *refs[1:])
                for refs, of_block in zip(self.blocks, logits, strict=True)
            ]
        else:
            at = None if logits[0] is None else len(self.blocks[0])
            term = LossTerm(here, self.shape[1:], *shared, *of_loss, at)
            inputs = [
                refs if of_block is None else (*refs, of_block)
                for refs, of_block in zip(self.blocks, logits, strict=True)
            ]
        attributes |= {
            "loss": _function(self.loss) or type(self.loss).__name__,
            "weight": term.weight,
            "report_bytes": term.report_bytes,
            # The prediction, where the loss is of its logits.
            "constant_inputs": [0] if term.logits_at else [],
            "is_normalized": term.is_normalized,
        }
        kind = "cross_entropy" if splits_classes else "loss"
        losses = self._add_all("loss", kind, inputs, shape, attributes, term)
        if not elsewhere:
            return losses, ()
        of_metrics = MetricTerm(elsewhere, self.shape[1:], *shared)
        attributes = {
            "report_bytes": of_metrics.report_bytes,
            "constant_inputs": [0],
            "metrics": [metric.name for metric, _ in elsewhere],
        }
        shape = (self.shape[0], *self._block_shape)
        return losses, self._add_all(
            "metrics", "metrics", self.blocks, shape, attributes, of_metrics
        )

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

    def _splits_classes(self) -> bool:
        """Whether the loss is a cross-entropy of logits that are at hand."""
        loss, (y_pred, y_true) = self.loss, self.specs[:2]
        kinds = (
            LossFunctionWrapper,
            keras.losses.SparseCategoricalCrossentropy,
            keras.losses.CategoricalCrossentropy,
        )
        given = getattr(loss, "_fn_kwargs", {})
        if type(loss) not in kinds or _CROSS_ENTROPIES.get(_function(loss)) != "softmax":
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


_CROSS_ENTROPIES = {
    "sparse_categorical_crossentropy": "softmax",
    "categorical_crossentropy": "softmax",
    "binary_crossentropy": "sigmoid",
}


def _logits(builder: GraphBuilder, prediction: TensorRef, loss: Any) -> TensorRef | None:
    """What the prediction is a softmax or sigmoid of, if the loss is its cross-entropy."""
    wanted = _CROSS_ENTROPIES.get(_function(loss))
    operator = builder.operators[prediction.operator]
    attributes = operator.attributes
    given = getattr(loss, "_fn_kwargs", {})
    # Keras loses sight of the logits where it leaves out a class.
    if wanted is None or given.get("from_logits") or given.get("ignore_class") is not None:
        return None
    layer = builder.layers[prediction.operator]
    is_activation = operator.kind != "dense" and attributes.get("activation") == wanted
    is_layer = type(layer).__name__.lower() == wanted and attributes.get("axis", -1) == -1
    same_dtype = operator.output.dtype == keras.backend.standardize_dtype(loss.dtype)
    if (is_activation or is_layer) and len(operator.inputs) == 1 and same_dtype:
        return operator.inputs[0]
    return None
