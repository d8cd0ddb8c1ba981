"""Adds what `compile` asked for to a captured model: targets, losses and metrics as operators.

1. A loss operator reads a prediction, its target and, if given, sample weights. Its output is the
   tensor of unreduced loss values: what can be split is what the loss does not reduce over.
2. Each part of it sums its values, over the number of all values. So parts add up to the loss.
3. A cross-entropy of a softmax or sigmoid works on the logits, as Keras's does: the loss reads
   them too, and the gradient goes to them.
4. A loss of a prediction in blocks of steps is an operator for each block, if it has a value for
   each step. They are of one term: what they report is added up.
5. One of a softmax reads the logits alone, and can be split by classes (see `operators.loss`). So
   can accuracies; other metrics of its output are an operator that reads the prediction whole.
6. Where an output has a mask, its loss and metrics read it, and are means over what it leaves.
7. Regularizers of activities are losses without a target (see `penalties`).
8. Metrics run on the parts too; what each adds to a metric's state adds up to the whole's.
9. Losses and metrics that need whole batches, which trials find out, run whole (`loss_trials`).
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import keras

from keras_soap.capture import penalties
from keras_soap.capture.captured_model import CapturedModel
from keras_soap.capture.loss_operators import LossOutput
from keras_soap.capture.model import add_model
from keras_soap.capture.traced import Traced
from keras_soap.errors import CaptureError
from keras_soap.graph.operator_graph import TensorRef, TensorSpec
from keras_soap.graph.unread import mark_unread


@dataclass(frozen=True)
class CapturedStep:
    """A captured model with its losses: all that a training step computes.

    Attributes:
        model: Operators of the model and the losses.
        targets: Operator numbers of the targets, flat; None where a target is not used.
        sample_weights: Operator numbers of the sample weights, flat; empty without them.
        losses: For each loss the numbers of its operators.
        metrics: Likewise for metrics that are operators of their own.
    """

    model: CapturedModel
    targets: tuple[int | None, ...]
    sample_weights: tuple[int, ...]
    losses: tuple[tuple[int, ...], ...]
    metrics: tuple[tuple[int, ...], ...] = ()

    @property
    def fed(self) -> list[int]:
        """Numbers of the operators that a batch is for: inputs, targets and sample weights."""
        targets = [number for number in self.targets if number is not None]
        return [*self.model.inputs, *targets, *self.sample_weights]

    def term(self, number: int) -> Any:
        """The `LossTerm`, `MetricTerm` or `ActivityTerm` of operator `number`."""
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
    builder, (inputs, outputs, structure) = add_model(model, batch_size, time_chunk)
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
    losses: list[tuple[int, ...]] = []
    more_metrics: list[tuple[int, ...]] = []
    masks = builder.add_masks()
    for (prediction, target, loss, weight, name), tracker in zip(pairs, trackers, strict=True):
        weight_refs = []
        if weight_numbers:
            position = prediction if len(weight_numbers) == len(outputs) else 0
            weight_refs = [Traced(TensorRef(weight_numbers[position]))]
        mask = masks[prediction]
        read = [outputs[prediction], Traced(TensorRef(target_numbers[target])), *weight_refs]
        read += [] if mask is None else [mask]
        # Losses have the names of output layers, which may be automatic ones.
        name = builder.operator_names.get(name, name)
        term_metrics = metrics.pop(prediction, ())
        output = LossOutput(builder, name, read, loss, bool(weight_refs), mask is not None)
        of_loss, of_metrics = output.add(1.0 if weight is None else weight, tracker, term_metrics)
        losses.append(of_loss)
        more_metrics += of_metrics
    losses += penalties.add_activity_losses(builder)
    losses += penalties.add_added_losses(model, builder)
    penalties.check_all_captured(model, builder)
    if any(metrics.values()):
        raise CaptureError(
            f"Model {model.name!r} has metrics on outputs without a loss. Give those outputs a "
            "loss, with loss weight 0 if it is not to train."
        )
    captured = builder.finish(inputs, outputs, structure)
    captured = dataclasses.replace(captured, graph=mark_unread(captured.graph))
    return CapturedStep(
        captured,
        tuple(target_numbers),
        tuple(weight_numbers),
        tuple(losses),
        tuple(more_metrics),
    )


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
