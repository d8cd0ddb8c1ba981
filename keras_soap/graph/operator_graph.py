"""What a model computes: operators, joined by the tensors between them.

1. Operators stand in topological order: an operator reads outputs of earlier ones only.
2. Every shape is complete, the batch dimension included.
3. Inputs and targets of the model are operators too (kind `"input"`), and so are its losses. Of a
   batch each region is placed where it is read, ahead of the step: who reads it waits for nothing.
4. Weights belong to layers; a layer that is called twice gives two operators on the same weights.
   A weight that no split fits alike for all its readers is an operator itself (kind `"weight"`).
"""

import functools
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keras_soap.errors import CaptureError

SPACE = "space"
"""Dtype of a tensor that is never made, and takes no bytes: its axes are what can be split."""

INPUT = "input"
"""Kind of operators that stand for a tensor of the batch."""

LOSS_KINDS = ("loss", "cross_entropy")
"""Kinds of operators that gradients start from."""

_DTYPE_BYTES = {"bool": 1, "bfloat16": 2, "float16": 2, "half": 2, SPACE: 0}


def dtype_bytes(dtype: str) -> int:
    """Bytes of one element of `dtype` (`"float32"`, `"int64"`, `"bfloat16"`, …)."""
    if dtype in _DTYPE_BYTES:
        return _DTYPE_BYTES[dtype]
    digits = "".join(c for c in dtype if c.isdigit())
    if not digits or int(digits) % 8:
        raise CaptureError(
            f"Cannot tell the size of dtype {dtype!r}. Use a numeric dtype such as 'float32'."
        )
    return int(digits) // 8


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape and dtype of a tensor."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.num_elements * dtype_bytes(self.dtype)

    @property
    def is_floating(self) -> bool:
        return "float" in self.dtype

    @property
    def is_space(self) -> bool:
        return self.dtype == SPACE


@dataclass(frozen=True, slots=True)
class WeightSpec:
    """A variable of a layer.

    Attributes:
        name: Unique in the graph: the variable's path in the model.
        layer: Name of the layer that owns it.
        shape: Its whole shape.
        dtype: Its dtype as stored.
        trainable: Whether the optimizer updates it.
    """

    name: str
    layer: str
    shape: tuple[int, ...]
    dtype: str
    trainable: bool

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * dtype_bytes(self.dtype)


@dataclass(frozen=True, slots=True)
class TensorRef:
    """Output number `output` of operator number `operator`."""

    operator: int
    output: int = 0


@dataclass(frozen=True, slots=True)
class Edge:
    """Input number `input` of operator `consumer` is the tensor `producer`."""

    index: int
    producer: TensorRef
    consumer: int
    input: int


@dataclass(frozen=True, slots=True)
class Operator:
    """One call of a layer, one input of the model, or one loss.

    Attributes:
        name: Unique in the graph.
        kind: Name of its rule, as in `keras_soap.operators.registry`.
        layer: Name of the layer that it is a call of; `""` for inputs and losses.
        inputs: The tensors it reads, in the order of the layer's arguments.
        input_specs: Their specs, in the same order.
        output_specs: What it makes. Where it can be split along what is no axis of that, the first
            output is a space (dtype `SPACE`) with all of its dimensions, which nobody reads.
        weights: Indices into `OperatorGraph.weights`, trainable ones first, in Keras's order.
        weight_specs: Their specs, in the same order.
        attributes: What the rule needs to know of the layer (its Keras config), JSON values only.
    """

    name: str
    kind: str
    layer: str
    inputs: tuple[TensorRef, ...]
    input_specs: tuple[TensorSpec, ...]
    output_specs: tuple[TensorSpec, ...]
    weights: tuple[int, ...] = ()
    weight_specs: tuple[WeightSpec, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def output(self) -> TensorSpec:
        """Spec of the first output, whose dimensions are the parallelizable ones."""
        return self.output_specs[0]

    @property
    def first_made(self) -> int:
        """Number of the first output that is made: 0, or 1 after a space."""
        return int(self.output.is_space)

    @property
    def signature(self) -> str:
        """What it computes, without names: equal signatures cost the same."""
        return json.dumps(
            [
                self.kind,
                [[spec.shape, spec.dtype] for spec in self.input_specs],
                [[spec.shape, spec.dtype] for spec in self.output_specs],
                [[spec.shape, spec.dtype, spec.trainable] for spec in self.weight_specs],
                dict(self.attributes),
            ],
            sort_keys=True,
        )


@dataclass(frozen=True)
class OperatorGraph:
    """Operators in topological order, and the weights they share.

    Attributes:
        name: Name of the model.
        batch_size: Samples in one step.
        operators: See the rules of this module.
        weights: All variables of the model's layers that operators use.
    """

    name: str
    batch_size: int
    operators: tuple[Operator, ...]
    weights: tuple[WeightSpec, ...] = ()

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for number, operator in enumerate(self.operators):
            if operator.name in seen:
                raise CaptureError(
                    f"Two operators are named {operator.name!r}. Give each a name of its own."
                )
            seen.add(operator.name)
            for ref, spec in zip(operator.inputs, operator.input_specs, strict=True):
                if not 0 <= ref.operator < number:
                    raise CaptureError(
                        f"Operator {operator.name!r} (number {number}) reads operator number "
                        f"{ref.operator}. List operators so that each reads earlier ones only."
                    )
                made = self.operators[ref.operator].output_specs[ref.output]
                if made != spec:
                    raise CaptureError(
                        f"Operator {operator.name!r} expects {spec} from "
                        f"{self.operators[ref.operator].name!r}, which makes {made}."
                    )

    @functools.cached_property
    def edges(self) -> tuple[Edge, ...]:
        """What operators read of what others make in the step, by consumer, then by its input."""
        return self._reads(fed=False)

    @functools.cached_property
    def feeds(self) -> tuple[Edge, ...]:
        """What operators read of the batch, by consumer, then by its input."""
        return self._reads(fed=True)

    def _reads(self, fed: bool) -> tuple[Edge, ...]:
        found = [
            (producer, consumer, position)
            for consumer, operator in enumerate(self.operators)
            for position, producer in enumerate(operator.inputs)
            if self.is_fed(producer) == fed
        ]
        return tuple(Edge(index, *read) for index, read in enumerate(found))

    def is_fed(self, tensor: TensorRef) -> bool:
        """Whether a tensor comes with the batch, rather than being made in the step."""
        return self.operators[tensor.operator].kind == INPUT

    @functools.cached_property
    def in_edges(self) -> tuple[tuple[Edge, ...], ...]:
        """For each operator the edges into it, by input."""
        table: list[list[Edge]] = [[] for _ in self.operators]
        for edge in self.edges:
            table[edge.consumer].append(edge)
        return tuple(map(tuple, table))

    @functools.cached_property
    def out_edges(self) -> tuple[tuple[Edge, ...], ...]:
        """For each operator the edges that read any of its outputs."""
        table: list[list[Edge]] = [[] for _ in self.operators]
        for edge in self.edges:
            table[edge.producer.operator].append(edge)
        return tuple(map(tuple, table))

    @functools.cached_property
    def carries_gradient(self) -> tuple[bool, ...]:
        """For each edge, whether a gradient goes back along it.

        It does when the tensor is floating-point, anything at or before its producer trains, and
        the consumer does not take it for a constant (attribute `"constant_inputs"`).
        """
        trains: list[bool] = []
        for operator in self.operators:
            trains.append(
                any(spec.trainable for spec in operator.weight_specs)
                or any(
                    trains[ref.operator] and spec.is_floating
                    for ref, spec in zip(operator.inputs, operator.input_specs, strict=True)
                )
            )
        return tuple(
            trains[edge.producer.operator]
            and edge.input
            not in self.operators[edge.consumer].attributes.get("constant_inputs", ())
            and self.operators[edge.producer.operator]
            .output_specs[edge.producer.output]
            .is_floating
            for edge in self.edges
        )

    @functools.cached_property
    def has_backward(self) -> tuple[bool, ...]:
        """For each operator, whether it has backward tasks.

        It must train something at or before itself, and lead to a loss.
        """
        leads = [operator.kind in LOSS_KINDS for operator in self.operators]
        for edge in reversed(self.edges):
            if self.carries_gradient[edge.index] and leads[edge.consumer]:
                leads[edge.producer.operator] = True
        return tuple(
            leads[number]
            and (
                any(spec.trainable for spec in operator.weight_specs)
                or any(self.carries_gradient[edge.index] for edge in self.in_edges[number])
            )
            for number, operator in enumerate(self.operators)
        )

    @functools.cached_property
    def sends_back(self) -> tuple[bool, ...]:
        """For each edge, whether a gradient goes back along it."""
        return tuple(
            self.carries_gradient[edge.index]
            and self.has_backward[edge.producer.operator]
            and self.has_backward[edge.consumer]
            for edge in self.edges
        )

    @functools.cached_property
    def gradients_before(self) -> tuple[int, ...]:
        """For each edge, how many before it send back gradients of the same tensor."""
        counts: Counter[TensorRef] = Counter()
        result = []
        for edge in self.edges:
            result.append(counts[edge.producer])
            counts[edge.producer] += self.sends_back[edge.index]
        return tuple(result)

    @functools.cached_property
    def has_weight_gradients(self) -> tuple[bool, ...]:
        """For each operator, whether it makes gradients of weights."""
        return tuple(
            backward and any(spec.trainable for spec in operator.weight_specs)
            for backward, operator in zip(self.has_backward, self.operators, strict=True)
        )

    @functools.cached_property
    def sharers(self) -> tuple[tuple[int, ...], ...]:
        """For each operator all operators on the same weights, itself included, ascending.

        They must have the same configuration, so that each weight has one layout.
        """
        users: dict[int, list[int]] = {}
        for number, operator in enumerate(self.operators):
            for weight in operator.weights:
                users.setdefault(weight, []).append(number)
        return tuple(
            tuple(sorted({number}.union(*(users[w] for w in operator.weights))))
            for number, operator in enumerate(self.operators)
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of all that a strategy depends on: names, signatures and edges."""
        digest = hashlib.sha256()
        for operator in self.operators:
            refs = [(ref.operator, ref.output) for ref in operator.inputs]
            digest.update(f"{operator.name}\0{operator.signature}\0{refs}\n".encode())
        return digest.hexdigest()[:16]

    def index(self, name: str) -> int:
        """Number of the operator called `name`."""
        for number, operator in enumerate(self.operators):
            if operator.name == name:
                return number
        known = ", ".join(operator.name for operator in self.operators[:8])
        raise CaptureError(f"Model {self.name!r} has no operator {name!r}. It has: {known}, …")
