"""The paper's benchmarks as operator graphs, without Keras: for planning and for its benchmarks.

1. Activations are part of the layer before them; there is no batch normalization or dropout.
2. Every model ends in its losses; inputs and targets are operators.
3. Sizes are those of the authors' public simulator; see `paper.md` of the design notes.
"""

from collections.abc import Callable

from keras_soap.errors import CaptureError
from keras_soap.graph.builder import Builder, Tensor
from keras_soap.graph.operator_graph import OperatorGraph


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


def _check_blocks(steps: int, block: int) -> None:
    if block < 1 or steps < 1 or steps % block:
        fits = [size for size in range(1, min(block, steps) + 1) if steps % size == 0]
        raise CaptureError(
            f"Cannot cut {steps} steps into blocks of {block}. Use a divisor of the steps"
            + (f", such as {fits[-1]}." if fits else ".")
        )


def _lstm(b: Builder, x: Tensor, states: tuple, units: int, layer: str) -> tuple[int, tuple]:
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


def rnntc(
    batch_size: int = 64,
    steps: int = 40,
    block: int = 8,
    units: int = 1024,
    vocabulary: int = 10_000,
    num_layers: int = 4,
    classes: int = 2,
) -> OperatorGraph:
    """A classifier of texts: embedding, LSTM layers in blocks of steps, and what the last says."""
    _check_blocks(steps, block)
    b = Builder("rnntc", batch_size)
    states = [(b.input("h", units), b.input("c", units)) for _ in range(num_layers)]
    for _ in range(steps // block):
        x = b.embed(b.input("tokens", block, dtype="int32"), vocabulary, units, "embed")
        for number in range(num_layers):
            x, states[number] = _lstm(b, x, states[number], units, f"lstm_{number}")
    b.loss(b.dense(states[-1][0], classes, layer="classes"))
    return b.finish()


def rnnlm(
    batch_size: int = 64,
    steps: int = 40,
    block: int = 8,
    units: int = 2048,
    vocabulary: int = 10_000,
    num_layers: int = 2,
) -> OperatorGraph:
    """A language model: embedding, LSTM layers in blocks of steps, projection."""
    _check_blocks(steps, block)
    b = Builder("rnnlm", batch_size)
    states = [(b.input("h", units), b.input("c", units)) for _ in range(num_layers)]
    for _ in range(steps // block):
        x = b.embed(b.input("tokens", block, dtype="int32"), vocabulary, units, "embed")
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
    _check_blocks(steps, block)
    b = Builder("nmt", batch_size)

    def layer(name: str, number: int) -> str:
        return name if shares else f"{name}_{number}"

    states = [(b.input("h", units), b.input("c", units)) for _ in range(2)]
    encoded = []
    for number in range(steps // block):
        x = b.embed(
            b.input("tokens", block, dtype="int32"), vocabulary, units, layer("source", number)
        )
        for of in range(2):
            x, states[of] = _lstm(b, x, states[of], units, layer(f"encoder_{of}", number))
        encoded.append(x)
    memory = b.concat(encoded, axis=1)
    for number in range(steps // block):
        x = b.embed(
            b.input("tokens", block, dtype="int32"), vocabulary, units, layer("target", number)
        )
        for of in range(2):
            x, states[of] = _lstm(b, x, states[of], units, layer(f"decoder_{of}", number))
        context = b.add("attention", "attention", [x, memory], [b.shape(x)])
        x = b.dense(b.concat([x, context]), units, "tanh", layer("mixing", number))
        b.loss(b.dense(x, vocabulary, layer=layer("projection", number)))
    return b.finish()


def dit(
    batch_size: int = 64,
    image_size: int = 32,
    channels: int = 4,
    patch: int = 2,
    units: int = 1152,
    num_heads: int = 16,
    num_layers: int = 28,
    classes: int = 1000,
) -> OperatorGraph:
    """A diffusion transformer, by default DiT-XL/2 (W. Peebles, S. Xie, arXiv 2212.09748)."""
    b = Builder("dit", batch_size)
    image = b.input("image", image_size, image_size, channels)
    target = b.input("target", image_size, image_size, channels)
    time = b.input("time", units)
    label = b.embed(b.input("label", dtype="int32"), classes, units)
    time = b.dense(b.dense(time, units, "silu"), units)
    condition = b.elementwise([time, label], b.shape(time))
    x = b.conv(image, units, patch, patch)
    x = b.reshape(x, (image_size // patch) ** 2, units)

    def modulations(count: int) -> list[int]:
        return [b.reshape(b.dense(condition, units), 1, units) for _ in range(count)]

    def modulated(x: Tensor) -> int:
        y = b.add("normalize", "layer_normalization", [x], [b.shape(x)], axis=-1)
        return b.elementwise([y, *modulations(2)], b.shape(x))

    for _ in range(num_layers):
        y = b.attend(modulated(x), num_heads)
        x = b.elementwise([x, y, *modulations(1)], b.shape(x))
        y = b.dense(b.dense(modulated(x), 4 * units, "gelu"), units)
        x = b.elementwise([x, y, *modulations(1)], b.shape(x))
    x = b.dense(modulated(x), patch * patch * channels)
    side = image_size // patch
    # (side, side, patch · patch · channels) in the order of the image: rows of patches first.
    x = b.reshape(x, side, side, patch, patch, channels)
    shape = (batch_size, side, patch, side, patch, channels)
    x = b.add("permute", "permute", [x], [shape], dims=[1, 3, 2, 4, 5])
    x = b.reshape(x, image_size, image_size, channels)
    b.add("loss", "loss", [x, target], [b.shape(x)[:-1]], report_bytes=8)
    return b.finish()


PAPER: dict[str, Callable[..., OperatorGraph]] = {
    make.__name__: make for make in (alexnet, inception_v3, resnet101, rnntc, rnnlm, nmt)
}
"""The paper's benchmarks, at its sizes."""

MODELS: dict[str, Callable[..., OperatorGraph]] = {"lenet": lenet, **PAPER, "dit": dit}
