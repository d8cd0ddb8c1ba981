"""The paper's benchmarks as operator graphs, without Keras: for planning and for its benchmarks.

1. Activations are part of the layer before them; there is no batch normalization or dropout.
2. Every model ends in its losses; inputs and targets are operators.
3. Sizes are those of the authors' public simulator; see `paper.md` of the design notes.
"""

import math
from collections.abc import Callable, Sequence

from keras_soap.graph.operator_graph import (
    Operator,
    OperatorGraph,
    TensorRef,
    TensorSpec,
    WeightSpec,
)


class Builder:
    """Adds operators one by one. A tensor is the number of the operator that makes it first."""

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

    def shape(self, x: int) -> tuple[int, ...]:
        return self.operators[x].output.shape

    def input(self, name: str, *shape: int, dtype: str = "float32") -> int:
        return self.add(name, "input", (), [TensorSpec((self.batch_size, *shape), dtype)])

    def conv(self, x: int, filters: int, size, strides: int = 1, padding: str = "same") -> int:
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

    def pool(self, x: int, size: int, strides: int, padding="valid", kind="max_pooling") -> int:
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

    def global_pool(self, x: int) -> int:
        batch, *_, channels = self.shape(x)
        return self.add("pool", "global_pooling", [x], [(batch, channels)], keepdims=False)

    def concat(self, xs: Sequence[int], axis: int = -1) -> int:
        shape = list(self.shape(xs[0]))
        shape[axis] = sum(self.shape(x)[axis] for x in xs)
        return self.add("concat", "concatenate", xs, [shape], axis=axis)

    def add_up(self, x: int, y: int) -> int:
        return self.add("add", "merging", [x, y], [self.shape(x)], trainable=True)

    def flatten(self, x: int) -> int:
        batch, *rest = self.shape(x)
        return self.add("flatten", "reshape", [x], [(batch, math.prod(rest))])

    def dense(self, x: int, units: int, activation: str = "linear", layer: str = "") -> int:
        *outer, features = self.shape(x)
        weights = [("kernel", (features, units)), ("bias", (units,))]
        return self.add(
            "dense", "dense", [x], [(*outer, units)], weights, layer, activation=activation
        )

    def loss(self, x: int) -> int:
        shape = self.shape(x)[:-1]
        target = self.input("target", *shape[1:], dtype="int32")
        return self.add("loss", "loss", [x, target], [shape], report_bytes=8)


def _window(space, size, strides: int, padding: str) -> list[int]:
    if padding == "same":
        return [-(-n // strides) for n in space]
    return [(n - k) // strides + 1 for n, k in zip(space, size, strict=True)]


def lenet(batch_size: int = 64) -> OperatorGraph:
    """LeNet-5 on 28×28 images."""
    b = Builder("lenet", batch_size)
    x = b.input("image", 28, 28, 1)
    x = b.pool(b.conv(x, 6, 5), 2, 2)
    x = b.pool(b.conv(x, 16, 5, padding="valid"), 2, 2)
    x = b.dense(b.dense(b.dense(b.flatten(x), 120, "relu"), 84, "relu"), 10)
    b.loss(x)
    return b.finish()


def alexnet(batch_size: int = 256) -> OperatorGraph:
    """AlexNet with one tower."""
    b = Builder("alexnet", batch_size)
    x = b.input("image", 224, 224, 3)
    x = b.pool(b.conv(x, 64, 11, 4), 3, 2)
    x = b.pool(b.conv(x, 192, 5), 3, 2)
    x = b.conv(b.conv(b.conv(x, 384, 3), 256, 3), 256, 3)
    x = b.flatten(b.pool(x, 3, 2))
    b.loss(b.dense(b.dense(b.dense(x, 4096, "relu"), 4096, "relu"), 1000))
    return b.finish()


def resnet101(batch_size: int = 64) -> OperatorGraph:
    """ResNet-101: bottlenecks of 3, 4, 23, 3."""
    b = Builder("resnet101", batch_size)
    x = b.pool(b.conv(b.input("image", 224, 224, 3), 64, 7, 2), 3, 2, "same")
    for stage, (filters, count) in enumerate(((64, 3), (128, 4), (256, 23), (512, 3))):
        for block in range(count):
            strides = 2 if stage and not block else 1
            y = b.conv(b.conv(b.conv(x, filters, 1, strides), filters, 3), 4 * filters, 1)
            x = b.add_up(y, x if block else b.conv(x, 4 * filters, 1, strides))
    b.loss(b.dense(b.global_pool(x), 1000))
    return b.finish()


def inception_v3(batch_size: int = 64) -> OperatorGraph:
    """Inception-v3: modules A32 A64 A64 B C128 C160 C160 C192 D E E."""
    b = Builder("inception_v3", batch_size)
    x = b.input("image", 299, 299, 3)
    x = b.conv(b.conv(x, 32, 3, 2, "valid"), 32, 3, padding="valid")
    x = b.pool(b.conv(x, 64, 3), 3, 2)
    x = b.pool(b.conv(b.conv(x, 80, 1, padding="valid"), 192, 3, padding="valid"), 3, 2)

    def average(x: int, filters: int) -> int:
        return b.conv(b.pool(x, 3, 1, "same", "average_pooling"), filters, 1)

    for filters in (32, 64, 64):
        third = b.conv(b.conv(b.conv(x, 64, 1), 96, 3), 96, 3)
        x = b.concat(
            [b.conv(x, 64, 1), b.conv(b.conv(x, 48, 1), 64, 5), third, average(x, filters)]
        )
    second = b.conv(b.conv(b.conv(x, 64, 1), 96, 3), 96, 3, 2, "valid")
    x = b.concat([b.conv(x, 384, 3, 2, "valid"), second, b.pool(x, 3, 2)])
    for filters in (128, 160, 160, 192):
        second = b.conv(b.conv(b.conv(x, filters, 1), filters, (1, 7)), 192, (7, 1))
        third = b.conv(b.conv(b.conv(x, filters, 1), filters, (7, 1)), filters, (1, 7))
        third = b.conv(b.conv(third, filters, (7, 1)), 192, (1, 7))
        x = b.concat([b.conv(x, 192, 1), second, third, average(x, 192)])
    first = b.conv(b.conv(x, 192, 1), 320, 3, 2, "valid")
    second = b.conv(b.conv(b.conv(x, 192, 1), 192, (1, 7)), 192, (7, 1))
    x = b.concat([first, b.conv(second, 192, 3, 2, "valid"), b.pool(x, 3, 2)])
    for _ in range(2):
        second, third = b.conv(x, 384, 1), b.conv(b.conv(x, 448, 1), 384, 3)
        pairs = [b.conv(y, 384, size) for y in (second, third) for size in ((1, 3), (3, 1))]
        x = b.concat([b.conv(x, 320, 1), *pairs, average(x, 192)])
    b.loss(b.dense(b.global_pool(x), 1000))
    return b.finish()


def _lstm(b: Builder, x: int, states: tuple, units: int, layer: str) -> tuple[int, tuple]:
    batch, length, features = b.shape(x)
    y = b.add(
        "lstm",
        "lstm",
        [x, *states],
        [(batch, length, units), (batch, units), (batch, units)],
        [
            ("kernel", (features, 4 * units)),
            ("recurrent_kernel", (units, 4 * units)),
            ("bias", (4 * units,)),
        ],
        layer,
    )
    return y, ((y, 1), (y, 2))


def _embed(b: Builder, length: int, vocabulary: int, units: int, layer: str) -> int:
    x = b.input("tokens", length, dtype="int32")
    table = [("embeddings", (vocabulary, units))]
    return b.add("embed", "embedding", [x], [(b.batch_size, length, units)], table, layer)


def rnnlm(
    batch_size: int = 64,
    steps: int = 40,
    block: int = 8,
    units: int = 2048,
    vocabulary: int = 10_000,
    num_layers: int = 2,
) -> OperatorGraph:
    """A language model: embedding, LSTM layers in blocks of steps, projection."""
    b = Builder("rnnlm", batch_size)
    states = [(b.input("h", units), b.input("c", units)) for _ in range(num_layers)]
    for _ in range(steps // block):
        x = _embed(b, block, vocabulary, units, "embed")
        for number in range(num_layers):
            x, states[number] = _lstm(b, x, states[number], units, f"lstm_{number}")
        b.loss(b.dense(x, vocabulary, layer="projection"))
    return b.finish()


def nmt(
    batch_size: int = 64,
    steps: int = 40,
    block: int = 8,
    units: int = 1024,
    vocabulary: int = 32_000,
    shares: bool = True,
) -> OperatorGraph:
    """Translation: 2 + 2 LSTM layers in blocks of steps, attention, projection.

    Args:
        batch_size: Samples in one step.
        steps: Length of both sentences.
        block: Steps in one operator.
        units: Of embeddings and LSTM layers.
        vocabulary: Of both languages.
        shares: Whether blocks of a layer are on the same weights, as they really are. The paper
            places them independently of each other.
    """
    b = Builder("nmt", batch_size)

    def layer(name: str, number: int) -> str:
        return name if shares else f"{name}_{number}"

    states = [(b.input("h", units), b.input("c", units)) for _ in range(2)]
    encoded = []
    for number in range(steps // block):
        x = _embed(b, block, vocabulary, units, layer("source", number))
        for of in range(2):
            x, states[of] = _lstm(b, x, states[of], units, layer(f"encoder_{of}", number))
        encoded.append(x)
    memory = b.concat(encoded, axis=1)
    for number in range(steps // block):
        x = _embed(b, block, vocabulary, units, layer("target", number))
        for of in range(2):
            x, states[of] = _lstm(b, x, states[of], units, layer(f"decoder_{of}", number))
        context = b.add("attention", "attention", [x, memory], [b.shape(x)])
        x = b.dense(b.concat([x, context]), units, "tanh", layer("mixing", number))
        b.loss(b.dense(x, vocabulary, layer=layer("projection", number)))
    return b.finish()


MODELS: dict[str, Callable[..., OperatorGraph]] = {
    make.__name__: make for make in (lenet, alexnet, resnet101, inception_v3, rnnlm, nmt)
}
