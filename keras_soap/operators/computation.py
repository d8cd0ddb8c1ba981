"""Computes parts with the layers themselves: shrunk clones, run without state of their own.

`type(layer).from_config` with fewer units or filters gives a layer whose kernel, activation and
dtype policy are the original's; a stateless scope runs it on slices of the weights. The only module
of this package that imports Keras, and rules import it when they compute, never before.
"""

import contextlib
import json
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.backend.common.masking import set_keras_mask
from keras.src.backend.common.stateless_scope import StatelessScope

from keras_soap.operators.rule import PartCall, PartResult

_clones: "weakref.WeakKeyDictionary[keras.Layer, dict[str, keras.Layer]]"
_clones = weakref.WeakKeyDictionary()


def call_shrunk(
    call: PartCall,
    changes: dict[str, Any],
    inputs: Sequence[Any],
    losses: list[Any] | None = None,
) -> PartResult:
    """Runs the layer of `call`, with `changes` made to its config, on `inputs`.

    Args:
        call: Of the part.
        changes: Of the config; none for the layer itself.
        inputs: As the layer takes them.
        losses: What the layer adds to the loss goes here; by default it is let go.

    Returns:
        Its outputs, and the weights that it has changed.
    """
    args, kwargs = call.arguments(inputs)
    if not isinstance(call.layer, keras.Layer):
        args, kwargs = with_weights(call, args, kwargs)
        return PartResult(tuple(keras.tree.flatten(call.layer(*args, **kwargs))))
    layer = shrunk(call.layer, changes, args, kwargs) if changes else call.layer
    if layer._call_has_training_arg:
        kwargs = {**kwargs, "training": in_training(call)}
    variables = read_variables(layer)
    # Not stateless_call: it skips __call__, which casts to the dtype that the layer computes in.
    mapping = list(zip(variables, call.weights, strict=True))
    scope = (
        _AssigningScope(mapping, initialize_variables=False)
        if losses is None
        else collecting_losses(layer, mapping)
    )
    with scope as scope:
        before = [scope.get_current_value(variable) for variable in variables]
        outputs = layer(*args, **kwargs)
        after = [scope.get_current_value(variable) for variable in variables]
        if losses is not None:
            losses += scope.losses
    for output in keras.tree.flatten(outputs):
        # Masks are tensors of the graph: whoever reads one is handed it.
        set_keras_mask(output, None)
    updates = {
        position: new
        for position, (old, new) in enumerate(zip(before, after, strict=True))
        if new is not old
    }
    return PartResult(tuple(keras.tree.flatten(outputs)), updates)


class _AssigningScope(StatelessScope):
    """A scope in which weights that a layer assigns are still those that are trained.

    What reads a weight after a layer has assigned it, as SpectralNormalization does, hands its
    gradient to the weight, and nothing is differentiated through what was assigned.
    """

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        variable, value = update
        if variable.trainable:
            value = _assigned(self.get_current_value(variable), value)
        super().add_update((variable, value))


@keras.ops.custom_gradient
def _assigned(before: Any, value: Any) -> Any:
    del before
    return keras.ops.copy(value), lambda upstream: (upstream, None)


def with_weights(
    call: PartCall, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of an operation, with the part's regions of weights in their places."""
    dtype = call.part.operator.attributes.get("autocast")
    values: dict[int, Any] = {}

    def replaced(value: Any) -> Any:
        if not isinstance(value, keras.Variable):
            return value
        if id(value) not in values:
            weight = call.weights[len(values)]
            casts = dtype is not None and keras.backend.is_float_dtype(value.dtype)
            values[id(value)] = keras.ops.cast(weight, dtype) if casts else weight
        return values[id(value)]

    return keras.tree.map_structure(replaced, (args, kwargs))


@contextlib.contextmanager
def collecting_losses(
    layer: keras.Layer, mapping: Sequence[tuple[Any, Any]]
) -> Iterator[StatelessScope]:
    """A stateless scope that collects what `layer` adds to the loss, and nothing remembers it."""
    with _AssigningScope(mapping, collect_losses=True, initialize_variables=False) as scope:
        yield scope
        added = {id(loss) for loss in scope.losses}
    for inner in layer._flatten_layers():
        inner._loss_ids -= added


def total_of_losses(losses: Sequence[Any]) -> Any:
    """The sum of what a layer adds to the loss, as Keras's trainer sums it up."""
    total = keras.ops.zeros((), keras.config.floatx())
    for loss in losses:
        loss = keras.ops.convert_to_tensor(loss)
        if not keras.backend.is_float_dtype(loss.dtype):
            loss = keras.ops.cast(loss, keras.config.floatx())
        total = total + keras.ops.cast(keras.ops.sum(loss), total.dtype)
    return total


def read_variables(layer: keras.Layer) -> list[keras.Variable]:
    """The variables that a call of `layer` reads, trainable ones first.

    A recurrent layer has a seed, which it does not read if it has no dropout.
    """
    cell = getattr(layer, "cell", None)
    unread = []
    if not (getattr(cell, "dropout", 1) or getattr(cell, "recurrent_dropout", 1)):
        unread = [cell.seed_generator.state]
    return [
        variable
        for variable in [*layer.trainable_variables, *layer.non_trainable_variables]
        if not any(variable is other for other in unread)
    ]


def in_training(call: PartCall) -> bool:
    """Whether the layer is in training mode: as its call in the model says, else as the step is."""
    _, kwargs = call.arguments(call.inputs)
    fixed = kwargs.get("training")
    return call.training if fixed is None else bool(fixed)


def shrunk(
    layer: keras.Layer, changes: dict[str, Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> keras.Layer:
    """A clone of `layer` with `changes` to its config, built for the shapes of its arguments.

    Its variables are never initialised: it only ever runs on weights that it is handed.
    """
    args, kwargs = keras.tree.map_structure(_abstract, (tuple(args), kwargs))
    shapes = [t.shape for t in keras.tree.flatten((args, kwargs)) if hasattr(t, "shape")]
    key = json.dumps([changes, shapes], sort_keys=True)
    clones = _clones.setdefault(layer, {})
    if key not in clones:
        # What it makes besides weights, such as constants, is read by other graphs than this, too.
        with tf.init_scope(), without_values():
            clone = type(layer).from_config({**layer.get_config(), **changes})
            clone(*args, **kwargs)
        clones[key] = clone
    return clones[key]


@contextlib.contextmanager
def without_values() -> Iterator[None]:
    """Keras variables that are made inside have a shape and a dtype, but never get a value."""
    name = "uninitialized_variables"
    waiting = list(global_state.get_global_attribute(name, []) or [])
    with StatelessScope(initialize_variables=False):
        yield
    # Keras would give them values when the next stateless scope ends.
    global_state.set_global_attribute(name, waiting)


def _abstract(value: Any) -> Any:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        dtype = keras.backend.standardize_dtype(value.dtype)
        return keras.KerasTensor(tuple(value.shape), dtype)
    return value
