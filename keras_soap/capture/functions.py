"""The Keras graph of a model: its own, or that of its traced `call`.

A subclassed model says nothing of its inputs, and a graph may leave lengths open. Such models are
traced anew for what they are called on, which is learned from data before they are captured.
"""

import weakref
from typing import Any

import keras
from keras.src.backend import compute_output_spec
from keras.src.models.functional import Functional
from keras.src.ops.function import Function
from keras.src.ops.symbolic_arguments import SymbolicArguments

from keras_soap.capture.calls import Call, spec_of
from keras_soap.capture.opening import brief, open_call
from keras_soap.errors import CaptureError

_learned: "weakref.WeakKeyDictionary[keras.Model, Any]" = weakref.WeakKeyDictionary()
"""Symbolic inputs, nested as the model takes them, of any batch size."""
_traced: "weakref.WeakKeyDictionary[keras.Model, dict[int, Function]]"
_traced = weakref.WeakKeyDictionary()
"""By batch size; the one traced last comes last."""
_standardizing: "weakref.WeakKeyDictionary[keras.Model, Functional]"
_standardizing = weakref.WeakKeyDictionary()


def learn_inputs(model: keras.Model, inputs: Any) -> None:
    """Remembers what a model is called on, if its graph does not say it.

    Args:
        model: Built.
        inputs: A batch, as the model takes it.
    """
    if has_graph(model):
        return
    graph = _own_graph(model)
    if graph is not None:
        flat = graph._standardize_inputs(inputs)
        inputs = keras.tree.pack_sequence_as(graph._inputs_struct, flat)
    found = keras.tree.map_structure(
        lambda x: keras.KerasTensor((None, *x.shape[1:]), keras.backend.standardize_dtype(x.dtype)),
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
    """Whether the graph that a model was made with says all that it computes, and all shapes."""
    graph = _own_graph(model)
    kind = keras.Sequential if isinstance(model, keras.Sequential) else Functional
    return (
        graph is not None
        and type(model).call is kind.call
        and all(None not in x.shape[1:] for x in graph.inputs)
    )


def _own_graph(model: keras.Model) -> Functional | None:
    """What a model was made with; of a subclassed one, None."""
    if isinstance(model, keras.Sequential):
        return model._functional
    return model if isinstance(model, Functional) else None


def function_of(model: keras.Model, batch_size: int | None = None) -> Function:
    """The Keras graph of a model.

    Args:
        model: Any.
        batch_size: Samples in a batch, for models that have to be traced; by default as last time.
    """
    graph = _own_graph(model)
    if graph is None and isinstance(model, keras.Sequential):
        raise CaptureError(
            f"Model {model.name!r} is not built, so its shapes are unknown. Start it with a "
            "keras.Input layer, or call model.build(input_shape)."
        )
    if graph is not None and has_graph(model):
        return graph
    traced = _traced.setdefault(model, {})
    if batch_size is None:
        batch_size = next(reversed(traced), 1)
    if batch_size not in traced:
        traced[batch_size] = _trace(model, batch_size)
    return traced[batch_size]


def _input_names(model: keras.Model, known: Any) -> list[str | None]:
    """Of the inputs of a graph, or keys of a dictionary."""
    graph = _own_graph(model)
    if graph is not None:
        return [symbol.name for symbol in graph.inputs]
    return list(known) if isinstance(known, dict) else [None] * len(keras.tree.flatten(known))


def flat_inputs(model: keras.Model, inputs: Any) -> list[Any]:
    """A batch of inputs as flat tensors, as `model` casts them, in the order of its graph's."""
    graph = _own_graph(model)
    if graph is not None:
        return graph._standardize_inputs(inputs)
    if model not in _standardizing:
        _standardizing[model] = _standardizing_graph(function_of(model))
    return _standardizing[model]._standardize_inputs(inputs)


def _standardizing_graph(function: Function) -> Functional:
    """A model that returns its inputs, which are those of a traced function."""
    symbols = keras.tree.map_structure(
        lambda x: keras.Input(batch_shape=(None, *x.shape[1:]), dtype=x.dtype, name=x.name),
        function._inputs_struct,
    )
    return Functional(symbols, symbols)


def _trace(model: keras.Model, batch_size: int) -> Function:
    graph = _own_graph(model)
    known = _learned.get(model, None if graph is None else graph._inputs_struct)
    if known is None or not model.built:
        raise CaptureError(
            f"Model {model.name!r} is a {type(model).__name__}, a subclassed model, and nothing is "
            "known of its inputs. Pass data to fit, or make a functional model of it: "
            "x = keras.Input(...); keras.Model(x, model(x))."
        )
    names = _input_names(model, known)
    specs = tuple(
        spec_of(x, batch_size, f"input {name or x.name}")
        for x, name in zip(keras.tree.flatten(known), names, strict=True)
    )
    symbols = [keras.KerasTensor(spec.shape, spec.dtype) for spec in specs]
    inputs = keras.tree.pack_sequence_as(known, symbols)
    try:
        outputs = keras.tree.flatten(compute_output_spec(model, inputs))
        made = tuple(spec_of(x, batch_size, f"output of {model.name}") for x in outputs)
        function = open_call(Call(model, SymbolicArguments(inputs), specs, made), batch_size)
    except Exception as error:
        raise CaptureError(
            f"Model {model.name!r} is a {type(model).__name__} whose call() cannot be captured: "
            f"{brief(error)}. Write call() with Keras layers and keras.ops on tensors, or the "
            "model as a Functional one."
        ) from error
    for symbol, name in zip(function.inputs, names, strict=True):
        symbol.name = name or symbol.name
    # As the caller passes them.
    function._inputs_struct = keras.tree.pack_sequence_as(known, function.inputs)
    return function
