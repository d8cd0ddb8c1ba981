"""Collects the operators of a captured model, and of the losses that are added on top of it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
from keras.src.backend.common.masking import get_keras_mask
from keras.src.ops.function import Function
from keras.src.utils.naming import to_snake_case

from keras_soap.capture.calls import Arguments, Call, nodes_of, spec_of
from keras_soap.capture.captured_model import CapturedModel
from keras_soap.capture.decisions import (
    Decision,
    call_of,
    decide,
    does_nothing,
    opens_as_graph,
    training_mode,
)
from keras_soap.capture.functions import function_of, has_graph
from keras_soap.capture.opening import autocast_of
from keras_soap.capture.time_blocks import LayerCall, TimeBlocks
from keras_soap.capture.traced import Traced
from keras_soap.capture.weights import Weights
from keras_soap.errors import CaptureError
from keras_soap.graph.operator_graph import (
    INPUT,
    Operator,
    OperatorGraph,
    TensorRef,
    TensorSpec,
)
from keras_soap.operators import registry
from keras_soap.operators.fallback import ADDED_LOSSES


class GraphBuilder:
    """Collects operators; losses are added on top of a model's by `capture.losses`."""

    def __init__(
        self,
        name: str,
        batch_size: int,
        time_chunk: int | None = None,
        apart: Sequence[keras.Variable] = (),
    ):
        """Starts with no operators.

        Args:
            name: Of the model.
            batch_size: Samples in one step.
            time_chunk: As in `capture.model.capture`.
            apart: Weights that are operators of their own (see `weights`).
        """
        if batch_size < 1:
            raise CaptureError(f"batch_size={batch_size} must be 1 or more.")
        self.name = name
        self.batch_size = batch_size
        self.operators: list[Operator] = []
        self.layers: list[Any] = []
        self._arguments: list[Arguments | None] = []
        self.weights = Weights(self, apart)
        self._names: set[str] = set()
        self._stable_names: dict[int, str] = {}
        self._counts: dict[str, int] = {}
        self._kept: list[Any] = []
        """Graphs of opened calls: names are by the ids of their operations."""
        self.operator_names: dict[str, str] = {}
        """By the name of a layer that of its operators, without what tells several apart."""
        self.activities: list[tuple[str, Any, Traced]] = []
        """Of calls with an activity regularizer: name of the call, layer, each of the outputs."""
        self.added_losses: list[tuple[str, keras.Layer, Traced]] = []
        """Of calls that add losses: name of the call, layer, and the losses."""
        self.model_loss: Traced | None = None
        """What `call` of the model itself adds to the loss."""
        self.time_blocks = None if time_chunk is None else TimeBlocks(self, time_chunk)

    def add_model(self, model: keras.Model) -> tuple[list[int], list[Traced], Any]:
        """Adds inputs and all calls; gives inputs, flat outputs and the structure of outputs."""
        function = function_of(model, self.batch_size)
        tensors: dict[int, Traced] = {}
        inputs = []
        for tensor in function.inputs:
            spec = spec_of(tensor, self.batch_size, f"input {tensor.name}")
            is_named = not tensor.name.startswith("keras_tensor")
            inputs.append(self.add_input(tensor.name if is_named else "input", spec))
            tensors[id(tensor)] = Traced(TensorRef(inputs[-1]))
        autocast = None if has_graph(model) else autocast_of(model)
        self._function = function
        self._place = _Place("", None, autocast, tensors, is_graph=has_graph(model))
        self._trace(function, self._place)
        added = getattr(function, "added_loss", None)
        self.model_loss = None if added is None else tensors[id(added)]
        outputs = [tensors[id(tensor)] for tensor in function.outputs]
        structure = keras.tree.pack_sequence_as(function._outputs_struct, list(range(len(outputs))))
        return inputs, outputs, structure

    def add_masks(self) -> list[Traced | None]:
        """Masks of the outputs of the model that was added; None where there is none."""
        outputs = self._function.outputs
        return [
            None if get_keras_mask(x) is None else self._mask_of(x, self._place) for x in outputs
        ]

    def add_input(self, name: str, spec: TensorSpec) -> int:
        """Adds a tensor that every step brings anew."""
        return self.add(name, INPUT, "", [], (spec,), {})

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
        weights, weight_specs = self.weights.of(owner)
        operator = Operator(
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
        operator = self.weights.handed(operator, isinstance(layer, keras.Layer))
        self.operators.append(operator)
        self.layers.append(layer)
        self._arguments.append(arguments)
        return len(self.operators) - 1

    def finish(
        self, inputs: Sequence[int], outputs: Sequence[Traced], structure: Any
    ) -> CapturedModel:
        graph = OperatorGraph(
            self.name, self.batch_size, tuple(self.operators), tuple(self.weights.specs)
        )
        return CapturedModel(
            graph,
            tuple(self.layers),
            tuple(self._arguments),
            tuple(self.weights.variables),
            tuple(inputs),
            tuple(output.refs for output in outputs),
            structure,
        )

    def _trace(self, function: Function, place: "_Place") -> None:
        """Adds the calls in `function`."""
        for node in nodes_of(function):
            if all(id(x) in place.tensors for x in node.input_tensors):
                self._add_node(node, place)

    def _add_node(self, node: Any, place: "_Place") -> None:
        """Adds a recorded call, if it is not added yet."""
        if id(node.outputs[0]) in place.tensors:
            return
        if opens_as_graph(node):
            outputs = self._add_graph(node, place)
        else:
            outputs = self._add_call_of(node, place)
        place.tensors.update(zip(map(id, node.outputs), outputs, strict=True))

    def _add_graph(self, node: Any, place: "_Place") -> list[Traced]:
        """Adds a nested model, whose own graph says what it does."""
        model = node.operation
        function = function_of(model)
        if len(function.inputs) != len(node.input_tensors):
            raise CaptureError(
                f"Nested model {model.name!r} has {len(function.inputs)} inputs but is called on "
                f"{len(node.input_tensors)}. Call it on one tensor for each input."
            )
        tensors = dict(zip(map(id, function.inputs), place.read(node), strict=True))
        mode = training_mode(node, place.training, place.is_graph)
        prefix = f"{place.prefix}{model.name}/"
        self._trace(function, _Place(prefix, mode, None, tensors, is_graph=True))
        _check_made_masks(model, function)
        return [tensors[id(x)] for x in function.outputs]

    def _add_call_of(self, node: Any, place: "_Place") -> list[Traced]:
        """Adds a call of a layer or operation."""
        inputs = place.read(node)
        if id(node) in place.inner:
            call, decision = place.inner[id(node)]
        else:
            read = [(self.spec(x), x.of_weights) for x in inputs]
            mode = training_mode(node, place.training, place.is_graph)
            call = call_of(node, read, mode, place.autocast, self.batch_size)
            decision = decide(call, self.batch_size)
        if any(weight is not None for weight in call.weights):
            tensors = iter(inputs)
            inputs = [
                next(tensors) if weight is None else self.weights.read(weight, spec, place.prefix)
                for weight, spec in zip(call.weights, call.inputs, strict=True)
            ]
        if does_nothing(call):
            return inputs
        operation = call.operation
        name = self._stable_name(operation, place.prefix)
        if decision.function is not None:
            masks = [self._mask_of(node.input_tensors[n], place) for n in call.masked]
            traced = self._add_opened(call, decision, [*inputs, *masks], name)
        else:
            traced = self._add_operator(call, decision, inputs, name)
            for tensor in traced:
                tensor.of_weights = call.copies is not None
        if decision.adds is not None:
            self.added_losses.append((name, operation, traced.pop()))
        elif getattr(operation, "activity_regularizer", None) is not None:
            self.activities += [(name, operation, output) for output in traced]
        return traced

    def _add_opened(
        self, call: Call, decision: Decision, inputs: Sequence[Traced], name: str
    ) -> list[Traced]:
        """Adds what a call is made of."""
        function = decision.function
        assert function is not None
        self._kept.append(function)
        tensors = dict(zip(map(id, function.inputs), inputs, strict=True))
        mode, autocast = call.fixed.get("training"), autocast_of(call.operation)
        self._trace(function, _Place(f"{name}/", mode, autocast, tensors, decision.inner))
        return [tensors[id(x)] for x in function.outputs]

    def _mask_of(self, tensor: Any, place: "_Place") -> Traced:
        """The mask of a tensor; the calls that make it are added, if no output needs them."""

        def add(tensor: Any) -> None:
            if id(tensor) not in place.tensors:
                history = tensor._keras_history
                node = history.operation._inbound_nodes[history.node_index]
                for x in node.input_tensors:
                    add(x)
                self._add_node(node, place)

        mask = get_keras_mask(tensor)
        try:
            add(mask)
        except IndexError:  # Of a call inside of a layer that is opened up.
            raise CaptureError(
                f"A layer in {place.prefix.rstrip('/')!r} looks for a mask that nothing there is "
                "handed. Pass it as an argument."
            ) from None
        return place.tensors[id(mask)]

    def _add_operator(
        self, call: Call, decision: Decision, inputs: Sequence[Traced], name: str
    ) -> list[Traced]:
        """Adds a call as an operator, and the activation that it ends with as another."""
        operation, layer = call.operation, decision.layer
        adds = {} if decision.adds is None else {ADDED_LOSSES: decision.adds}
        traced = self._add_call(
            LayerCall(
                name,
                decision.kind,
                name if isinstance(operation, keras.Layer) else "",
                layer,
                call.fill,
                call.attributes(layer) | adds,
                call.inputs,
                call.outputs,
                operation if isinstance(operation, keras.Layer) else call.variables,
                call.fixed,
                call.has_arrays,
            ),
            inputs,
        )
        activation = decision.activation
        if activation is None:
            return traced
        kind = registry.kind_of_layer("Activation")
        assert kind is not None
        return self._add_call(
            LayerCall(
                f"{name}/{activation.name}",
                kind,
                "",
                activation,
                lambda inputs: (tuple(inputs), {}),
                {"activation": activation.name},
                call.outputs,
                call.outputs,
                activation,
            ),
            traced,
        )

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
            # Bidirectional puts a word before it.
            found = re.fullmatch(rf"((?:forward_|backward_)?{automatic})(_\d+)?", name)
            if found:
                counted = prefix + found[1]
                count = self._counts.get(counted, 0)
                self._counts[counted] = count + 1
                name = f"{found[1]}_{count}" if count else found[1]
            self._stable_names[id(operation)] = prefix + name
            self.operator_names[operation.name] = prefix + name
        return self._stable_names[id(operation)]


def _check_made_masks(model: keras.Model, function: Function) -> None:
    """Raises `CaptureError` if a nested model makes masks that the graph around it does not show.

    Keras forgets them when the model around it is made, and finds them again when it runs.
    """
    if any(get_keras_mask(x) is not None for x in function.outputs):
        raise CaptureError(
            f"Nested model {model.name!r} gives its output a mask, which layers after it may read "
            "but the graph around it does not show. Call its layers in the outer model, or leave "
            "out Masking and mask_zero=True in it."
        )


@dataclass(frozen=True)
class _Place:
    """Where calls stand.

    Attributes:
        prefix: Of the names of operators.
        training: The mode that an enclosing call fixes.
        autocast: As in `Call`.
        tensors: By the id of a symbol what it has become.
        inner: By the id of a node its call and what is decided of it already.
        is_graph: Whether they are those of a model's own graph.
    """

    prefix: str
    training: bool | None
    autocast: str | None
    tensors: dict[int, Traced]
    inner: dict[int, tuple[Call, Decision]] = field(default_factory=dict)
    is_graph: bool = False

    def read(self, node: Any) -> list[Traced]:
        """What a recorded call reads."""
        return [self.tensors[id(x)] for x in node.input_tensors]
