"""Computes parts with the layers themselves: shrunk clones, run without state of their own.

`type(layer).from_config` with fewer units or filters gives a layer whose kernel, activation and
dtype policy are the original's; `stateless_call` runs it on slices of the weights. The only module
of this package that imports Keras, and rules import it when they compute, never before.
"""

import json
import weakref
from collections.abc import Sequence
from typing import Any

import keras
from keras.src.backend.common.stateless_scope import StatelessScope

from keras_soap.operators.rule import PartCall, PartResult

_clones: "weakref.WeakKeyDictionary[keras.Layer, dict[str, keras.Layer]]"
_clones = weakref.WeakKeyDictionary()


def call_shrunk(call: PartCall, changes: dict[str, Any], inputs: Sequence[Any]) -> PartResult:
    """Runs the layer of `call`, with `changes` made to its config, on `inputs`.

    Returns:
        Its outputs, and the non-trainable weights that it has changed.
    """
    args, kwargs = call.arguments(inputs)
    if not isinstance(call.layer, keras.Layer):
        return PartResult(tuple(keras.tree.flatten(call.layer(*args, **kwargs))))
    layer = shrunk(call.layer, changes, args, kwargs) if changes else call.layer
    if layer._call_has_training_arg:
        kwargs = {**kwargs, "training": call.training}
    num_trainable = len(layer.trainable_variables)
    states = list(call.weights[num_trainable:])
    outputs, new_states = layer.stateless_call(
        list(call.weights[:num_trainable]), states, *args, **kwargs
    )
    updates = {
        num_trainable + position: new
        for position, (old, new) in enumerate(zip(states, new_states, strict=True))
        if new is not old
    }
    return PartResult(tuple(keras.tree.flatten(outputs)), updates)


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
        clone = type(layer).from_config({**layer.get_config(), **changes})
        with StatelessScope(initialize_variables=False):
            clone(*args, **kwargs)
        clones[key] = clone
    return clones[key]


def _abstract(value: Any) -> Any:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        dtype = keras.backend.standardize_dtype(value.dtype)
        return keras.KerasTensor(tuple(value.shape), dtype)
    return value
