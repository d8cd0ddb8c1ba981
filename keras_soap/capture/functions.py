"""The Keras graph of a model: its own, or for a subclassed model that of its traced `call`.

A subclassed model says nothing of its inputs, so they are learned from data before it is captured.
"""

import weakref
from typing import Any

import keras
from keras.src.models.functional import Functional
from keras.src.ops.function import Function
from keras.src.ops.symbolic_arguments import SymbolicArguments

from keras_soap.capture.calls import Call
from keras_soap.capture.opening import TracingError, open_call
from keras_soap.errors import CaptureError
from keras_soap.graph.operator_graph import TensorSpec

_learned: "weakref.WeakKeyDictionary[keras.Model, Any]" = weakref.WeakKeyDictionary()
"""Symbolic inputs, nested as the model takes them, of any batch size."""
_traced: "weakref.WeakKeyDictionary[keras.Model, dict[int, Function]]"
_traced = weakref.WeakKeyDictionary()
"""By batch size; the one traced last comes last."""
_standardizing: "weakref.WeakKeyDictionary[keras.Model, Functional]"
_standardizing = weakref.WeakKeyDictionary()


def learn_inputs(model: keras.Model, inputs: Any) -> None:
    """Remembers what a subclassed model is called on.

    Args:
        model: Any model; others than subclassed ones know their inputs.
        inputs: A batch, with anything that has `shape` and `dtype` as leaves.
    """
    if has_graph(model):
        return
    found = keras.tree.map_structure(
        lambda x: keras.KerasTensor(
            (None, *x.shape[1:]), keras.backend.standardize_dtype(x.dtype)
        ),
        inputs,
    )
    known = _learned.get(model)
    if known is None or _summary(known) != _summary(found):
        _learned[model] = found
        _traced.pop(model, None)
        _standardizing.pop(model, None)


def _summary(inputs: Any) -> Any:
    return [(tuple(x.shape), x.dtype) for x in keras.tree.flatten(inputs)]


def has_graph(model: keras.Model) -> bool:
    """Whether the graph that a model was made with is what it computes."""
    return any(
        isinstance(model, kind) and type(model).call is kind.call
        for kind in (keras.Sequential, Functional)
    )


def function_of(model: keras.Model, batch_size: int | None = None) -> Function:
    """The Keras graph of a model.

    Args:
        model: Any.
        batch_size: Samples in a batch, for models that have to be traced; by default as last time.
    """
    if isinstance(model, keras.Sequential) and model._functional is None:
        raise CaptureError(
            f"Model {model.name!r} is not built, so its shapes are unknown. Start it with a "
            "keras.Input layer, or call model.build(input_shape)."
        )
    if has_graph(model):
        return model._functional if isinstance(model, keras.Sequential) else model
    traced = _traced.setdefault(model, {})
    if batch_size is None:
        batch_size = next(reversed(traced), 1)
    if batch_size not in traced:
        traced[batch_size] = _trace(model, batch_size)
    return traced[batch_size]


def flat_inputs(model: keras.Model, inputs: Any) -> list[Any]:
    """A batch of inputs as flat tensors in the order of the graph's inputs, as `model` casts them."""
    function = function_of(model)
    if isinstance(function, Functional):
        return function._standardize_inputs(inputs)
    if model not in _standardizing:
        _standardizing[model] = _standardizing_graph(function)
    return _standardizing[model]._standardize_inputs(inputs)


def _standardizing_graph(function: Function) -> Functional:
    """A model that returns its inputs, which are those of a traced function."""
    symbols = keras.tree.map_structure(
        lambda x: keras.Input(batch_shape=(None, *x.shape[1:]), dtype=x.dtype),
        function._inputs_struct,
    )
    return Functional(symbols, symbols)


def _trace(model: keras.Model, batch_size: int) -> Function:
    if isinstance(model, keras.Sequential):
        known = model._functional._inputs_struct
    elif isinstance(model, Functional):
        known = model._inputs_struct
    else:
        known = _learned.get(model)
    if known is None or not model.built:
        raise CaptureError(
            f"Model {model.name!r} is a {type(model).__name__}, a subclassed model, and nothing is "
            "known of its inputs. Pass data to fit, or make a functional model of it: "
            "x = keras.Input(...); keras.Model(x, model(x))."
        )
    inputs = keras.tree.map_structure(
        lambda x: keras.KerasTensor((batch_size, *x.shape[1:]), x.dtype), known
    )
    arguments = SymbolicArguments(inputs)
    specs = tuple(
        TensorSpec(tuple(x.shape), keras.backend.standardize_dtype(x.dtype))
        for x in arguments.keras_tensors
    )
    try:
        outputs = keras.tree.flatten(keras.src.backend.compute_output_spec(model, inputs))
        made = tuple(TensorSpec(tuple(x.shape), x.dtype) for x in outputs)
        function = open_call(Call(model, arguments, specs, made), batch_size)
    except TracingError as error:
        raise CaptureError(
            f"Model {model.name!r} is a {type(model).__name__} whose call() cannot be captured: "
            f"{error}. Write call() with Keras layers and keras.ops on tensors, or the model as a "
            "Functional one."
        ) from error
    # As the caller passes them.
    function._inputs_struct = keras.tree.pack_sequence_as(known, function.inputs)
    return function
