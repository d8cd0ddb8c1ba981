"""Trials on random batches: what cannot be read off a layer is found out by running it.

Nothing is changed: layers run on copies of their weights and states.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from absl import logging
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
from keras.src.backend.common.stateless_scope import StatelessScope
from keras.src.backend.common.variables import AutocastScope
from keras.src.ops.function import Function

from keras_soap.capture.calls import Arguments, Call, nodes_of, recorded_mode
from keras_soap.capture.draws import draws_of_part, fixed_draws
from keras_soap.capture.modes import ByMode
from keras_soap.errors import CaptureError
from keras_soap.graph.operator_graph import TensorSpec


class _KeepsStateError(Exception):
    """A layer changes weights other than seeds, whether they are trained or not."""


class _OtherShapeError(Exception):
    """An operation makes a tensor of another shape than it announced."""


def treats_samples_alone(
    operation: Any,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    arguments: Arguments,
) -> bool:
    """Whether pieces of a random batch give the pieces of what the batch gives, in training.

    One piece is a single sample: then `keras.ops.add` may take samples for a bias (see
    `operators.bias`). Weights have other values than they begin with, which may be zeros that hide
    what they weigh.

    Raises:
        CaptureError: If a layer changes variables that Keras does not know to be its own.
    """
    batch = inputs[0].shape[:1] if inputs else ()
    if not batch or any(spec.shape[:1] != batch for spec in (*inputs, *outputs)):
        return False
    values = random_inputs(inputs)

    def run(part: slice) -> list[np.ndarray]:
        args, kwargs = arguments([keras.ops.convert_to_tensor(value[part]) for value in values])
        if not isinstance(operation, keras.Layer):
            made = operation(*args, **kwargs)
        else:
            if operation._call_has_training_arg:
                kwargs = _in_mode(kwargs, True)
            mapping = [(variable, other_value(variable)) for variable in operation.variables]
            with (
                draws_of_part(operation, part, 4),
                StatelessScope(mapping, initialize_variables=False) as scope,
            ):
                made = operation(*args, **kwargs)
            if any(
                "seed" not in v.path and not np.array_equal(before, scope.get_current_value(v))
                for v, before in mapping
            ):
                raise _KeepsStateError
            if set(scope.state_mapping) - {id(variable) for variable, _ in mapping}:
                raise CaptureError(
                    f"Layer {operation.name!r} of type {type(operation).__name__} changes "
                    "variables that are not its weights, such as metrics. Make them with "
                    "add_weight()."
                )
        return [keras.ops.convert_to_numpy(x) for x in keras.tree.flatten(made)]

    try:
        together, *pieces = map(run, (slice(0, 4), slice(0, 1), slice(1, 2), slice(2, 4)))
    except CaptureError:
        raise
    except _KeepsStateError:
        return False  # Parts would disagree about what they make of its state.
    except Exception as error:
        logging.debug("%s cannot be split by sample: %s", operation.name, error)
        return False
    return all(
        whole.shape[:1] == (4,) and _close(whole, np.concatenate(parts))
        for whole, *parts in zip(together, *pieces, strict=True)
    )


def computes_the_same(call: Call, function: Function, autocast: str | None) -> bool:
    """Whether what was traced gives what `call` gives, in training and in inference.

    Outputs are compared, and what becomes of states, such as moving averages. Both draw the same
    random numbers. Weights have other values than when it was traced: what a trace makes of a
    weight's value is a constant to it. Nor may anything on the way have another shape than was
    announced, as Keras 3.15 does for `ops.adaptive_average_pool`.

    Args:
        call: Of a layer.
        function: From the call's inputs, and then their masks, to its outputs.
        autocast: The dtype in which operations in it read weights, if it is another than theirs.
    """
    random = np.random.default_rng(0)
    specs = [*call.inputs, *map(call.mask_spec, call.masked)]
    values = [keras.ops.convert_to_tensor(_random_value(random, spec)) for spec in specs]
    layer = call.operation

    def called(training: bool) -> Any:
        inputs = [keras.ops.copy(value) for value in values[: len(call.inputs)]]
        for number, mask in zip(call.masked, values[len(call.inputs) :], strict=True):
            set_keras_mask(inputs[number], mask)
        args, kwargs = call.fill(inputs)
        return layer(*args, **_in_mode(kwargs, training))

    def traced(training: bool) -> Any:
        with AutocastScope(autocast) if autocast else contextlib.nullcontext():
            outputs = evaluate(function, values, call.fixed.get("training", training))
        if len(outputs) > len(function.outputs):
            layer.add_loss(outputs.pop())
        return outputs

    for training in (False, True):
        try:
            with fixed_draws():
                expected, found = (_run(layer, run, training) for run in (called, traced))
        except _OtherShapeError:
            return False
        if [x.shape for x in expected] != [x.shape for x in found]:
            return False
        if not all(map(_close, expected, found)):
            return False
    return True


def evaluate(function: Function, inputs: Sequence[Any], training: bool) -> list[Any]:
    """Runs a graph node by node, as its operators will: without masks that it does not show.

    Layers find the others on their inputs, as `call` finds them where they are opened up in turn:
    MultiHeadAttention never looks at its argument `query_mask`.

    Returns:
        Its outputs, and last what it adds to the loss, if anything.

    Raises:
        _OtherShapeError: A node makes another shape than the graph says.
    """
    tensors = {id(x): value for x, value in zip(function.inputs, inputs, strict=True)}
    for node in _nodes_in_mode(function, training):
        args, kwargs = node.arguments.fill_in({**tensors, **_masked_inputs(node, tensors)})
        if isinstance(node.operation, keras.Layer):
            kwargs = _in_mode({**kwargs, "training": recorded_mode(node)}, training)
        outputs = keras.tree.flatten(node.operation(*args, **kwargs))
        for output, announced in zip(outputs, node.outputs, strict=True):
            set_keras_mask(output, None)
            if not _fits(output.shape, announced.shape):
                raise _OtherShapeError
        tensors.update(zip(map(id, node.outputs), outputs, strict=True))
    return [tensors[id(x)] for x in _made_by(function)]


def _fits(shape: Sequence[int], announced: Sequence[int | None]) -> bool:
    return len(shape) == len(announced) and all(
        b is None or a == b for a, b in zip(shape, announced, strict=True)
    )


def _masked_inputs(node: Any, tensors: dict[int, Any]) -> dict[int, Any]:
    """Copies of those inputs of a layer that have a mask which the graph shows, with it."""
    copies = {}
    if isinstance(node.operation, keras.Layer):
        for tensor in node.input_tensors:
            mask = get_keras_mask(tensor)
            if id(mask) in tensors:
                copies[id(tensor)] = keras.ops.copy(tensors[id(tensor)])
                set_keras_mask(copies[id(tensor)], tensors[id(mask)])
    return copies


def _made_by(function: Function) -> list[Any]:
    added = getattr(function, "added_loss", None)
    return [*function.outputs, *([] if added is None else [added])]


def _nodes_in_mode(function: Function, training: bool) -> list[Any]:
    """The recorded calls that a mode needs, in order."""
    nodes = nodes_of(function)
    read = {id(x) for x in _made_by(function)}
    needed = []
    for node in reversed(nodes):
        if read.isdisjoint(map(id, node.outputs)):
            continue
        needed.append(node)
        tensors = node.input_tensors
        if isinstance(node.operation, ByMode):
            tensors = [tensors[0 if training else 1]]
        read |= set(map(id, tensors))
    return needed[::-1]


def _in_mode(kwargs: dict[str, Any], training: bool) -> dict[str, Any]:
    """Keyword arguments of a call in a mode, if they do not fix it. `training=None` does not."""
    fixed = kwargs.get("training")
    return {**kwargs, "training": training if fixed is None else fixed}


def _run(layer: keras.Layer, run: Callable[[bool], Any], training: bool) -> list[np.ndarray]:
    """Outputs, then what becomes of the variables, and the sum of losses of activities."""
    variables = layer.variables
    mapping = [(variable, other_value(variable)) for variable in variables]
    with StatelessScope(mapping, collect_losses=True, initialize_variables=False) as scope:
        outputs = keras.tree.flatten(run(training))
        states = [scope.get_current_value(variable) for variable in variables]
    for inner in layer._flatten_layers():
        inner._loss_ids -= set(map(id, scope.losses))
    loss = np.sum([np.sum(keras.ops.convert_to_numpy(loss)) for loss in scope.losses])
    return [*map(keras.ops.convert_to_numpy, (*outputs, *states)), loss]


def other_value(variable: keras.Variable) -> Any:
    """Another than its own, but for seeds and counts. Variances stay positive."""
    value = variable.value
    return value * 1.25 + 0.05 if keras.backend.is_float_dtype(variable.dtype) else value


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    return np.allclose(
        a.astype("float64"), b.astype("float64"), rtol=1e-4, atol=1e-5, equal_nan=True
    )


def random_inputs(specs: Sequence[TensorSpec]) -> list[np.ndarray]:
    """Inputs of four samples."""
    random = np.random.default_rng(0)
    return [_random_value(random, spec, 4) for spec in specs]


def _random_value(
    random: np.random.Generator, spec: TensorSpec, batch: int | None = None
) -> np.ndarray:
    shape = spec.shape if batch is None else (batch, *spec.shape[1:])
    if spec.is_floating:
        return random.normal(size=shape).astype(
            "float32" if spec.dtype == "bfloat16" else spec.dtype
        )
    return random.integers(0, 2, size=shape).astype(spec.dtype)
