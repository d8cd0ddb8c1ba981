"""The weights of a model that is captured, and those of them that are operators.

1. A weight belongs to the operators that read it, if any split of it means the same to all of them:
   they share one configuration, so that the weight has one layout.
2. Else it is an operator of its own (`operators.weights`), and handed to them: then each of them
   is split and placed for itself. Such are tables that are read forwards, as embeddings, and
   backwards, as projections; layers that are called on tensors of different ranks; and weights that
   anything is computed of alone.
3. Which they are shows when a model has been captured; it is then captured once more.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import keras
import numpy as np
from keras.src.ops.core import Cast

from keras_soap.capture.traced import Traced
from keras_soap.errors import CaptureError
from keras_soap.graph.operator_graph import Operator, TensorRef, TensorSpec, WeightSpec
from keras_soap.graph.region import whole
from keras_soap.operators import registry
from keras_soap.operators.computation import read_variables
from keras_soap.operators.handed_weights import BLOCK, HANDED
from keras_soap.operators.noise import is_seed
from keras_soap.operators.weights import OF_WEIGHTS, Weight


class Graph(Protocol):
    """What is asked of `capture.builder.GraphBuilder`."""

    batch_size: int
    operators: list[Operator]
    layers: list[Any]

    def add(self, *args: Any, **kwargs: Any) -> int: ...


class Weights:
    """All weights, each once.

    Args:
        graph: Where operators go.
        apart: Variables that are operators of their own.

    Attributes:
        specs: Of the weights.
        variables: The same as Keras has them.
    """

    def __init__(self, graph: Graph, apart: Sequence[keras.Variable]):
        self.specs: list[WeightSpec] = []
        self.variables: list[keras.Variable] = []
        self._graph = graph
        self._apart = set(map(id, apart))
        self._numbers: dict[int, int] = {}
        self._operators: dict[int, int] = {}
        """By the id of a variable the number of its operator."""

    def of(self, owner: Any) -> tuple[tuple[int, ...], tuple[WeightSpec, ...]]:
        """Numbers and specs of the weights of a layer, or of the variables in a list."""
        layer = ""
        if isinstance(owner, keras.Layer):
            layer, trainable, owner = owner.name, owner.trainable_variables, read_variables(owner)
        elif isinstance(owner, (list, tuple)):
            trainable = [variable for variable in owner if variable.trainable]
        else:
            return (), ()
        numbers = []
        for variable in owner:
            if id(variable) not in self._numbers:
                self._numbers[id(variable)] = len(self.specs)
                self.variables.append(variable)
                self.specs.append(
                    WeightSpec(
                        variable.path,
                        layer or variable.path.rpartition("/")[0],
                        tuple(variable.shape),
                        keras.backend.standardize_dtype(variable.dtype),
                        any(variable is v for v in trainable),
                    )
                )
            numbers.append(self._numbers[id(variable)])
        return tuple(numbers), tuple(self.specs[number] for number in numbers)

    def read(self, variable: keras.Variable, spec: TensorSpec, prefix: str) -> Traced:
        """A weight as an operation on it reads it: in the dtype of `spec`.

        Args:
            variable: The weight.
            spec: What the operation reads.
            prefix: Of the name of the weight's operator, if it is not there yet.
        """
        ref = self._tensor(variable, prefix)
        stored = self._graph.operators[ref.operator].output_specs[ref.output]
        if stored != spec:
            name = f"{self._graph.operators[ref.operator].name}/{spec.dtype}"
            ref = self._computed(name, "elementwise", ref, spec, Cast(spec.dtype))
        return Traced(ref, of_weights=True)

    def handed(self, operator: Operator, is_layer: bool) -> Operator:
        """An operator with those of its weights as inputs that are operators.

        Args:
            operator: Any.
            is_layer: Whether it is a call of a layer, which a weight's operator may be named after.
        """
        handed = [
            position
            for position, weight in enumerate(operator.weights)
            if id(self.variables[weight]) in self._apart
        ]
        if not handed or operator.kind == Weight.kind:
            return operator
        prefix = f"{operator.name}/" if is_layer else "".join(operator.name.rpartition("/")[:2])
        views = registry.find(operator.kind).weight_shapes(operator)
        refs = []
        for position in handed:
            spec = operator.weight_specs[position]
            ref = self._tensor(self.variables[operator.weights[position]], prefix)
            if views[position] != spec.shape:
                view = TensorSpec(views[position], spec.dtype)
                ref = self._computed(f"{operator.name}/{position}", "reshape", ref, view)
            refs.append(ref)
        read = [self._graph.operators[ref.operator].output_specs[ref.output] for ref in refs]
        own = [number for number in range(len(operator.weights)) if number not in handed]
        return dataclasses.replace(
            operator,
            kind=operator.kind + ("" if operator.kind.endswith(BLOCK) else HANDED),
            inputs=(*operator.inputs, *refs),
            input_specs=(*operator.input_specs, *read),
            weights=tuple(operator.weights[number] for number in own),
            weight_specs=tuple(operator.weight_specs[number] for number in own),
            attributes={
                "weights": [[list(w.shape), w.dtype, w.trainable] for w in operator.weight_specs],
                "hands_on": False,
                **operator.attributes,
                "handed": handed,
            },
        )

    def read_apart(self) -> list[keras.Variable]:
        """Weights that should have been operators: with readers that no split fits alike.

        Raises:
            CaptureError: If readers change such a weight.
        """
        readers: dict[int, list[int]] = {}
        for number, operator in enumerate(self._graph.operators):
            for weight in operator.weights:
                readers.setdefault(weight, []).append(number)
        found = []
        for weight, numbers in readers.items():
            operators = [self._graph.operators[number] for number in numbers]
            first, *others = [_splits(operator, weight) for operator in operators]
            if all(splits == first for splits in others):
                continue
            if self._is_state(weight, numbers):
                names = " and ".join(operator.name for operator in operators[:2])
                raise CaptureError(
                    f"Operators {names} read the weight {self.specs[weight].name!r} in different "
                    "ways, so that it cannot have one layout, and change it, so that it cannot be "
                    "sent to them. Use a layer of its own for each."
                )
            found.append(self.variables[weight])
        return found

    def _is_state(self, weight: int, readers: Sequence[int]) -> bool:
        """Whether readers of a weight change it."""
        variable = self.variables[weight]
        layers = (self._graph.layers[number] for number in readers)
        states = (
            state
            for layer in layers
            if isinstance(layer, keras.Layer)
            for inner in layer._flatten_layers()
            for state in inner._non_trainable_variables
        )
        return is_seed(self.specs[weight]) or any(variable is state for state in states)

    def _tensor(self, variable: keras.Variable, prefix: str) -> TensorRef:
        """What the operator of a weight makes; it is added, if it is not there yet."""
        if id(variable) not in self._operators:
            (spec,) = self.of([variable])[1]
            attributes = {"copies": self._graph.batch_size}
            made = (TensorSpec(spec.shape, spec.dtype),)
            outputs = registry.find(Weight.kind).output_specs(attributes, made)
            self._operators[id(variable)] = self._graph.add(
                f"{prefix}{variable.name}",
                Weight.kind,
                "",
                [],
                outputs,
                attributes,
                variables_of=[variable],
            )
        return TensorRef(self._operators[id(variable)], 1)

    def _computed(
        self, name: str, kind: str, ref: TensorRef, made: TensorSpec, operation: Any = None
    ) -> TensorRef:
        """What an operation makes of a weight alone."""
        kind += OF_WEIGHTS
        attributes = {"copies": self._graph.batch_size}
        outputs = registry.find(kind).output_specs(attributes, (made,))
        return TensorRef(self._graph.add(name, kind, "", [ref], outputs, attributes, operation), 1)


def _splits(operator: Operator, weight: int) -> list[list[int]] | None:
    """For each dimension of an operator the axes of a weight's view that it splits.

    None of an operator of the weight itself: then others are handed it.
    """
    if operator.kind == Weight.kind:
        return None
    rule, position = registry.find(operator.kind), operator.weights.index(weight)
    shape = np.array(rule.weight_shapes(operator)[position])
    splits = []
    for dimension in rule.dimensions(operator):
        regions = whole(1, operator.output.shape)
        regions[0, dimension.axis] = (0, dimension.step)
        held = rule.weight_regions(operator, regions)[position]
        is_split = (held[0, :, 1] - held[0, :, 0] < shape) & (dimension.size > dimension.step)
        splits.append(np.flatnonzero(is_split).tolist())
    return splits
