"""A call of a Keras layer or operation, with complete shapes, before it becomes operators."""

import contextlib
import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
from keras.src.backend.common.masking import get_keras_mask
from keras.src.ops.function import Function
from keras.src.ops.symbolic_arguments import SymbolicArguments

from keras_soap.errors import CaptureError
from keras_soap.graph.operator_graph import TensorSpec
from keras_soap.operators.contractions import einsum_labels

Arguments = Callable[[Sequence[Any]], tuple[tuple[Any, ...], dict[str, Any]]]

_NOT_THE_RULES_BUSINESS = ("name", "trainable", "dtype", "seed")


@dataclass(frozen=True)
class Call:
    """A call of a layer or operation.

    Attributes:
        operation: The layer, model or operation.
        arguments: What it is called with; its symbolic tensors are the inputs.
        inputs: Their specs, in order.
        outputs: Specs of what it makes, flat.
        fixed: Keyword arguments that the call, or one that it is part of, fixes: `training`.
        autocast: The dtype in which the layer that an operation is part of reads its weights,
            where that is not the one that they are stored in.
        weights: For each input the weight that it is, or None. Of operations on weights alone,
            weights are inputs.
        of_weights: For each input whether it is made of weights alone.
        copies: Of an operation on weights alone, how many copies there can be of what it makes.
    """

    operation: Any
    arguments: SymbolicArguments
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    fixed: dict[str, Any] = field(default_factory=dict)
    autocast: str | None = None
    weights: tuple[keras.Variable | None, ...] = ()
    of_weights: tuple[bool, ...] = ()
    copies: int | None = None

    def fill(self, inputs: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, with flat `inputs` in their places."""
        # By position: a tensor may be in several places, of which a part reads different regions.
        left = iter(inputs)
        args, kwargs = self.arguments.convert(
            lambda x: next(left) if isinstance(x, keras.KerasTensor) else x
        )
        if getattr(self.operation, "_call_has_training_arg", False):
            kwargs.pop("training", None)  # What is fixed of it is in `fixed`.
        return tuple(args), {**kwargs, **self.fixed}

    def symbols(self) -> list[keras.KerasTensor]:
        """New symbolic inputs, and then masks of those that have one."""
        specs = [*self.inputs, *map(self.mask_spec, self.masked)]
        return [keras.Input(batch_shape=spec.shape, dtype=spec.dtype) for spec in specs]

    def with_batch(self, batch_size: int, new: int) -> "Call | None":
        """The same call on `new` samples, if all its inputs have `batch_size` of them."""

        def resized(specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
            return tuple(dataclasses.replace(s, shape=(new, *s.shape[1:])) for s in specs)

        if any(spec.shape[:1] != (batch_size,) for spec in (*self.inputs, *self.outputs)):
            return None
        return dataclasses.replace(self, inputs=resized(self.inputs), outputs=resized(self.outputs))

    @property
    def masked(self) -> list[int]:
        """Numbers of the inputs that have a mask."""
        tensors = self.arguments.keras_tensors
        return [n for n, tensor in enumerate(tensors) if get_keras_mask(tensor) is not None]

    def mask_spec(self, number: int) -> TensorSpec:
        """Of the mask of an input."""
        mask = get_keras_mask(self.arguments.keras_tensors[number])
        shape = (self.inputs[number].shape[0], *mask.shape[1:])
        return TensorSpec(shape, keras.backend.standardize_dtype(mask.dtype))

    @property
    def operands(self) -> list[Any]:
        """What stands in the places of the arguments, flat.

        That is `["input", number]`, `["weight", number, *shape]`, `["array", *shape]`, or None.
        """
        number = itertools.count()
        variables = [id(variable) for variable in self.variables]

        def operand(value: Any) -> Any:
            if isinstance(value, keras.KerasTensor):
                return ["input", next(number)]
            if isinstance(value, keras.Variable):
                return ["weight", variables.index(id(value)), *value.shape]
            return ["array", *value.shape] if getattr(value, "shape", ()) else None

        return list(map(operand, self.arguments._flat_arguments))

    @property
    def constants(self) -> list[Any]:
        """What it is given besides tensors of the model."""
        return [x for x in self.arguments._flat_arguments if not isinstance(x, keras.KerasTensor)]

    @property
    def has_arrays(self) -> bool:
        """Whether there are arrays among the constants."""
        return any(
            getattr(x, "shape", ()) for x in self.constants if not isinstance(x, keras.Variable)
        )

    @property
    def variables(self) -> list[keras.Variable]:
        """Weights that an operation is called on."""
        found: dict[int, keras.Variable] = {}
        for constant in self.constants:
            if isinstance(constant, keras.Variable):
                found.setdefault(id(constant), constant)
        return list(found.values())

    @property
    def key(self) -> str:
        """Equal for calls of one layer that differ in the number of samples at most."""
        layers = self.operation._flatten_layers() if isinstance(self.operation, keras.Layer) else ()
        specs = [[spec.shape[1:], spec.dtype] for spec in (*self.inputs, *self.outputs)]
        constants = [_json(constant) for constant in self.constants]
        trains = [layer.trainable for layer in layers]
        return json.dumps([specs, self.masked, constants, self.fixed, self.autocast, trains])

    @property
    def takes_mask(self) -> bool:
        """Whether a layer is handed a mask."""
        if not isinstance(self.operation, keras.Layer):
            return False
        masks = [value for key, value in self.arguments.kwargs.items() if key.endswith("mask")]
        return any(isinstance(x, keras.KerasTensor) for x in keras.tree.flatten(masks))

    def attributes(self, layer: Any) -> dict[str, Any]:
        """What rules need to know of `layer`, which stands for the operation, and of the call."""
        kept = {
            key: value
            for key, value in (config_of(layer) or {}).items()
            if key not in _NOT_THE_RULES_BUSINESS and not key.endswith("_initializer")
        }
        if isinstance(layer, keras.Layer):
            kept["trainable"] = layer.trainable
        if self.constants:
            kept["call"] = [_json(x) for x in self.constants]
        if self.autocast and self.variables:
            kept["autocast"] = self.autocast
        if not isinstance(layer, keras.Layer):
            kept["operands"] = self.operands
        if self.copies is not None:
            kept["copies"] = self.copies
        elif any(self.of_weights):
            kept["weight_inputs"] = [n for n, alone in enumerate(self.of_weights) if alone]
        return {**json.loads(json.dumps(kept, default=_word)), **self.fixed}


def spec_of(tensor: Any, batch_size: int, what: str) -> TensorSpec:
    """Of a symbolic tensor, on whole batches."""
    shape = list(tensor.shape)
    if shape and shape[0] is None:
        shape[0] = batch_size
    if any(size is None for size in shape):
        raise CaptureError(
            f"The {what} has shape {tuple(tensor.shape)}. Only the batch dimension may be "
            "unknown: give the model's inputs fixed shapes."
        )
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return TensorSpec(tuple(int(size) for size in shape), dtype)


def recorded_mode(node: Any) -> bool | None:
    """The `training` that a call in a traced `call` fixes; Keras records the default as well."""
    mode = node.arguments.kwargs.get("training")
    signature = getattr(node.operation, "_call_signature", None)
    if mode is None or signature is None:
        return None
    parameter = signature.parameters.get("training")
    return None if parameter is not None and parameter.default == mode else bool(mode)


def nodes_of(function: Function) -> list[Any]:
    """The recorded calls in a Keras graph, in order."""
    by_depth = function._nodes_by_depth
    return [
        n for depth in sorted(by_depth, reverse=True) for n in by_depth[depth] if not n.is_input
    ]


def weights_as_inputs(
    arguments: SymbolicArguments,
) -> tuple[SymbolicArguments, tuple[keras.Variable | None, ...]]:
    """Arguments with symbols in the places of weights; and for each symbol its weight, or None."""
    weights: dict[int, keras.Variable] = {}

    def symbol(value: Any) -> Any:
        if not isinstance(value, keras.Variable):
            return value
        made = keras.KerasTensor(value.shape, keras.backend.standardize_dtype(value.dtype))
        weights[id(made)] = value
        return made

    args, kwargs = arguments.convert(symbol)
    symbolic = SymbolicArguments(*args, **kwargs)
    return symbolic, tuple(weights.get(id(x)) for x in symbolic.keras_tensors)


@contextlib.contextmanager
def exact_shapes(layers: Iterable[Any]) -> Iterator[None]:
    """Lets layers tell the shapes that follow from what they are called on.

    EinsumDense tells the shape that it was given, of which sizes may be left open. What a layer of
    the user's tells is its own affair; its `call` is asked instead.
    """
    changed: list[tuple[Any, str, Any]] = []
    for layer in layers:
        if type(layer) is keras.layers.EinsumDense:
            changed.append((layer, "compute_output_shape", _einsum_shape))
        elif isinstance(layer, keras.Layer) and not is_keras(layer):
            changed.append((layer, "compute_output_spec", keras.Operation.compute_output_spec))
    for layer, name, function in changed:
        vars(layer)[name] = functools.partial(function, layer)
    try:
        yield
    finally:
        for layer, name, _ in changed:
            vars(layer).pop(name, None)


def config_of(operation: Any) -> dict[str, Any] | None:
    """What a layer or operation was made with, as Keras serializes it.

    None where Keras cannot: for custom layers without a `get_config` (NotImplementedError), and
    for layers that were handed an object without one, such as an activation (TypeError, or
    ValueError). Such a layer cannot be made again with fewer units, so no rule covers it.
    """
    try:
        return operation.get_config()
    except (NotImplementedError, TypeError, ValueError):
        return None


def is_keras(operation: Any) -> bool:
    """Whether a layer or operation is Keras's own, or one that stands for what Keras does."""
    return type(operation).__module__.partition(".")[0] in ("keras", "keras_soap")


def _einsum_shape(layer: keras.layers.EinsumDense, input_shape: Any) -> tuple[int | None, ...]:
    shapes = [tuple(input_shape), tuple(layer.kernel.shape)]
    factors, output = einsum_labels(layer.equation, shapes)
    sizes = {
        label: size
        for labels, shape in zip(factors, shapes, strict=True)
        for label, size in zip(labels, shape, strict=True)
    }
    return tuple(sizes[label] for label in output)


def _json(value: Any) -> Any:
    if isinstance(value, slice):
        return {"slice": [_json(x) for x in (value.start, value.stop, value.step)]}
    if isinstance(value, keras.Variable):
        return "weight"
    return value if value is None or isinstance(value, (int, float, str, bool)) else str(value)


def _word(value: Any) -> str:
    return getattr(value, "__name__", None) or type(value).__name__
