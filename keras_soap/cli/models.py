"""From what a user says to an operator graph, for the commands that plan.

A model is one of:

1. a file of an operator graph (`.textproto` or `.pb`), which needs no TensorFlow;
2. `module:function`, which returns a Keras model or an `OperatorGraph`; `module` may be a file's
   name without `.py` in the current folder; the function is called with the batch size if it
   takes one argument, which an `OperatorGraph` needs;
3. a `.keras` file;
4. a benchmark of `graph.zoo`, spelled exactly as there, such as `nmt`, which needs no TensorFlow
   either;
5. a name in `keras.applications` such as `ResNet50`, in any other spelling of it.

So `resnet101` is the paper's network, without batch normalization, and `ResNet101` Keras's.

A model that is not compiled gets the loss that its last layer suggests. For inference, operator
graphs are taken without their losses.
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
from keras_soap.graph.inference import forward_part
from keras_soap.graph.operator_graph import OperatorGraph
from keras_soap.strategy.baselines import is_recurrent

MODEL_HELP = (
    f"The model: a benchmark, spelled exactly so ({', '.join(zoo.MODELS)}); a name in "
    "keras.applications in any other spelling (resnet101 is the benchmark, ResNet101 is Keras's); "
    "module:function; a .keras file; or a file of an operator graph (.textproto, .pb)."
)
TIME_CHUNK_HELP = (
    "Steps of a recurrent layer in one operator, so that blocks of steps are split and placed each "
    "on its own; must divide the steps. By default, recurrent layers of Keras models stay whole, "
    "and benchmarks have blocks of 8."
)

_USUAL_IMAGE = (224, 224, 3)


def load_graph(
    name: str, batch_size: int, training: bool, time_chunk: int | None = None
) -> OperatorGraph:
    """The operator graph of a model.

    Args:
        name: See this module's docstring.
        batch_size: Samples in one step.
        training: Whether to add targets and losses.
        time_chunk: Steps of recurrent layers in one operator.
    """
    if name.endswith((".textproto", ".pb")):
        return _ready(proto_io.load(name), batch_size, training, time_chunk)
    if ":" in name:
        made = _call(name, batch_size)
        if isinstance(made, OperatorGraph):
            return _ready(made, batch_size, training, time_chunk)
        return _capture(made, batch_size, training, time_chunk)
    if name in zoo.MODELS:
        graph = _benchmark(name, batch_size, time_chunk)
        return graph if training else forward_part(graph)
    return _capture(_keras_model(name), batch_size, training, time_chunk)


def load_layers(
    name: str, batch_size: int, training: bool, time_chunk: int | None = None
) -> tuple[Any, Any]:
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

    captured = capture_with_layers(made, batch_size, training, time_chunk)
    _check_chunk(captured.graph, time_chunk)
    return made, captured


def _benchmark(name: str, batch_size: int, time_chunk: int | None) -> OperatorGraph:
    make = zoo.MODELS[name]
    if time_chunk is None:
        return make(batch_size=batch_size)
    if "block" in inspect.signature(make).parameters:
        return make(batch_size=batch_size, block=time_chunk)
    graph = make(batch_size=batch_size)
    _check_chunk(graph, time_chunk)
    return graph


def _ready(
    graph: OperatorGraph, batch_size: int, training: bool, time_chunk: int | None
) -> OperatorGraph:
    """A graph that came as one, if it is what flags ask for."""
    if graph.batch_size != batch_size:
        raise CaptureError(
            f"Operator graph {graph.name!r} is for batch size {graph.batch_size}, not "
            f"{batch_size}. Use --batch_size={graph.batch_size}, or capture the model again."
        )
    if time_chunk is not None:
        raise CaptureError(
            f"--time_chunk={time_chunk} cuts layers of Keras models and benchmarks, but "
            f"{graph.name!r} is an operator graph already. Leave it out, or make the graph so."
        )
    return graph if training else forward_part(graph)


def _no_layers(name: str) -> CaptureError:
    return CaptureError(
        f"Model {name!r} is an operator graph, with no layers to run and measure. Give "
        "module:function that returns a Keras model (in examples/, alexnet:model for example), a "
        ".keras file, or a name in keras.applications, such as ResNet101."
    )


def _capture(model: Any, batch_size: int, training: bool, time_chunk: int | None) -> OperatorGraph:
    from keras_soap.capture.planning import capture_for_planning

    graph = capture_for_planning(model, batch_size, training, time_chunk)
    _check_chunk(graph, time_chunk)
    return graph


def _check_chunk(graph: OperatorGraph, time_chunk: int | None) -> None:
    """Refuses to cut what has nothing to cut."""
    if time_chunk is not None and not any(is_recurrent(op.kind) for op in graph.operators):
        raise CaptureError(
            f"--time_chunk={time_chunk} cuts recurrent layers, and {graph.name!r} has none. "
            "Leave it out."
        )


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
    model = builders[_plain(name)](weights=None)
    if None in model.input_shape[1:]:  # MobileNetV3 takes images of any size.
        model = builders[_plain(name)](weights=None, input_shape=_USUAL_IMAGE)
    return model


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
