"""What becomes of a call: an operator with a rule, the operators it is made of, or a fallback.

1. A Keras layer or operation that has a rule, and options that the rule covers, is one operator.
2. Else a layer is opened up, if it can be (see `opening`), and if that loses nothing: where the
   layer treats samples independently, so must all that it is made of.
3. Else it is split by sample only, if a trial shows that it treats samples independently.
4. Else it runs whole on one device.
5. An operation on weights alone is split and copied as weights are (`operators.weights`), with the
   rule that covers it, if there is one.

Rules know nothing of masks: a call that is handed one starts at 2. Nor of losses that a layer adds:
one that does so starts at 3.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from absl import logging
from keras.src.backend.common.masking import get_keras_mask
from keras.src.ops.function import Function

from keras_soap.capture.added_losses import kind_of_losses
from keras_soap.capture.calls import (
    Call,
    config_of,
    exact_shapes,
    is_keras,
    nodes_of,
    recorded_mode,
    spec_of,
    weights_as_inputs,
)
from keras_soap.capture.functions import has_graph
from keras_soap.capture.opening import TracingError, autocast_of, found_masks, open_call
from keras_soap.capture.trials import treats_samples_alone
from keras_soap.errors import CaptureError
from keras_soap.graph.operator_graph import TensorSpec
from keras_soap.operators import registry
from keras_soap.operators.computation import without_values
from keras_soap.operators.weights import OF_WEIGHTS

_ENDING_IN_ACTIVATION = frozenset({"Dense", "EinsumDense", "Conv1D", "Conv2D", "Conv3D"})
_READ_MASKS = frozenset({"Multiply", "Minimum", "Maximum", "Lambda"})
"""Layers that look for masks on their inputs themselves."""
_WITHOUT_MASK = (
    "Leave out Masking and mask_zero=True before it, and pass sample weights or an attention_mask."
)


@dataclass(frozen=True)
class Decision:
    """What becomes of a call.

    Attributes:
        kind: Of the rule; `""` if it is opened.
        layer: What the operator computes: the layer, or the layer without what it ends with.
        activation: That, as a layer of its own, if any.
        function: What an opened call is made of.
        adds: How the losses that the layer adds depend on samples, if it does (`added_losses`).
        inner: What becomes of the calls in `function`, by the id of the node.
    """

    kind: str
    layer: Any
    activation: keras.layers.Activation | None = None
    function: Function | None = None
    adds: str | None = None
    inner: "dict[int, tuple[Call, Decision]]" = dataclasses.field(default_factory=dict)


def decide(call: Call, batch_size: int) -> Decision:
    """What becomes of `call`.

    Args:
        call: On whole batches.
        batch_size: Samples in them.

    Raises:
        CaptureError: If a layer finds masks that the graph does not show, and cannot be opened, or
            keeps states that are not its weights.
    """
    operation = call.operation
    if call.copies is not None:
        kind = _kind(call, operation) or "whole"
        # What no rule splits, and has samples: each copy would have to make all of them.
        has_samples = kind == "whole" and call.outputs[0].shape[:1] == (batch_size,)
        return Decision(kind if has_samples else kind + OF_WEIGHTS, operation)
    _check_stateful(call)
    reason = _unshown_mask(call)
    adds = None
    if isinstance(operation, keras.Layer):
        adds = kind_of_losses(call)
    if adds is not None:
        if reason is not None:
            raise CaptureError(f"{reason}; and it calls add_loss(). {_WITHOUT_MASK}")
        alone = adds != "whole" and treats_samples_alone(
            operation, call.inputs, call.outputs, call.fill
        )
        return Decision("samplewise" if alone else "whole", operation, adds=adds)
    if reason is None:
        layer, activation = _without_activation(call)
        kind = _kind(call, layer)
        if kind is not None:
            return Decision(kind, layer, activation)
    whole = None
    if isinstance(operation, keras.Layer):
        try:
            function = open_call(call, batch_size)
            inner = {
                id(node): (of_node, decide(of_node, batch_size))
                for node, of_node in calls_in(function, call, batch_size)
            }
            opened = Decision("", operation, None, function, inner=inner)
            if not _runs_whole(opened):
                return opened
            whole = opened
        except (TracingError, CaptureError) as error:
            logging.debug("%s is not opened: %s", operation.name, error)
            if reason is not None:
                raise CaptureError(
                    f"{reason}; it cannot be opened up, as {error}. {_WITHOUT_MASK}"
                ) from error
    if treats_samples_alone(operation, call.inputs, call.outputs, call.fill):
        return Decision("samplewise", operation)
    return whole or Decision("whole", operation)


def _check_stateful(call: Call) -> None:
    """Raises `CaptureError` if a layer keeps states that Keras does not count among its weights."""
    layers = call.operation._flatten_layers() if isinstance(call.operation, keras.Layer) else ()
    for layer in layers:
        if isinstance(layer, keras.layers.RNN) and layer.stateful:
            raise CaptureError(
                f"Layer {layer.name!r} has stateful=True, so it keeps states from batch to batch, "
                "in variables that are not its weights. Use stateful=False; return_state=True and "
                "initial_state= hand states on inside of the model."
            )


def _runs_whole(decision: Decision) -> bool:
    """Whether an operator that comes of it cannot be split at all."""
    return decision.kind == "whole" or any(_runs_whole(d) for _, d in decision.inner.values())


def calls_in(function: Function, call: Call, batch_size: int) -> Iterator[tuple[Any, Call]]:
    """The calls that an opened call is made of, but for models that are graphs themselves."""
    specs = {id(x): spec_of(x, batch_size, f"input {x.name}") for x in function.inputs}
    of_weights: dict[int, bool] = {}
    for node in nodes_of(function):
        if opens_as_graph(node):
            made = (spec_of(x, batch_size, f"output of {x.name}") for x in node.outputs)
        else:
            mode = training_mode(node, call.fixed.get("training"))
            read = [(specs[id(x)], of_weights.get(id(x), False)) for x in node.input_tensors]
            inner = call_of(node, read, mode, autocast_of(call.operation), batch_size)
            made = inner.outputs
            of_weights.update((id(x), inner.copies is not None) for x in node.outputs)
            yield node, inner
        specs.update(zip(map(id, node.outputs), made, strict=True))


def call_of(
    node: Any,
    inputs: Sequence[tuple[TensorSpec, bool]],
    training: bool | None,
    autocast: str | None,
    batch_size: int,
) -> Call:
    """The call that a node records, on whole batches.

    Args:
        node: Of a Keras graph.
        inputs: What it reads, and whether that is made of weights alone.
        training: The mode, if it is fixed.
        autocast: As in `Call`.
        batch_size: Samples in a batch.
    """
    operation = node.operation
    takes_mode = getattr(operation, "_call_has_training_arg", False)
    fixed = {"training": training} if takes_mode and training is not None else {}
    specs = tuple(spec for spec, _ in inputs)
    of_weights = tuple(alone for _, alone in inputs)
    call = Call(operation, node.arguments, specs, (), fixed, autocast, (), of_weights)
    made = node.outputs
    # A graph may be recorded on other numbers of samples, or on none in particular.
    recorded = [tuple(x.shape) for x in node.input_tensors]
    if recorded != [spec.shape for spec in specs] or any(None in x.shape for x in made):
        symbols = [keras.KerasTensor(spec.shape, spec.dtype) for spec in specs]
        args, kwargs = call.fill(symbols)
        with exact_shapes([operation]):
            made = keras.tree.flatten(operation.compute_output_spec(*args, **kwargs))
    outputs = tuple(spec_of(x, batch_size, f"output of {operation.name}") for x in made)
    call = dataclasses.replace(call, outputs=outputs)
    if isinstance(operation, keras.Layer) or not all(of_weights):
        return call
    return _on_weights_alone(call, batch_size)


def _on_weights_alone(call: Call, batch_size: int) -> Call:
    """An operation that reads nothing else, with weights among its inputs."""
    arguments, weights = weights_as_inputs(call.arguments)
    given = iter(zip(call.inputs, call.of_weights, strict=True))
    specs = []
    for weight in weights:
        if weight is None:
            specs.append(next(given)[0])
        else:
            dtype = keras.backend.standardize_dtype(weight.dtype)
            casts = call.autocast is not None and keras.backend.is_float_dtype(dtype)
            specs.append(TensorSpec(tuple(weight.shape), call.autocast if casts else dtype))
    # What is made for every sample is split by samples, as anything else.
    is_for_samples = type(call.operation).__name__ == "BroadcastTo" and (
        call.outputs[0].shape[:1] == (batch_size,)
    )
    return dataclasses.replace(
        call,
        arguments=arguments,
        inputs=tuple(specs),
        weights=weights,
        of_weights=(True,) * len(specs),
        copies=None if is_for_samples else batch_size,
    )


def training_mode(node: Any, enclosing: bool | None, in_graph: bool = False) -> bool | None:
    """The `training` that a call, or else what it is part of, fixes.

    In the graph of a model, Keras replaces what calls fix by the mode that the model is run in.
    """
    fixed = None if in_graph else recorded_mode(node)
    return enclosing if fixed is None else fixed


def does_nothing(call: Call) -> bool:
    """Whether a call is a cast to the dtype that its input has."""
    is_cast = type(call.operation).__name__ in ("Cast", "ConvertToTensor")
    return is_cast and call.inputs == call.outputs


def opens_as_graph(node: Any) -> bool:
    """Whether a node is a call of a model whose own graph says what it does."""
    return (
        isinstance(node.operation, keras.Model)
        and has_graph(node.operation)
        and all(get_keras_mask(x) is None for x in node.input_tensors)
    )


def _kind(call: Call, layer: Any) -> str | None:
    """Of the rule that covers a call, if there is one."""
    if call.takes_mask or not is_keras(layer):
        return None
    kind = registry.kind_of_layer(type(layer).__name__)
    if kind is None or (isinstance(layer, keras.Layer) and config_of(layer) is None):
        return None
    rule = registry.find(kind)
    if (
        (len(call.outputs) > 1 and not rule.several_outputs)
        or (call.variables and not rule.takes_weights)
        or (call.has_arrays and not rule.takes_arrays)
    ):
        return None
    refused = rule.refuses(call.attributes(layer), call.inputs, call.outputs[0])
    return kind if refused is None else None


def _without_activation(call: Call) -> tuple[Any, keras.layers.Activation | None]:
    """A layer without the softmax or sigmoid that it ends with, and that as a layer of its own."""
    layer = call.operation
    ending = getattr(layer, "activation", None)
    if (
        not is_keras(layer)
        or type(layer).__name__ not in _ENDING_IN_ACTIVATION
        or ending not in (keras.activations.softmax, keras.activations.sigmoid)
        or (config := config_of(layer)) is None
    ):
        return layer, None
    bare = type(layer).from_config({**config, "activation": None})
    args, kwargs = call.fill([keras.KerasTensor(spec.shape, spec.dtype) for spec in call.inputs])
    with without_values():
        bare(*args, **kwargs)
    policy = layer.dtype_policy
    return bare, keras.layers.Activation(ending, name=ending.__name__, dtype=policy)


def _unshown_mask(call: Call) -> str | None:
    """What is wrong, if a layer finds masks on its inputs that the graph does not show.

    Most simple layers of Keras's are handed masks as arguments when a model is made, so that masks
    are tensors of its graph. But layers of several inputs find them when they are called, and
    others hand their inputs on, so that inner layers find them.
    """
    layer = call.operation
    if not isinstance(layer, keras.Layer) or not call.masked:
        return None
    simple = (keras.layers.RNN, keras.layers.Bidirectional, keras.layers.TimeDistributed)
    is_shown = (
        is_keras(layer)
        and type(layer).__name__ not in _READ_MASKS
        and (isinstance(layer, simple) or len(list(layer._flatten_layers())) == 1)
        and not found_masks(layer, call.arguments.args, call.arguments.kwargs)
    )
    if is_shown:
        return None
    return (
        f"Layer {layer.name!r} of type {type(layer).__name__} is called on a tensor with a mask, "
        "which it may look for inside of itself"
    )
