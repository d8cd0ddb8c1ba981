"""Captures the operator graph of a Keras model.

1. Functional and Sequential models are read node by node; nested ones are opened up.
2. Every call of a layer is an operator; a shared layer makes several, on the same weights.
3. A softmax or sigmoid that a layer ends with is an operator of its own, so that the layer can be
   split along it, and a cross-entropy can read the logits, as Keras's own does.
4. A layer without a rule, or beyond its rule, is split by sample only, if a trial shows that it
   treats samples independently; else it runs whole on one device.
5. With a `time_chunk`, recurrent layers and what follows them step by step are opened into an
   operator for each block of steps (see `time_blocks`).
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from absl import logging
from keras.src.models.functional import Functional
from keras.src.ops.function import Function
from keras.src.utils.naming import to_snake_case

from keras_soap.capture.added_losses import kind_of_losses
from keras_soap.capture.time_blocks import Arguments, LayerCall, TimeBlocks, Traced
from keras_soap.errors import CaptureError
from keras_soap.graph.operator_graph import (
    Operator,
    OperatorGraph,
    TensorRef,
    TensorSpec,
    WeightSpec,
)
from keras_soap.operators import registry
from keras_soap.operators.computation import read_variables, without_values
from keras_soap.operators.fallback import ADDED_LOSSES

_ENDING_IN_ACTIVATION = frozenset({"Dense", "Conv1D", "Conv2D", "Conv3D"})
_READ_MASKS = frozenset({"Multiply", "Minimum", "Maximum", "Lambda"})
"""Layers that look for masks on their inputs themselves."""
_NOT_THE_RULES_BUSINESS = ("name", "trainable", "dtype", "seed")


@dataclass(frozen=True)
class CapturedModel:
    """An operator graph with the Keras objects that it was made from.

    Attributes:
        graph: The operators.
        layers: For each operator the Keras layer or operation (None for inputs).
        arguments: For each operator what puts flat inputs back into the layer's arguments.
        variables: For each of `graph.weights` its `keras.Variable`.
        inputs: Operator numbers of the model's inputs, flat, in Keras's order.
        outputs: The model's outputs, flat, in Keras's order; each in one piece, or in blocks along
            axis 1.
        output_structure: Nested as the model's outputs, with positions in `outputs` as leaves.
    """

    graph: OperatorGraph
    layers: tuple[Any, ...]
    arguments: tuple[Arguments | None, ...]
    variables: tuple[keras.Variable, ...]
    inputs: tuple[int, ...]
    outputs: tuple[tuple[TensorRef, ...], ...]
    output_structure: Any


def capture(model: keras.Model, batch_size: int, time_chunk: int | None = None) -> CapturedModel:
    """The forward operators of `model` on batches of `batch_size` samples.

    Args:
        model: A built Functional or Sequential model.
        batch_size: Samples in one step, over all devices together.
        time_chunk: Steps of recurrent layers in one operator; by default all of them.

    Raises:
        CaptureError: If the model is not built, or is of another kind, or a shape is unknown, or
            `time_chunk` does not divide the steps of a layer.
    """
    builder = GraphBuilder(model.name, batch_size, time_chunk)
    inputs, outputs, structure = builder.add_model(model)
    return builder.finish(inputs, outputs, structure)


class GraphBuilder:
    """Collects operators; losses are added on top of a model's by `capture.losses`."""

    def __init__(self, name: str, batch_size: int, time_chunk: int | None = None):
        if batch_size < 1:
            raise CaptureError(f"batch_size={batch_size} must be 1 or more.")
        self.name = name
        self.batch_size = batch_size
        self.operators: list[Operator] = []
        self.layers: list[Any] = []
        self._arguments: list[Arguments | None] = []
        self._weights: list[WeightSpec] = []
        self._variables: list[keras.Variable] = []
        self._weight_numbers: dict[int, int] = {}
        self._names: set[str] = set()
        self._stable_names: dict[int, str] = {}
        self._counts: dict[str, int] = {}
        self.operator_names: dict[str, str] = {}
        """By the name of a layer that of its operators, without what tells several apart."""
        self.activities: list[tuple[str, Any, Traced]] = []
        """Of calls with an activity regularizer: name of the call, layer, each of the outputs."""
        self.added_losses: list[tuple[str, keras.Layer, Traced]] = []
        """Of calls that add losses: name of the call, layer, and the losses."""
        self.time_blocks = None if time_chunk is None else TimeBlocks(self, time_chunk)

    def add_model(self, model: keras.Model) -> tuple[list[int], list[Traced], Any]:
        """Adds inputs and all calls; gives inputs, flat outputs and the structure of outputs."""
        function = function_of(model)
        tensors: dict[int, Traced] = {}
        inputs = []
        for tensor in function.inputs:
            spec = self._spec(tensor, f"input {tensor.name}")
            is_named = not tensor.name.startswith("keras_tensor")
            inputs.append(self.add_input(tensor.name if is_named else "input", spec))
            tensors[id(tensor)] = Traced(TensorRef(inputs[-1]))
        self._trace(function, tensors, "", None)
        self._function, self._tensors = function, tensors
        outputs = [tensors[id(tensor)] for tensor in function.outputs]
        structure = keras.tree.pack_sequence_as(function._outputs_struct, list(range(len(outputs))))
        return inputs, outputs, structure

    def add_masks(self) -> list[Traced | None]:
        """Masks of the outputs of the model that was added; None where there is none."""
        masks = [keras.src.backend.get_keras_mask(x) for x in self._function.outputs]
        # Those that no layer reads are no part of the model's own graph.
        unread = [x for x in masks if x is not None and id(x) not in self._tensors]
        if unread:
            self._trace(Function(self._function.inputs, unread), self._tensors, "", None)
        return [None if x is None else self._tensors[id(x)] for x in masks]

    def add_input(self, name: str, spec: TensorSpec) -> int:
        """Adds a tensor that every step brings anew."""
        return self.add(name, "input", "", [], (spec,), {})

    def add(
        self,
        name: str,
        kind: str,
        layer_name: str,
        inputs: Sequence[TensorRef],
        output_specs: tuple[TensorSpec, ...],
        attributes: dict[str, Any],
        layer: Any = None,
        arguments: Arguments | None = None,
        variables_of: Any = None,
    ) -> int:
        """Adds an operator, under a name that is made unique; gives its number.

        Its weights are those of `variables_of`, by default of `layer`; of `()`, none.
        """
        unique, count = name, 1
        while unique in self._names:
            unique, count = f"{name}_{count}", count + 1
        self._names.add(unique)
        owner = layer if variables_of is None else variables_of
        weights, weight_specs = self.weights_of(owner)
        self.operators.append(
            Operator(
                unique,
                kind,
                layer_name,
                tuple(inputs),
                tuple(self.operators[ref.operator].output_specs[ref.output] for ref in inputs),
                output_specs,
                weights,
                weight_specs,
                attributes,
            )
        )
        self.layers.append(layer)
        self._arguments.append(arguments)
        return len(self.operators) - 1

    def finish(
        self, inputs: Sequence[int], outputs: Sequence[Traced], structure: Any
    ) -> CapturedModel:
        graph = OperatorGraph(
            self.name, self.batch_size, tuple(self.operators), tuple(self._weights)
        )
        return CapturedModel(
            graph,
            tuple(self.layers),
            tuple(self._arguments),
            tuple(self._variables),
            tuple(inputs),
            tuple(output.refs for output in outputs),
            structure,
        )

    def _trace(
        self,
        function: Function,
        tensors: dict[int, Traced],
        prefix: str,
        training: bool | None,
    ) -> None:
        """Adds the calls in `function` that are not there yet.

        `training` is the mode that an enclosing call fixes.
        """
        for depth in sorted(function._nodes_by_depth, reverse=True):
            for node in function._nodes_by_depth[depth]:
                if node.is_input or any(id(x) not in tensors for x in node.input_tensors):
                    continue
                if all(id(x) in tensors for x in node.outputs):
                    continue
                inputs = [tensors[id(x)] for x in node.input_tensors]
                operation = node.operation
                _check_masks(operation, node.input_tensors)
                fixed = node.arguments.kwargs.get("training")
                mode = training if fixed is None else bool(fixed)
                if isinstance(operation, keras.Model):
                    inner = function_of(operation)
                    if len(inner.inputs) != len(inputs):
                        raise CaptureError(
                            f"Nested model {operation.name!r} has {len(inner.inputs)} inputs but "
                            f"is called on {len(inputs)}. Call it on one tensor for each input."
                        )
                    within = {id(x): t for x, t in zip(inner.inputs, inputs, strict=True)}
                    self._trace(inner, within, f"{prefix}{operation.name}/", mode)
                    outputs = [within[id(x)] for x in inner.outputs]
                    _check_made_masks(operation, inner)
                else:
                    outputs = self._add_node(node, inputs, prefix, mode)
                tensors.update(zip(map(id, node.outputs), outputs, strict=True))

    def _add_node(
        self, node: Any, inputs: list[Traced], prefix: str, training: bool | None
    ) -> list[Traced]:
        operation = node.operation
        specs = tuple(self.spec(tensor) for tensor in inputs)
        fixed = _fixed_mode(operation, training)
        arguments = _argument_filler(node.arguments, fixed)
        symbols = [keras.KerasTensor(spec.shape, spec.dtype) for spec in specs]
        args, kwargs = arguments(symbols)
        made = keras.tree.flatten(operation.compute_output_spec(*args, **kwargs))
        outputs = tuple(self._spec(x, f"output of {operation.name}") for x in made)
        layer, activation = _without_activation(operation, args, kwargs)
        attributes = _attributes(layer, node.arguments) | fixed
        adds = None
        if isinstance(operation, keras.Layer):
            random = np.random.default_rng(0)
            values = [_random_value(random, spec, 4) for spec in specs]
            adds = kind_of_losses(operation, arguments, values)
        if adds is not None:
            attributes[ADDED_LOSSES] = adds
        name = self._stable_name(operation, prefix)
        traced = self._add_call(
            LayerCall(
                name,
                _kind(layer, attributes, specs, outputs, arguments, _takes_mask(node.arguments)),
                name if isinstance(operation, keras.Layer) else "",
                layer,
                arguments,
                attributes,
                specs,
                outputs,
                operation,
                fixed,
                any(getattr(x, "shape", ()) for x in _constants(node.arguments)),
            ),
            inputs,
        )
        if activation is not None:
            kind = registry.kind_of_layer("Activation")
            assert kind is not None
            traced = self._add_call(
                LayerCall(
                    f"{name}/{activation.name}",
                    kind,
                    "",
                    activation,
                    lambda inputs: (tuple(inputs), {}),
                    {"activation": activation.name},
                    outputs,
                    outputs,
                    activation,
                ),
                traced,
            )
        if adds is not None:
            self.added_losses.append((name, operation, traced.pop()))
        elif getattr(operation, "activity_regularizer", None) is not None:
            self.activities += [(name, operation, output) for output in traced]
        return traced

    def _add_call(self, call: LayerCall, inputs: Sequence[Traced]) -> list[Traced]:
        """Adds a call as one operator, or opened in time; gives its outputs."""
        opened = self.time_blocks and self.time_blocks.open(call, inputs)
        if opened is not None:
            return opened
        outputs = registry.find(call.kind).output_specs(call.attributes, call.output_specs)
        number = self.add(
            call.name,
            call.kind,
            call.layer_name,
            [self.whole(tensor) for tensor in inputs],
            outputs,
            call.attributes,
            call.layer,
            call.arguments,
            call.owner,
        )
        first = self.operators[number].first_made
        return [Traced(TensorRef(number, i)) for i in range(first, len(outputs))]

    def spec(self, tensor: Traced) -> TensorSpec:
        """Of a tensor as a whole."""
        first = self.operators[tensor.refs[0].operator].output_specs[tensor.refs[0].output]
        if tensor.whole is not None:
            return first
        batch, steps, *rest = first.shape
        return TensorSpec((batch, steps * len(tensor.blocks), *rest), first.dtype)

    def whole(self, tensor: Traced) -> TensorRef:
        """A tensor in one piece: its blocks, if it is in blocks, are joined."""
        if tensor.whole is not None:
            return tensor.whole
        assert self.time_blocks is not None
        return self.time_blocks.joined(tensor)

    def _stable_name(self, operation: Any, prefix: str) -> str:
        """The operation's name; if it is Keras's automatic one, counted anew for this graph.

        Keras counts over all that a process ever made, so that the same model, built a second
        time, has other names; a strategy must fit it all the same.
        """
        if id(operation) not in self._stable_names:
            automatic = to_snake_case(type(operation).__name__)
            name = operation.name
            if re.fullmatch(rf"{automatic}(_\d+)?", name):
                count = self._counts.get(prefix + automatic, 0)
                self._counts[prefix + automatic] = count + 1
                name = f"{automatic}_{count}" if count else automatic
            self._stable_names[id(operation)] = prefix + name
            self.operator_names[operation.name] = prefix + name
        return self._stable_names[id(operation)]

    def _spec(self, tensor: Any, what: str) -> TensorSpec:
        shape = list(tensor.shape)
        if shape and shape[0] is None:
            shape[0] = self.batch_size
        if any(size is None for size in shape):
            raise CaptureError(
                f"The {what} has shape {tuple(tensor.shape)}. Only the batch dimension may be "
                "unknown: give the model's inputs fixed shapes."
            )
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        return TensorSpec(tuple(int(size) for size in shape), dtype)

    def weights_of(self, owner: Any) -> tuple[tuple[int, ...], tuple[WeightSpec, ...]]:
        """Numbers and specs of the weights of a layer, if `owner` is one."""
        if not isinstance(owner, keras.Layer):
            return (), ()
        trainable = owner.trainable_variables
        numbers = []
        for variable in read_variables(owner):
            if id(variable) not in self._weight_numbers:
                self._weight_numbers[id(variable)] = len(self._weights)
                self._variables.append(variable)
                self._weights.append(
                    WeightSpec(
                        variable.path,
                        owner.name,
                        tuple(variable.shape),
                        keras.backend.standardize_dtype(variable.dtype),
                        any(variable is v for v in trainable),
                    )
                )
            numbers.append(self._weight_numbers[id(variable)])
        return tuple(numbers), tuple(self._weights[number] for number in numbers)


def _check_masks(operation: Any, inputs: Sequence[Any]) -> None:
    """Raises `CaptureError` if a layer finds masks on its inputs that the graph does not show.

    Keras's layers are handed masks as arguments when a model is made, so that masks are tensors of
    its graph. But a layer of layers hands its inputs on, and inner layers look for masks on them.
    """
    if not isinstance(operation, keras.Layer):
        return
    if all(keras.src.backend.get_keras_mask(x) is None for x in inputs):
        return
    is_keras = type(operation).__module__.partition(".")[0] == "keras"
    is_simple = len(list(operation._flatten_layers())) == 1
    if not is_keras or type(operation).__name__ in _READ_MASKS:
        is_shown = False
    else:
        hands_on = (keras.layers.RNN, keras.layers.Bidirectional, keras.layers.TimeDistributed)
        is_shown = is_simple or isinstance(operation, hands_on)
    if not is_shown:
        raise CaptureError(
            f"Layer {operation.name!r} of type {type(operation).__name__} is called on a tensor "
            "with a mask, which it may look for inside of itself. Leave out Masking and "
            "mask_zero=True before it, and pass sample weights or an attention_mask."
        )


def _check_made_masks(model: keras.Model, function: Function) -> None:
    """Raises `CaptureError` if a nested model makes masks that the graph around it does not show.

    Keras forgets them when the model around it is made, and finds them again when it runs.
    """
    if any(keras.src.backend.get_keras_mask(x) is not None for x in function.outputs):
        raise CaptureError(
            f"Nested model {model.name!r} gives its output a mask, which layers after it may read "
            "but the graph around it does not show. Call its layers in the outer model, or leave "
            "out Masking and mask_zero=True in it."
        )


def function_of(model: keras.Model) -> Function:
    """The Keras graph of a Functional or Sequential model."""
    kinds = [kind for kind in (keras.Sequential, Functional) if isinstance(model, kind)]
    if not kinds:
        raise CaptureError(
            f"Model {model.name!r} is a {type(model).__name__}, a subclassed model, whose layers "
            "cannot be read off. Write it as a Functional or Sequential model."
        )
    if type(model).call is not kinds[0].call:
        raise CaptureError(
            f"Model {model.name!r} is a {type(model).__name__} that overrides call(), which its "
            "graph does not show. Use a plain Functional or Sequential model."
        )
    if isinstance(model, keras.Sequential):
        if model._functional is None:
            raise CaptureError(
                f"Model {model.name!r} is not built, so its shapes are unknown. Start it with a "
                "keras.Input layer, or call model.build(input_shape)."
            )
        return model._functional
    return model


def _without_activation(
    operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, keras.layers.Activation | None]:
    """A layer without the softmax or sigmoid that it ends with, and that as a layer of its own."""
    ending = getattr(operation, "activation", None)
    if type(operation).__name__ not in _ENDING_IN_ACTIVATION or ending not in (
        keras.activations.softmax,
        keras.activations.sigmoid,
    ):
        return operation, None
    bare = type(operation).from_config({**operation.get_config(), "activation": None})
    with without_values():
        bare(*args, **kwargs)
    policy = operation.dtype_policy
    return bare, keras.layers.Activation(ending, name=ending.__name__, dtype=policy)


def _fixed_mode(operation: Any, training: bool | None) -> dict[str, Any]:
    """The `training` argument of a call, if it or an enclosing one fixes it."""
    if training is None or not getattr(operation, "_call_has_training_arg", False):
        return {}
    return {"training": training}


def _argument_filler(arguments: Any, more: dict[str, Any]) -> Arguments:
    keys = [id(tensor) for tensor in arguments.keras_tensors]

    def fill(inputs: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = arguments.fill_in(dict(zip(keys, inputs, strict=True)))
        return tuple(args), {**kwargs, **more}

    return fill


def _attributes(operation: Any, arguments: Any) -> dict[str, Any]:
    try:
        config = operation.get_config()
    except (NotImplementedError, TypeError, ValueError):
        # As custom layers without a get_config of their own raise; then no rule asks for it either.
        config = {}
    kept = {
        key: value
        for key, value in config.items()
        if key not in _NOT_THE_RULES_BUSINESS and not key.endswith("_initializer")
    }
    if isinstance(operation, keras.Layer):
        kept["trainable"] = operation.trainable
    constants = _constants(arguments)
    if constants:
        kept["call"] = [x if isinstance(x, (int, float, str, bool)) else str(x) for x in constants]
    return json.loads(json.dumps(kept, default=_word))


def _constants(arguments: Any) -> list[Any]:
    """What a call is given besides tensors of the model."""
    return [x for x in arguments._flat_arguments if not isinstance(x, keras.KerasTensor)]


def _takes_mask(arguments: Any) -> bool:
    masks = [value for key, value in arguments.kwargs.items() if key.endswith("mask")]
    return any(isinstance(x, keras.KerasTensor) for x in keras.tree.flatten(masks))


def _word(value: Any) -> str:
    return getattr(value, "__name__", None) or type(value).__name__


def _kind(
    operation: Any,
    attributes: dict[str, Any],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    arguments: Arguments,
    takes_mask: bool,
) -> str:
    # Rules know nothing of masks.
    is_keras = type(operation).__module__.split(".")[0] == "keras"
    if not takes_mask and is_keras and ADDED_LOSSES not in attributes:
        kind = registry.kind_of_layer(type(operation).__name__)
        if (
            kind
            and (len(outputs) == 1 or registry.find(kind).several_outputs)
            and registry.find(kind).refuses(attributes, inputs, outputs[0]) is None
        ):
            return kind
    if attributes.get(ADDED_LOSSES) == "whole":
        return "whole"
    return "samplewise" if treats_samples_alone(operation, inputs, outputs, arguments) else "whole"


class _KeepsStateError(Exception):
    """A layer changes weights other than seeds."""


def treats_samples_alone(
    operation: Any,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    arguments: Arguments,
) -> bool:
    """Whether halves of a random batch give the halves of what the batch gives, in training."""
    batch = inputs[0].shape[:1] if inputs else ()
    if not batch or any(spec.shape[:1] != batch for spec in (*inputs, *outputs)):
        return False
    random = np.random.default_rng(0)
    values = [_random_value(random, spec, 4) for spec in inputs]

    def run(part: slice) -> list[np.ndarray]:
        args, kwargs = arguments([keras.ops.convert_to_tensor(value[part]) for value in values])
        if not isinstance(operation, keras.Layer):
            made = operation(*args, **kwargs)
        else:
            if operation._call_has_training_arg:
                kwargs = {"training": True, **kwargs}
            trainable, rest = operation.trainable_variables, operation.non_trainable_variables
            made, states = operation.stateless_call(
                [v.value for v in trainable], [v.value for v in rest], *args, **kwargs
            )
            if any(
                "seed" not in v.path and not np.array_equal(v.value, state)
                for v, state in zip(rest, states, strict=True)
            ):
                raise _KeepsStateError
        return [keras.ops.convert_to_numpy(x) for x in keras.tree.flatten(made)]

    try:
        together, halves = run(slice(0, 4)), [run(slice(0, 2)), run(slice(2, 4))]
    except _KeepsStateError:
        return False  # Parts would disagree about what they make of its state.
    except Exception as error:
        logging.debug("%s cannot be split by sample: %s", operation.name, error)
        return False
    return all(
        whole.shape[:1] == (4,)
        and np.allclose(whole, np.concatenate(parts), rtol=1e-4, atol=1e-5, equal_nan=True)
        for whole, *parts in zip(together, *halves, strict=True)
    )


def _random_value(random: np.random.Generator, spec: TensorSpec, batch: int) -> np.ndarray:
    shape = (batch, *spec.shape[1:])
    if spec.is_floating:
        return random.normal(size=shape).astype(
            "float32" if spec.dtype == "bfloat16" else spec.dtype
        )
    return random.integers(0, 2, size=shape).astype(spec.dtype)
