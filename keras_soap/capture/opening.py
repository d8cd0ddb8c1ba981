"""Opens up layers and models whose `call` is made of Keras layers and `keras.ops`.

`call` runs once on symbolic tensors, which records every layer and operation that it calls, as
when a functional model is made. This is taken for what the layer does only if

1. nothing in it depends on values, or changes states on the way, but for random numbers that it
   draws (see `draws`), and only a model adds losses;
2. all of its weights belong to layers that it calls, or are operands of its operations, with
   symbols or without (`ops.transpose(weight)`): a weight whose value was read is a constant to the
   trace;
3. the layers that it calls are handed the masks that they read;
4. a trial gives the same outputs and states, in inference and in training, with weights of other
   values than in the trace: a branch on `training` shows, and a weight that another operation is
   called on first.

A `call` that branches on `training` is run once in each mode (see `modes`), and tried again.

Otherwise the layer stays closed, and `TracingError` says why.
"""

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
from keras.src.backend.common import keras_tensor
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
from keras.src.backend.common.stateless_scope import StatelessScope
from keras.src.backend.common.symbolic_scope import in_symbolic_scope
from keras.src.backend.common.variables import AutocastScope
from keras.src.backend.common.variables import Variable as BaseVariable
from keras.src.layers.layer import CallSpec
from keras.src.ops.function import Function
from keras.src.ops.function import _build_map as build_map
from keras.src.ops.symbolic_arguments import SymbolicArguments

from keras_soap.capture.added_losses import recorded_losses
from keras_soap.capture.calls import Call, exact_shapes, nodes_of
from keras_soap.capture.draws import recorded_draws
from keras_soap.capture.modes import merged
from keras_soap.capture.trials import computes_the_same
from keras_soap.operators.computation import read_variables

_TRIAL_SAMPLES = 4

_tried: "weakref.WeakKeyDictionary[keras.Layer, dict[str, bool | str]]"
_tried = weakref.WeakKeyDictionary()
"""By layer and call whether it is traced in both modes, or why it cannot be opened. Models are
captured repeatedly."""


class TracingError(Exception):
    """A `call` that cannot be traced, with the reason."""


class OpenedCall(Function):
    """What a call is made of: from its inputs, and then their masks, to its outputs.

    Attributes:
        added_loss: What the call of a model adds to the loss, as one more tensor; None if nothing.
    """

    added_loss: Any = None


def open_call(call: Call, batch_size: int) -> OpenedCall:
    """What a call is made of.

    Args:
        call: Of a layer or model.
        batch_size: Of the call.

    Raises:
        TracingError: If that cannot be told.
    """
    layer = call.operation
    if getattr(layer, "quantization_mode", None) is not None:
        raise TracingError("it is quantized")
    tried = _tried.setdefault(layer, {})
    known = tried.get(call.key)
    if isinstance(known, str):
        raise TracingError(known)
    if known is not None:
        return _trace(call, known)
    can_branch = layer._call_has_training_arg and "training" not in call.fixed
    for by_mode in (False, True) if can_branch else (False,):
        try:
            function = _opened(call, batch_size, by_mode)
        except TracingError as error:
            tried[call.key] = str(error)
        else:
            tried[call.key] = by_mode
            return function
    raise TracingError(tried[call.key])


def _opened(call: Call, batch_size: int, by_mode: bool) -> OpenedCall:
    """A trace that is right, as a trial has shown."""
    function = _trace(call, by_mode)
    if not _is_right(call, function, batch_size, by_mode):
        raise TracingError(
            "a trial gives other outputs, shapes or states than its operations, as when call() "
            "reads the value of a weight, or does something without Keras"
        )
    return function


def _is_right(call: Call, function: OpenedCall, batch_size: int, by_mode: bool) -> bool:
    """Whether a trial, on few samples if it can be, shows no difference."""
    if batch_size > _TRIAL_SAMPLES:
        small = call.with_batch(batch_size, _TRIAL_SAMPLES)
        if small is not None:
            call, function = small, _trace(small, by_mode)
    return computes_the_same(call, function, autocast_of(call.operation))


def _trace(call: Call, by_mode: bool) -> OpenedCall:
    """Runs `call` of a layer on symbols; in both modes, or in none in particular."""
    layer = call.operation
    symbols = call.symbols()
    for number, mask in zip(call.masked, symbols[len(call.inputs) :], strict=True):
        set_keras_mask(symbols[number], mask)
    run = _RECIPES.get(type(layer), type(layer).call)
    inner = list(layer._flatten_layers())

    def traced(**mode: bool) -> OpenedCall:
        args, kwargs = call.fill(symbols[: len(call.inputs)])
        args, kwargs = _as_called(layer, args, {**kwargs, **mode})
        autocast = autocast_of(layer)
        with (
            AutocastScope(autocast) if autocast else contextlib.nullcontext(),
            recorded_draws(layer),
            recorded_losses(layer) as losses,
        ):
            structure = run(layer, *args, **kwargs)
            if losses and not isinstance(layer, keras.Model):
                raise TracingError("it calls add_loss()")
            added = _total(losses) if losses else None
        return _function(symbols, structure, added)

    with (
        _forgetting_nodes(inner),
        exact_shapes(inner),
        _symbolic_weights(),
        StatelessScope(collect_losses=True) as scope,
    ):
        try:
            if by_mode:
                modes = traced(training=True), traced(training=False)
                function = _function(symbols, *_merged(symbols, *modes))
            else:
                function = traced()
        except TracingError:
            raise
        except Exception as error:
            raise TracingError(
                f"tracing it raised {type(error).__name__}: {brief(error)}"
            ) from error
    if scope.losses:
        layer_losses = {id(loss) for loss in scope.losses}
        for one in inner:
            one._loss_ids -= layer_losses
        raise TracingError("it calls add_loss() of another layer")
    if scope.state_mapping:
        raise TracingError("it changes states outside of inner layers")
    _check_weights(layer, function)
    return function


def _total(losses: Sequence[Any]) -> Any:
    """The sum of what a `call` adds to the loss, as Keras's trainer sums it up: a vector of one."""
    sums = [keras.ops.sum(loss) if loss.shape else loss for loss in losses]
    return keras.ops.reshape(functools.reduce(keras.ops.add, sums), (1,))


def _merged(symbols: Sequence[Any], *modes: OpenedCall) -> tuple[Any, Any]:
    """What both modes return and add to the loss, which may be nothing in one of them."""
    structures = [mode._outputs_struct for mode in modes]
    losses = [mode.added_loss for mode in modes if mode.added_loss is not None]
    if not losses:
        return merged(symbols, *structures), None
    if len(losses) < len(modes):
        zeros = keras.ops.zeros_like(keras.ops.cast(symbols[0], losses[0].dtype))
        losses.append(keras.ops.reshape(keras.ops.sum(zeros), (1,)))
    added = [losses[-1] if mode.added_loss is None else mode.added_loss for mode in modes]
    return merged(symbols, *([*pair] for pair in zip(structures, added, strict=True)))


def _function(symbols: Sequence[Any], structure: Any, added: Any) -> OpenedCall:
    """The graph that has been recorded, between symbols and what `call` gave."""
    made = [structure] if added is None else [structure, added]
    _show_calls_on_weights(made)
    with _unlike_names(symbols, made):
        function = OpenedCall(symbols, made)
        if _show_masks(function):
            function = OpenedCall(symbols, made)
    function._outputs_struct = structure
    function._outputs = keras.tree.flatten(structure)
    function.added_loss = added
    return function


@contextlib.contextmanager
def _unlike_names(symbols: Sequence[Any], structure: Any) -> Iterator[None]:
    """Gives operations other names for a while: those of a graph must differ, for Keras.

    Layers inside of another may have one name, or that of an operation, such as "mean".
    """
    nodes, _ = build_map(list(symbols), keras.tree.flatten(structure))
    names = {node.operation: node.operation.name for node in nodes}
    try:
        for number, operation in enumerate(names):
            vars(operation)["name"] = f"{number}"
        yield
    finally:
        for operation, name in names.items():
            vars(operation)["name"] = name


def brief(error: Exception) -> str:
    """The first line of a message that is not Keras's own frame around it."""
    lines = [line.strip() for line in str(error).replace("\x1b[1m", "").splitlines()]
    said = [line for line in lines if line and not line.startswith("Exception encountered")]
    return said[0].replace("\x1b[0m", "") if said else type(error).__name__


def _as_called(
    layer: keras.Layer, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments as `Layer.__call__` hands them to `call`: converted, and masks among them."""

    def convert(value: Any) -> Any:
        mask = get_keras_mask(value)
        value = layer.dtype_policy.convert_input(value, layer.autocast, layer.input_dtype)
        if mask is not None:
            set_keras_mask(value, mask)
        return value

    if layer._convert_input_args:
        args, kwargs = keras.tree.map_structure(convert, (args, kwargs))
    if not layer._call_has_training_arg:
        kwargs.pop("training", None)
    return args, {**kwargs, **found_masks(layer, args, kwargs)}


def _show_calls_on_weights(structure: Any) -> None:
    """Has Keras not take recorded calls without symbols for inputs, which it would leave out."""
    pending = [x for x in keras.tree.flatten(structure) if isinstance(x, keras.KerasTensor)]
    seen: set[int] = set()
    while pending:
        operation, number, _ = pending.pop()._keras_history
        node = operation._inbound_nodes[number]
        if id(node) not in seen:
            seen.add(id(node))
            node.is_input = isinstance(operation, keras.layers.InputLayer)
            pending += node.input_tensors


def _show_masks(function: Function) -> bool:
    """Hands masks that layers find on tensors over as arguments; whether there were any."""
    changed = False
    for node in nodes_of(function):
        args, kwargs = node.arguments.args, node.arguments.kwargs
        if isinstance(node.operation, keras.Layer):
            found = found_masks(node.operation, args, kwargs)
            if found:
                node.arguments = SymbolicArguments(*args, **{**kwargs, **found})
                changed = True
    return changed


def found_masks(
    layer: keras.Layer, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The mask arguments that `Layer.__call__` adds, as it finds masks on tensors."""
    spec = CallSpec(layer._call_signature, layer._call_context_args, args, dict(kwargs))
    tensors = spec.tensor_arguments_dict
    found = {}
    for name, tensor in tensors.items():
        for argument in (f"{name}_mask", *(["mask"] if len(tensors) == 1 else [])):
            if argument in spec.argument_names and spec.arguments_dict[argument] is None:
                mask = keras.tree.map_structure(get_keras_mask, tensor)
                if any(x is not None for x in keras.tree.flatten(mask)):
                    found[argument] = mask
    return found


def autocast_of(layer: keras.Layer) -> str | None:
    """The dtype in which `Layer.__call__` lets `call` read weights, where they have another."""
    casts = layer.autocast and layer.compute_dtype != layer.variable_dtype
    return layer.compute_dtype if casts else None


@contextlib.contextmanager
def _forgetting_nodes(layers: Sequence[keras.Layer]) -> Iterator[None]:
    """Calls of inner layers leave no trace in them: to Keras, they are not part of a model."""
    lists = [nodes for layer in layers for nodes in (layer._inbound_nodes, layer._outbound_nodes)]
    lengths = list(map(len, lists))
    try:
        yield
    finally:
        for nodes, length in zip(lists, lengths, strict=True):
            del nodes[length:]


class _SymbolOrWeight(type):
    def __instancecheck__(cls, value: Any) -> bool:
        if isinstance(value, BaseVariable):
            # In a symbolic scope, Keras runs a call on placeholders, to learn a shape.
            return not in_symbolic_scope()
        return isinstance(value, keras.KerasTensor)


class _Symbol(metaclass=_SymbolOrWeight):
    """What is recorded when an operation is called on it."""


_OPERATORS = [
    name
    for name in vars(keras.KerasTensor).keys() & vars(BaseVariable).keys()
    if name in ("__getitem__", "__neg__", "__abs__")
    or f"__r{name[2:]}" in vars(keras.KerasTensor)
    or (name.startswith("__r") and f"__{name[3:]}" in vars(keras.KerasTensor))
]
"""`weight[…]`, `-weight`, `weight + x`, `x + weight` and the like."""


@contextlib.contextmanager
def _symbolic_weights() -> Iterator[None]:
    """Lets operations on weights be recorded as those on symbols are, with symbols or without."""
    originals = {name: vars(BaseVariable)[name] for name in _OPERATORS}

    def recording(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        record = vars(keras.KerasTensor)[name]

        @functools.wraps(method)
        def recorded(weight: Any, *args: Any) -> Any:
            return (record if isinstance(weight, _Symbol) else method)(weight, *args)

        return recorded

    try:
        vars(keras_tensor)["KerasTensor"] = _Symbol
        for name, method in originals.items():
            setattr(BaseVariable, name, recording(name, method))
        yield
    finally:
        vars(keras_tensor)["KerasTensor"] = keras.KerasTensor
        for name, method in originals.items():
            setattr(BaseVariable, name, method)


def _check_weights(layer: keras.Layer, function: Function) -> None:
    """All weights must be those of inner layers or operands; see the rules of this module."""
    seen: set[int] = set()
    for node in nodes_of(function):
        constants = [x for x in node.arguments._flat_arguments if isinstance(x, keras.Variable)]
        if isinstance(node.operation, keras.Layer):
            if constants:
                raise TracingError(f"it hands the weight {constants[0].path!r} to a layer")
            seen |= {id(v) for v in node.operation.variables}
        seen |= set(map(id, constants))
    for variable in read_variables(layer):
        # A seed of its own would have been changed by reading it.
        if id(variable) not in seen and not variable.path.endswith("seed_generator_state"):
            raise TracingError(f"it does not read the weight {variable.path!r} as an operand")


def _time_distributed(
    layer: keras.layers.TimeDistributed, inputs: Any, training: Any = None, mask: Any = None
) -> Any:
    """Steps are samples to the inner layer. Keras loops over them, at length."""
    if mask is not None:
        raise TracingError("it has a mask")
    samples, steps, *rest = inputs.shape
    made = layer.layer(keras.ops.reshape(inputs, (samples * steps, *rest)), training=training)
    return keras.tree.map_structure(
        lambda x: keras.ops.reshape(x, (samples, steps, *x.shape[1:])), made
    )


_RECIPES: dict[type, Callable[..., Any]] = {keras.layers.TimeDistributed: _time_distributed}
"""What to trace in the place of `call`."""
