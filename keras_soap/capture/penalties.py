"""What layers add to the loss: regularizers, and their own `add_loss`.

1. A regularizer of an activity is an operator of kind loss, which reads the activity. If it is a
   sum over elements (L1, L2, L1L2), the activity can be split along any axis; Keras divides by the
   samples of the batch, and so does each part: by those of the whole batch.
2. Regularizers of weights are no operators. `runtime.penalties` adds them up, once for each region.
3. What layers and the model add with `add_loss` is an output (see `added_losses`), here a loss.
"""

from dataclasses import dataclass
from typing import Any

import keras
from keras.src.backend.common.stateless_scope import StatelessScope
from keras.src.backend.common.symbolic_scope import SymbolicScope

from keras_soap.capture.added_losses import AddedTerm
from keras_soap.capture.builder import GraphBuilder
from keras_soap.capture.functions import function_of
from keras_soap.capture.loss_terms import TermWithoutTarget, report_dtype
from keras_soap.errors import CaptureError
from keras_soap.graph.operator_graph import TensorSpec, dtype_bytes


def adds_up(regularizer: Any) -> bool:
    """Whether what it makes of a tensor is the sum of what it makes of the tensor's regions."""
    kinds = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)
    return type(regularizer) in kinds


@dataclass(frozen=True)
class ActivityTerm(TermWithoutTarget):
    """A regularizer of one output of a layer's call.

    Attributes:
        loss: The regularizer.
        batch_size: Samples of a whole batch; in layers of layers, what they make of them.
    """

    loss: keras.regularizers.Regularizer
    batch_size: int

    def value(self, inputs: Any) -> Any:
        value = self.loss(inputs[0])
        return value / keras.ops.cast(self.batch_size, value.dtype)


def add_activity_losses(builder: GraphBuilder) -> list[tuple[int, ...]]:
    """Adds operators for all regularized activities; gives the numbers of each one's."""
    losses = []
    for name, layer, output in builder.activities:
        regularizer = layer.activity_regularizer
        if not adds_up(regularizer):
            raise CaptureError(
                f"Layer {layer.name!r} has the activity_regularizer "
                f"{type(regularizer).__name__}, which may not be a sum over elements. Use L1, L2 "
                "or L1L2."
            )
        term = ActivityTerm(regularizer, builder.spec(output).shape[0])
        numbers = []
        for ref in output.refs:
            of_output = builder.operators[ref.operator].output_specs[ref.output]
            numbers.append(
                builder.add(
                    f"loss/{name}/activity",
                    "loss",
                    "",
                    (ref,),
                    (TensorSpec(of_output.shape, of_output.dtype),),
                    {
                        "loss": type(regularizer).__name__,
                        "weight": term.weight,
                        "report_bytes": dtype_bytes(report_dtype(of_output.dtype)),
                        "constant_inputs": [],
                    },
                    term,
                )
            )
        losses.append(tuple(numbers))
    return losses


def add_added_losses(model: keras.Model, builder: GraphBuilder) -> list[tuple[int, ...]]:
    """Adds operators for what layers, and the model, add to the loss; gives the number of each."""
    added = list(builder.added_losses)
    if builder.model_loss is not None:
        added.append((builder.name, model, builder.model_loss))
    return [
        (
            builder.add(
                f"loss/{name}/added",
                "loss",
                "",
                (builder.whole(shares),),
                (builder.spec(shares),),
                {
                    "loss": type(layer).__name__,
                    "weight": AddedTerm.weight,
                    "report_bytes": dtype_bytes(report_dtype(builder.spec(shares).dtype)),
                    "constant_inputs": [],
                },
                AddedTerm(layer),
            ),
        )
        for name, layer, shares in added
    ]


def check_all_captured(model: keras.Model, builder: GraphBuilder) -> None:
    """Raises `CaptureError` if a layer adds losses in a way that the graph does not show."""
    captured = {id(layer) for _, layer, _ in builder.activities}
    if builder.model_loss is not None:
        captured.add(id(model))
    for _, layer, _ in builder.added_losses:
        captured |= {id(inner) for inner in layer._flatten_layers()}
    for layer in model._flatten_layers():
        regularizer = layer.activity_regularizer
        if regularizer is not None and id(layer) not in captured:
            raise CaptureError(
                f"Layer {layer.name!r} has the activity_regularizer {type(regularizer).__name__}, "
                "but is part of another layer or is a model. Put an "
                "ActivityRegularization layer after what is to be regularized."
            )
    for layer in _layers_that_add_losses(model):
        if id(layer) not in captured:
            raise CaptureError(
                f"Layer {layer.name!r} calls add_loss(), but did not on random inputs. Express it "
                "with an activity_regularizer, a kernel_regularizer, or as an output with a loss "
                "of its own."
            )


def _layers_that_add_losses(model: keras.Model) -> list[keras.Layer]:
    layers = [
        layer
        for layer in model._flatten_layers()
        # None of Keras's own calls add_loss.
        if type(layer).__module__.partition(".")[0] != "keras"
    ]
    if not layers:
        return []
    function = function_of(model)
    found: dict[int, keras.Layer] = {}

    def run(*inputs: Any) -> Any:
        with StatelessScope(collect_losses=True) as scope, SymbolicScope():
            model(keras.tree.pack_sequence_as(function._inputs_struct, inputs), training=True)
            losses = {id(loss) for loss in scope.losses}
        for layer in layers:
            if layer._loss_ids & losses:
                found[id(layer)] = layer
            layer._loss_ids -= losses
        return inputs[0]

    regularizers = [layer.activity_regularizer for layer in layers]
    try:
        for layer in layers:
            layer.activity_regularizer = None
        keras.src.backend.compute_output_spec(run, *function.inputs)
    finally:
        for layer, regularizer in zip(layers, regularizers, strict=True):
            layer.activity_regularizer = regularizer
    return list(found.values())
