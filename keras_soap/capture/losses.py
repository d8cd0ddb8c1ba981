"""Adds what `compile` asked for to a captured model: targets, losses and metrics as operators.

1. A loss operator reads a prediction, its target and, if given, sample weights. Its output is the
   tensor of unreduced loss values: what can be split is what the loss does not reduce over.
2. Each part of it sums its values, over the number of all values. So parts add up to the loss.
3. A cross-entropy of a softmax or sigmoid works on the logits, as Keras's does: the loss reads
   them too, and the gradient goes to them.
4. A loss of a prediction in blocks of steps is an operator for each block, if it has a value for
   each step. They are of one term: what they report is added up.
5. Regularizers of activities are losses without a target (see `penalties`).
6. Metrics run on the parts too; what each adds to a metric's state adds up to the whole's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.losses.loss import squeeze_or_expand_to_same_rank

from keras_soap.capture import penalties
from keras_soap.capture.builder import CapturedModel, GraphBuilder
from keras_soap.capture.functions import function_of
from keras_soap.capture.time_blocks import Traced
from keras_soap.errors import CaptureError
from keras_soap.graph.operator_graph import TensorRef, TensorSpec

_MEANS = ("sum_over_batch_size", "mean")


@dataclass(frozen=True)
class LossTerm:
    """One loss of one output, with the metrics of that output.

    Attributes:
        loss: The Keras loss.
        weight: Its weight in the total.
        tracker: The metric that Keras tracks it with, where there are several losses.
        metrics: Metrics of the output; `(metric, whether it takes sample weights)`.
        num_values: Unreduced loss values of a whole batch.
        values_shape: Shape of those of one sample.
        reads_logits: Whether the last input is the logits of the prediction.
        reads_weights: Whether the third input is sample weights.
    """

    loss: keras.losses.Loss
    weight: float
    tracker: keras.metrics.Metric | None
    metrics: tuple[tuple[keras.metrics.Metric, bool], ...]
    num_values: int
    values_shape: tuple[int, ...]
    reads_logits: bool
    reads_weights: bool

    def partial(self, inputs: Sequence[Any]) -> Any:
        """What a part adds to the loss, not yet weighted: a scalar."""
        loss = self.loss
        y_pred, y_true = inputs[:2]
        sample_weight = inputs[2] if self.reads_weights else None
        if self.reads_logits:
            # Where Keras's cross-entropies look for logits. On a copy: the tensor itself may
            # be the very output of the softmax, and others read it.
            y_pred = tf.identity(y_pred)
            y_pred._keras_logits = inputs[-1]
        values = loss_values(loss, y_true, y_pred)
        if sample_weight is not None:
            weights = keras.ops.cast(sample_weight, values.dtype)
            values, weights = squeeze_or_expand_to_same_rank(values, weights)
            values = values * weights
        total = keras.ops.sum(values)
        if loss.reduction in _MEANS:
            total = total / keras.ops.cast(self.num_values, total.dtype)
        return total

    def metric_states(self, inputs: Sequence[Any]) -> list[Any]:
        """What a part adds to the state of each metric: all variables of all metrics, flat."""
        y_pred, y_true = inputs[:2]
        # Means are of samples: a sample's mean over some of its values counts for as many of them.
        here = math.prod(y_pred.shape[1 : 1 + len(self.values_shape)])
        share = here / math.prod(self.values_shape)
        added = []
        for metric, weighted in self.metrics:
            zeros = [keras.ops.zeros(v.shape, v.dtype) for v in metric.variables]
            weights = [inputs[2]] if weighted and self.reads_weights else []
            states = metric.stateless_update_state(zeros, y_true, y_pred, *weights)
            is_mean = isinstance(metric, keras.metrics.Mean)
            added += [state * share for state in states] if is_mean else states
        return added

    @property
    def metric_variables(self) -> list[keras.Variable]:
        return [variable for metric, _ in self.metrics for variable in metric.variables]

    @property
    def report_elements(self) -> int:
        """Elements of what a part reports: its loss, and what it adds to metrics."""
        return 1 + sum(int(np.prod(v.shape)) for v in self.metric_variables)


def loss_values(loss: keras.losses.Loss, y_true: Any, y_pred: Any) -> Any:
    """Unreduced values of a Keras loss, after the conversions of `Loss.__call__`."""
    y_pred = keras.ops.convert_to_tensor(y_pred, dtype=loss.dtype)
    y_true = keras.ops.convert_to_tensor(y_true, dtype=loss.dtype)
    return keras.ops.convert_to_tensor(loss.call(y_true, y_pred), dtype=loss.dtype)


@dataclass(frozen=True)
class CapturedStep:
    """A captured model with its losses: all that a training step computes.

    Attributes:
        model: Operators of the model and the losses.
        targets: Operator numbers of the targets, flat; None where a target is not used.
        sample_weights: Operator numbers of the sample weights, flat; empty without them.
        losses: For each loss the numbers of its operators.
    """

    model: CapturedModel
    targets: tuple[int | None, ...]
    sample_weights: tuple[int, ...]
    losses: tuple[tuple[int, ...], ...]

    def term(self, number: int) -> LossTerm:
        """The loss term of operator `number`; or an `ActivityTerm`, which has what is used here."""
        return self.model.layers[number]


def capture_step(
    model: keras.Model,
    batch_size: int,
    targets: Any,
    sample_weights: Any = None,
    time_chunk: int | None = None,
) -> CapturedStep:
    """Captures a compiled model together with its losses and metrics.

    Args:
        model: Compiled and built; its losses and metrics too.
        batch_size: Samples in one step.
        targets: Nested like `y`, with anything that has `shape` and `dtype` as leaves.
        sample_weights: Likewise, or None.
        time_chunk: As in `capture.model.capture`.

    Raises:
        CaptureError: If there is no loss, or a loss or metric cannot be computed part by part.
    """
    compile_loss = model._compile_loss
    if compile_loss is None or not compile_loss.built:
        raise CaptureError(
            f"Model {model.name!r} has no loss to train with. Compile it with a loss."
        )
    builder = GraphBuilder(model.name, batch_size, time_chunk)
    inputs, outputs, structure = builder.add_model(model)
    flat_targets = keras.tree.flatten(targets)
    target_numbers: list[int | None] = [
        builder.add_input(f"target_{i}" if len(flat_targets) > 1 else "target", _spec(x))
        for i, x in enumerate(flat_targets)
    ]
    flat_weights = [] if sample_weights is None else keras.tree.flatten(sample_weights)
    weight_numbers = [
        builder.add_input(
            f"sample_weight_{i}" if len(flat_weights) > 1 else "sample_weight", _spec(x)
        )
        for i, x in enumerate(flat_weights)
    ]
    pairs = _pair(compile_loss, structure, targets)
    metrics = _metrics_by_output(model, len(outputs))
    trackers = compile_loss.metrics or [None] * len(pairs)
    losses = []
    masks = [keras.src.backend.get_keras_mask(x) for x in function_of(model).outputs]
    for (prediction, target, loss, weight, name), tracker in zip(pairs, trackers, strict=True):
        if masks[prediction] is not None:
            raise CaptureError(
                f"Output {name!r} has a mask, which its loss would have to be averaged over. Leave "
                "out Masking and mask_zero=True, and pass sample weights that are 0 where the "
                "mask would be."
            )
        weight_refs = []
        if weight_numbers:
            position = prediction if len(weight_numbers) == len(outputs) else 0
            weight_refs = [Traced(TensorRef(weight_numbers[position]))]
        read = [outputs[prediction], Traced(TensorRef(target_numbers[target])), *weight_refs]
        # Losses have the names of output layers, which may be automatic ones.
        name = builder.operator_names.get(name, name)
        term_metrics = metrics.pop(prediction, ())
        losses.append(
            _add_loss(
                builder, name, read, loss, 1.0 if weight is None else weight, tracker, term_metrics
            )
        )
    losses += penalties.add_activity_losses(builder)
    penalties.check_all_captured(model, builder)
    if any(metrics.values()):
        raise CaptureError(
            f"Model {model.name!r} has metrics on outputs without a loss. Give those outputs a "
            "loss, with loss weight 0 if it is not to train."
        )
    return CapturedStep(
        builder.finish(inputs, outputs, structure),
        tuple(target_numbers),
        tuple(weight_numbers),
        tuple(losses),
    )


def _add_loss(
    builder: GraphBuilder,
    name: str,
    read: Sequence[Traced],
    loss: keras.losses.Loss,
    weight: float,
    tracker: Any,
    metrics: tuple[tuple[keras.metrics.Metric, bool], ...],
) -> tuple[int, ...]:
    if loss.reduction not in (*_MEANS, "sum"):
        raise CaptureError(
            f"Loss {name!r} has reduction={loss.reduction!r}, which cannot be summed over parts. "
            "Use 'sum_over_batch_size' or 'sum'."
        )
    specs = [builder.spec(tensor) for tensor in read]
    y_pred, y_true = (keras.KerasTensor(spec.shape, spec.dtype) for spec in specs[:2])
    values = keras.src.backend.compute_output_spec(
        lambda t, p: loss_values(loss, t, p), y_true, y_pred
    )
    shape = tuple(int(size) for size in values.shape)
    if not shape or shape[0] != builder.batch_size:
        raise CaptureError(
            f"Loss {name!r} gives values of shape {shape} for a batch of {builder.batch_size}. "
            "Let it return one value for each sample; Keras takes the mean."
        )
    values_shape = shape[1:]
    prediction, count = read[0], len(read[0].blocks)
    steps = [spec.shape[1:2] == shape[1:2] for spec in specs]
    if prediction.whole is None and shape[1:2] and all(steps[:2]):
        assert builder.time_blocks is not None
        shape = (shape[0], shape[1] // count, *shape[2:])
        by_input = [
            builder.time_blocks.cut(tensor) if has_steps else (builder.whole(tensor),) * count
            for tensor, has_steps in zip(read, steps, strict=True)
        ]
        names = [f"loss/{name}/block_{number}" for number in range(count)]
    else:
        by_input = [(builder.whole(tensor),) for tensor in read]
        names = [f"loss/{name}"]
    logits = [_logits(builder, ref, loss) for ref in by_input[0]]
    term = LossTerm(
        loss,
        float(weight),
        tracker,
        metrics,
        len(names) * math.prod(shape),
        values_shape,
        reads_logits=logits[0] is not None,
        reads_weights=len(read) == 3,
    )
    spec = TensorSpec(shape, keras.backend.standardize_dtype(values.dtype))
    attributes = {
        "loss": getattr(getattr(loss, "fn", None), "__name__", type(loss).__name__),
        "weight": term.weight,
        "report_bytes": 4 * term.report_elements,
        "constant_inputs": [0] if term.reads_logits else [],
    }
    return tuple(
        builder.add(
            name,
            "loss",
            "",
            refs if of_block is None else (*refs, of_block),
            (spec,),
            attributes,
            term,
        )
        for name, of_block, *refs in zip(names, logits, *by_input, strict=True)
    )


_CROSS_ENTROPIES = {
    "sparse_categorical_crossentropy": "softmax",
    "categorical_crossentropy": "softmax",
    "binary_crossentropy": "sigmoid",
}


def _logits(builder: GraphBuilder, prediction: TensorRef, loss: Any) -> TensorRef | None:
    """What the prediction is a softmax or sigmoid of, if the loss is its cross-entropy."""
    function = getattr(getattr(loss, "fn", None), "__name__", "")
    wanted = _CROSS_ENTROPIES.get(function)
    operator = builder.operators[prediction.operator]
    attributes = operator.attributes
    if wanted is None or getattr(loss, "_fn_kwargs", {}).get("from_logits"):
        return None
    layer = builder.layers[prediction.operator]
    is_activation = operator.kind != "dense" and attributes.get("activation") == wanted
    is_layer = type(layer).__name__.lower() == wanted and attributes.get("axis", -1) == -1
    same_dtype = operator.output.dtype == keras.backend.standardize_dtype(loss.dtype)
    if (is_activation or is_layer) and len(operator.inputs) == 1 and same_dtype:
        return operator.inputs[0]
    return None


def _pair(compile_loss: Any, structure: Any, targets: Any) -> list[tuple[int, int, Any, Any, str]]:
    """For each loss: positions of its prediction and target among the flat ones, and the rest."""
    num_targets = len(keras.tree.flatten(targets))
    positions = keras.tree.pack_sequence_as(targets, list(range(num_targets)))
    predictions = keras.tree.pack_sequence_as(
        compile_loss._y_pred_build_structure, keras.tree.flatten(structure)
    )
    built = compile_loss._y_true_build_structure
    if isinstance(built, dict) and isinstance(positions, dict):
        ordered = {key: positions[key] for key in built}
    elif isinstance(positions, dict) and compile_loss.output_names:
        flat = [positions[name] for name in compile_loss.output_names]
        ordered = keras.tree.pack_sequence_as(built, flat)
    else:
        ordered = keras.tree.pack_sequence_as(built, keras.tree.flatten(positions))
    pairs = []
    for path, loss, weight, name in compile_loss._flat_losses:
        prediction, target = predictions, ordered
        for key in path:
            prediction, target = prediction[key], target[key]
        prediction = keras.tree.flatten(prediction)[0]
        pairs.append((prediction, keras.tree.flatten(target)[0], loss, weight, name))
    return pairs


def _metrics_by_output(
    model: keras.Model, num_outputs: int
) -> dict[int, tuple[tuple[keras.metrics.Metric, bool], ...]]:
    compiled = model._compile_metrics
    if compiled is None or not compiled.built:
        return {}
    found: dict[int, tuple[tuple[keras.metrics.Metric, bool], ...]] = {}
    for position in range(num_outputs):
        metrics: list[tuple[keras.metrics.Metric, bool]] = []
        for lists, weighted in (
            (compiled._flat_metrics, False),
            (compiled._flat_weighted_metrics, True),
        ):
            if position < len(lists) and lists[position] is not None:
                metrics += [(metric, weighted) for metric in lists[position].metrics]
        found[position] = tuple(metrics)
    return found


def _spec(tensor: Any) -> TensorSpec:
    return TensorSpec(
        tuple(int(size) for size in tensor.shape), keras.backend.standardize_dtype(tensor.dtype)
    )
