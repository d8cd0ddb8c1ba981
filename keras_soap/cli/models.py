"""From what a user says to an operator graph, for the commands that plan.

A model is one of:

1. a file of an operator graph (`.textproto` or `.pb`), which needs no TensorFlow;
2. `module:function`, which returns a Keras model or an `OperatorGraph`; `module` may be a file's
   name without `.py` in the current folder; the function is called with the batch size if it
   takes one argument, which an `OperatorGraph` needs;
3. a `.keras` file;
4. a benchmark of `graph.zoo`, spelled as there, such as `nmt`, which needs no TensorFlow either;
5. a name in `keras.applications` such as `resnet50`, in any spelling of it.

A model that is not compiled gets the loss that its last layer suggests.
"""

import importlib
import inspect
import os
import sys
from pathlib import Path
from typing import Any

from keras_soap.cli.quiet import quiet
from keras_soap.errors import CaptureError
from keras_soap.graph import proto_io, zoo
from keras_soap.graph.operator_graph import OperatorGraph


def load_graph(name: str, batch_size: int, training: bool) -> OperatorGraph:
    """The operator graph of a model.

    Args:
        name: See this module's docstring.
        batch_size: Samples in one step.
        training: Whether to add targets and losses.
    """
    if name.endswith((".textproto", ".pb")):
        return _check_batch_size(proto_io.load(name), batch_size)
    if ":" in name:
        made = _call(name, batch_size)
        if isinstance(made, OperatorGraph):
            return _check_batch_size(made, batch_size)
        return _capture(made, batch_size, training)
    if name in zoo.MODELS:
        return zoo.MODELS[name](batch_size=batch_size)
    return _capture(_keras_model(name), batch_size, training)


def load_layers(name: str, batch_size: int, training: bool) -> tuple[Any, Any]:
    """The Keras model that `name` says, and what was captured of it, layers included.

    Raises:
        CaptureError: If it is an operator graph, which has no layers that could run.
    """
    if name.endswith((".textproto", ".pb")) or (":" not in name and name in zoo.MODELS):
        raise _no_layers(name)
    made = _call(name, batch_size) if ":" in name else _keras_model(name)
    if isinstance(made, OperatorGraph):
        raise _no_layers(name)
    from keras_soap.capture.planning import capture_with_layers

    return made, capture_with_layers(made, batch_size, training)


def _no_layers(name: str) -> CaptureError:
    return CaptureError(
        f"Model {name!r} is an operator graph, with no layers to run and measure. Give "
        "module:function that returns a Keras model (in examples/, alexnet:model for example), a "
        ".keras file, or a name in keras.applications."
    )


def _capture(model: Any, batch_size: int, training: bool) -> OperatorGraph:
    from keras_soap.capture.planning import capture_for_planning

    return capture_for_planning(model, batch_size, training)


def _check_batch_size(graph: OperatorGraph, batch_size: int) -> OperatorGraph:
    if graph.batch_size != batch_size:
        raise CaptureError(
            f"Operator graph {graph.name!r} is for batch size {graph.batch_size}, not "
            f"{batch_size}. Use --batch_size={graph.batch_size}, or capture the model again."
        )
    return graph


def _call(name: str, batch_size: int) -> Any:
    module_name, _, function_name = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        with quiet():
            module = importlib.import_module(module_name)
    except ImportError as error:
        raise CaptureError(f"Cannot import {module_name!r} for model {name!r}: {error}.") from error
    finally:
        sys.path.pop(0)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise CaptureError(
            f"Module {module_name!r} has no function {function_name!r}, which model {name!r} asks "
            "for. Name a function that returns a Keras model."
        )
    required = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    with quiet():
        return function(*[batch_size][: len(required)])


def _keras_model(name: str) -> Any:
    with quiet():
        import keras

    if name.endswith(".keras"):
        if not Path(name).is_file():
            raise CaptureError(f"There is no file {name}.")
        return keras.models.load_model(name)
    builders = {
        _plain(key): value
        for key, value in vars(keras.applications).items()
        if callable(value) and not key.startswith("_")
    }
    if _plain(name) not in builders:
        raise CaptureError(
            f"There is no model {name!r}. Give module:function, a .keras file, a file of an "
            f"operator graph, a benchmark ({', '.join(zoo.MODELS)}), or one of "
            f"keras.applications: {', '.join(sorted(builders))}."
        )
    return builders[_plain(name)](weights=None)


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
