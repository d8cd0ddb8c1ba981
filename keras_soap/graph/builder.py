"""Makes operator graphs by hand, layer by layer, without Keras."""

import math
from collections.abc import Sequence

from keras_soap.graph.operator_graph import (
    INPUT,
    SPACE,
    Operator,
    OperatorGraph,
    TensorRef,
    TensorSpec,
    WeightSpec,
)

Tensor = int | tuple[int, int]
"""An operator's number, for its first output, or its number and that of the output."""


class Builder:
    """Adds operators one by one."""

    def __init__(self, name: str, batch_size: int):
        self.name, self.batch_size = name, batch_size
        self.operators: list[Operator] = []
        self.weights: list[WeightSpec] = []
        self._by_name: dict[str, int] = {}

    def add(self, name, kind, inputs, outputs, weights=(), layer="", **attributes) -> int:
        """Adds an operator.

        Args:
            name: Made unique.
            kind: Of its rule.
            inputs: Operator numbers, or pairs (operator, output).
            outputs: Shapes, or a `TensorSpec`.
            weights: Pairs (name, shape) of its trainable weights.
            layer: Whose weights they are; by default its own.
            attributes: As in `Operator`.
        """
        name = f"{name}_{len(self.operators)}"
        layer = layer or name
        refs = [TensorRef(*(x if isinstance(x, tuple) else (x,))) for x in inputs]
        numbers = []
        for weight, shape in weights:
            path = f"{layer}/{weight}"
            if path not in self._by_name:
                self._by_name[path] = len(self.weights)
                self.weights.append(WeightSpec(path, layer, tuple(shape), "float32", True))
            numbers.append(self._by_name[path])
        self.operators.append(
            Operator(
                name,
                kind,
                layer if weights else "",
                tuple(refs),
                tuple(self.operators[r.operator].output_specs[r.output] for r in refs),
                tuple(
                    x if isinstance(x, TensorSpec) else TensorSpec(tuple(x), "float32")
                    for x in outputs
                ),
                tuple(numbers),
                tuple(self.weights[number] for number in numbers),
                attributes,
            )
        )
        return len(self.operators) - 1

    def finish(self) -> OperatorGraph:
        return OperatorGraph(self.name, self.batch_size, tuple(self.operators), tuple(self.weights))

    def shape(self, x: Tensor) -> tuple[int, ...]:
        number, output = x if isinstance(x, tuple) else (x, 0)
        return self.operators[number].output_specs[output].shape

    def input(self, name: str, *shape: int, dtype: str = "float32") -> int:
        return self.add(name, INPUT, (), [TensorSpec((self.batch_size, *shape), dtype)])

    def conv(self, x: Tensor, filters: int, size, strides: int = 1, padding: str = "same") -> int:
        size = (size, size) if isinstance(size, int) else size
        batch, *space, channels = self.shape(x)
        space = _window(space, size, strides, padding)
        return self.add(
            "conv",
            "convolution",
            [x],
            [(batch, *space, filters)],
            [("kernel", (*size, channels, filters)), ("bias", (filters,))],
            kernel_size=list(size),
            strides=[strides, strides],
            padding=padding,
            activation="relu",
        )

    def pool(self, x: Tensor, size: int, strides: int, padding="valid", kind="max_pooling") -> int:
        batch, *space, channels = self.shape(x)
        space = _window(space, (size, size), strides, padding)
        return self.add(
            "pool",
            kind,
            [x],
            [(batch, *space, channels)],
            pool_size=[size, size],
            strides=[strides, strides],
            padding=padding,
        )

    def global_pool(self, x: Tensor) -> int:
        batch, *_, channels = self.shape(x)
        return self.add("pool", "global_pooling", [x], [(batch, channels)], keepdims=False)

    def concat(self, xs: Sequence[Tensor], axis: int = -1) -> int:
        shape = list(self.shape(xs[0]))
        shape[axis] = sum(self.shape(x)[axis] for x in xs)
        return self.add("concat", "concatenate", xs, [shape], axis=axis)

    def add_up(self, x: Tensor, y: Tensor) -> int:
        return self.add("add", "sum", [x, y], [self.shape(x)], trainable=True)

    def elementwise(self, xs: Sequence[Tensor], shape: Sequence[int]) -> int:
        return self.add("elementwise", "elementwise", xs, [shape])

    def reshape(self, x: Tensor, *shape: int) -> int:
        return self.add("reshape", "reshape", [x], [(self.batch_size, *shape)])

    def attend(self, x: Tensor, num_heads: int) -> int:
        """Attention of a sequence to itself, with projections, as MultiHeadAttention has them."""
        batch, length, units = self.shape(x)
        size = units // num_heads
        queries, keys, values = (
            self.add(
                "project",
                "einsum_dense",
                [x],
                [(batch, length, num_heads, size)],
                [("kernel", (units, num_heads, size)), ("bias", (num_heads, size))],
                equation="abc,cde->abde",
                output_shape=[None, num_heads, size],
            )
            for _ in range(3)
        )
        attended = self.add(
            "attend",
            "dot_product_attention",
            [queries, keys, values],
            [(batch, length, num_heads, size)],
            operands=[["input", 0], ["input", 1], ["input", 2]],
        )
        return self.add(
            "combine",
            "einsum_dense",
            [attended],
            [(batch, length, units)],
            [("kernel", (num_heads, size, units)), ("bias", (units,))],
            equation="abcd,cde->abe",
            output_shape=[None, units],
        )

    def flatten(self, x: Tensor) -> int:
        batch, *rest = self.shape(x)
        return self.add("flatten", "reshape", [x], [(batch, math.prod(rest))])

    def dense(self, x: Tensor, units: int, activation: str = "linear", layer: str = "") -> int:
        *outer, features = self.shape(x)
        weights = [("kernel", (features, units)), ("bias", (units,))]
        return self.add(
            "dense", "dense", [x], [(*outer, units)], weights, layer, activation=activation
        )

    def embed(self, x: Tensor, vocabulary: int, units: int, layer: str = "") -> Tensor:
        made = (*self.shape(x), units)
        outputs = [TensorSpec((*made, vocabulary), SPACE), made]
        table = [("embeddings", (vocabulary, units))]
        return self.add("embed", "embedding", [x], outputs, table, layer), 1

    def loss(self, x: Tensor) -> int:
        """The cross-entropy of a softmax over the last axis."""
        shape = self.shape(x)
        target = self.input("target", *shape[1:-1], dtype="int32")
        return self.add(
            "loss",
            "cross_entropy",
            [x, target],
            [shape],
            report_bytes=8,
            is_sparse=True,
            finds_classes=False,
        )


def _window(space, size, strides: int, padding: str) -> list[int]:
    if padding == "same":
        return [-(-n // strides) for n in space]
    return [(n - k) // strides + 1 for n, k in zip(space, size, strict=True)]
