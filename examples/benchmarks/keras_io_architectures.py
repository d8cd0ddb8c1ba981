"""Small models after the kinds that keras.io has examples of, for `conformance.py` to train.

What the examples do to data before the model (looking up strings, crossing features, augmenting)
is upstream of it there, and not here. None has dropout, so that losses can be compared.
"""

from typing import Any

import keras
from architecture import IMAGE, SERIES, STEPS, VOCABULARY, WORDS, Architecture
from keras import layers, ops


def _classes(x: Any) -> Any:
    return layers.Dense(5, activation="softmax")(x)


# Images.


def image_classifier() -> keras.Model:
    """A small Xception, from scratch."""
    image = keras.Input(IMAGE[0])
    x = layers.Rescaling(1.0 / 255)(image)
    x = layers.Conv2D(8, 3, strides=2, padding="same")(x)
    previous = x = layers.Activation("relu")(layers.BatchNormalization()(x))
    for filters in (12, 16):
        for _ in range(2):
            x = layers.Activation("relu")(x)
            x = layers.SeparableConv2D(filters, 3, padding="same")(x)
            x = layers.BatchNormalization()(x)
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
        residual = layers.Conv2D(filters, 1, strides=2, padding="same")(previous)
        previous = x = layers.add([x, residual])
    x = layers.Dropout(0.0)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, _classes(x))


def conv_mixer() -> keras.Model:
    """Depthwise and pointwise convolutions of patches."""
    image = keras.Input(IMAGE[0])
    x = layers.BatchNormalization()(layers.Activation("gelu")(layers.Conv2D(8, 2, 2)(image)))
    for _ in range(2):
        y = layers.Activation("gelu")(layers.DepthwiseConv2D(5, padding="same")(x))
        x = layers.Add()([layers.BatchNormalization()(y), x])
        x = layers.BatchNormalization()(layers.Activation("gelu")(layers.Conv2D(8, 1)(x)))
    return keras.Model(image, _classes(layers.GlobalAvgPool2D()(x)))


def deeplab() -> keras.Model:
    """Segmentation with dilated convolutions, and pooling of the whole image beside them."""
    image = keras.Input(IMAGE[0])
    x = layers.Conv2D(8, 3, 2, padding="same", activation="relu")(image)
    low = x
    x = layers.Conv2D(12, 3, 2, padding="same", activation="relu")(x)
    pooled = layers.AveragePooling2D(4)(x)
    pooled = layers.Conv2D(8, 1, activation="relu")(pooled)
    parts = [layers.UpSampling2D(4, interpolation="bilinear")(pooled)]
    for rate in (1, 2, 3):
        y = layers.Conv2D(8, 3, dilation_rate=rate, padding="same", use_bias=False)(x)
        parts.append(ops.nn.relu(layers.BatchNormalization()(y)))
    x = layers.UpSampling2D(2, interpolation="bilinear")(layers.Concatenate()(parts))
    x = layers.Concatenate()([x, layers.Conv2D(4, 1)(low)])
    x = layers.UpSampling2D(2, interpolation="bilinear")(layers.Conv2D(8, 3, padding="same")(x))
    return keras.Model(image, layers.Conv2D(5, 1, activation="softmax")(x))


class DepthToSpace(layers.Layer):
    """Channels become pixels."""

    def call(self, x):
        _, height, width, channels = x.shape
        x = ops.reshape(x, (-1, height, width, 2, 2, channels // 4))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, 2 * height, 2 * width, channels // 4))


def super_resolution() -> keras.Model:
    """Larger images, by channels that become pixels."""
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 5, activation="relu", padding="same")(image)
    x = layers.Conv2D(4, 3, activation="relu", padding="same")(x)
    return keras.Model(image, DepthToSpace()(layers.Conv2D(12, 3, padding="same")(x)))


class ShiftedWindows(layers.Layer):
    """Attention inside of windows of an image, which is rolled first: a block of a Swin."""

    def __init__(self, size: int, shift: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.size, self.shift = size, shift
        self.norms = [layers.LayerNormalization(epsilon=1e-5) for _ in range(2)]
        self.inner = keras.Sequential([layers.Dense(24, "gelu"), layers.Dense(12)])

    def build(self, shape):
        self.attention = layers.MultiHeadAttention(3, 4)
        window = (None, self.size**2, shape[-1])
        self.attention.build(window, window)
        for norm in self.norms:
            norm.build(shape)
        self.inner.build(shape)

    def call(self, x):
        _, height, width, channels = x.shape
        down, across, size = height // self.size, width // self.size, self.size
        y = ops.roll(self.norms[0](x), (-self.shift, -self.shift), axis=(1, 2))
        y = ops.reshape(y, (-1, down, size, across, size, channels))
        y = ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, size * size, channels))
        y = self.attention(y, y)
        y = ops.reshape(y, (-1, down, across, size, size, channels))
        y = ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, height, width, channels))
        x = x + ops.roll(y, (self.shift, self.shift), axis=(1, 2))
        return x + self.inner(self.norms[1](x))


def swin() -> keras.Model:
    """Attention in windows, twice, shifted in between."""
    image = keras.Input(IMAGE[0])
    x = layers.Conv2D(12, 2, 2)(image)
    x = ShiftedWindows(4, 2)(ShiftedWindows(4, 0)(x))
    return keras.Model(image, _classes(layers.GlobalAveragePooling2D()(x)))


def captcha() -> keras.Model:
    """Reads letters: convolutions, then an LSTM along the width; for the loss of CTC."""
    image = keras.Input((24, 8, 1))
    x = layers.Conv2D(6, 3, activation="relu", padding="same")(image)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Dense(8, activation="relu")(layers.Reshape((12, 24))(x))
    x = layers.Bidirectional(layers.LSTM(6, return_sequences=True))(x)
    return keras.Model(image, layers.Dense(7, activation="softmax")(x))


def point_net() -> keras.Model:
    """Classifies clouds of points, which it turns first."""
    points = keras.Input((16, 3))

    def block(x, filters):
        x = layers.Conv1D(filters, 1, padding="valid")(x)
        return layers.Activation("relu")(layers.BatchNormalization(momentum=0.0)(x))

    x = layers.GlobalMaxPooling1D()(block(block(points, 8), 12))
    x = layers.Dense(9, kernel_initializer="zeros", activity_regularizer="l2")(x)
    x = layers.Dot(axes=(2, 1))([points, layers.Reshape((3, 3))(x)])
    x = layers.GlobalMaxPooling1D()(block(block(x, 8), 16))
    return keras.Model(points, _classes(x))


# Text.


def text_convolutions() -> keras.Model:
    """A classifier of words by convolutions."""
    words = keras.Input(WORDS[0], dtype="int64")
    x = layers.Dropout(0.0)(layers.Embedding(VOCABULARY, 8)(words))
    for _ in range(2):
        x = layers.Conv1D(8, 3, padding="same", activation="relu", strides=2)(x)
    x = layers.Dense(8, activation="relu")(layers.GlobalMaxPooling1D()(x))
    return keras.Model(words, layers.Dense(1, activation="sigmoid", name="predictions")(x))


def sequence_to_sequence() -> keras.Model:
    """An LSTM that begins with the states of another."""
    source, target = keras.Input((STEPS, 6)), keras.Input((STEPS, 6))
    _, *states = layers.LSTM(8, return_state=True)(source)
    x, _, _ = layers.LSTM(8, return_sequences=True, return_state=True)(target, initial_state=states)
    return keras.Model([source, target], layers.Dense(6, activation="softmax")(x))


def addition() -> keras.Model:
    """Writes the sum of what it has read: a vector, repeated for each letter."""
    letters = keras.Input((STEPS, 6))
    x = layers.RepeatVector(4)(layers.LSTM(8)(letters))
    x = layers.LSTM(8, return_sequences=True)(x)
    return keras.Model(letters, layers.Dense(6, activation="softmax")(x))


def memory_network() -> keras.Model:
    """Answers questions about a story."""
    story, question = keras.Input(WORDS[0], dtype="int32"), keras.Input((4,), dtype="int32")
    remembered = layers.Embedding(VOCABULARY, 8)(story)
    answers = layers.Embedding(VOCABULARY, 4)(story)
    asked = layers.Embedding(VOCABULARY, 8)(question)
    match = layers.Activation("softmax")(layers.Dot(axes=(2, 2))([remembered, asked]))
    response = layers.Permute((2, 1))(layers.add([match, answers]))
    x = layers.LSTM(8)(layers.concatenate([response, asked]))
    return keras.Model([story, question], layers.Dense(VOCABULARY, activation="softmax")(x))


class Fourier(layers.Layer):
    """Mixes words and channels by a Fourier transform: a block of an FNet."""

    def __init__(self, width: int, inner: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.dense = keras.Sequential([layers.Dense(inner, "relu"), layers.Dense(width)])
        self.norms = [layers.LayerNormalization() for _ in range(2)]

    def call(self, x):
        mixed, _ = ops.fft2((x, ops.zeros_like(x)))
        x = self.norms[0](x + mixed)
        return self.norms[1](x + self.dense(x))


def fourier_text() -> keras.Model:
    """A classifier of words without attention."""
    words = keras.Input(WORDS[0], dtype="int32")
    x = Fourier(8, 16)(layers.Embedding(VOCABULARY, 8)(words))
    return keras.Model(words, _classes(layers.GlobalAveragePooling1D()(x)))


class GatedUnit(layers.Layer):
    """A dense layer along words gates half of the channels: a block of a gMLP."""

    def __init__(self, width: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.width = width

    def build(self, shape):
        self.expand = layers.Dense(2 * self.width, "gelu")
        self.along = layers.Dense(shape[1], bias_initializer="ones")
        self.shrink = layers.Dense(shape[2])
        self.norms = [layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]
        self.expand.build(shape)
        self.along.build((None, self.width, shape[1]))
        self.shrink.build((*shape[:2], self.width))
        self.norms[0].build(shape)
        self.norms[1].build((*shape[:2], self.width))

    def call(self, x):
        kept, gate = ops.split(self.expand(self.norms[0](x)), 2, axis=-1)
        gate = ops.transpose(self.norms[1](gate), (0, 2, 1))
        gate = ops.transpose(self.along(gate), (0, 2, 1))
        return x + self.shrink(kept * gate)


def gated_mlp() -> keras.Model:
    """Dense layers and gates along words."""
    words = keras.Input(WORDS[0], dtype="int32")
    x = GatedUnit(12)(GatedUnit(12)(layers.Embedding(VOCABULARY, 8)(words)))
    return keras.Model(words, _classes(layers.GlobalAveragePooling1D()(x)))


# Series.


def wavenet() -> keras.Model:
    """Causal convolutions that look back farther and farther, gated, with skips."""
    series = keras.Input((16, 2))
    x = layers.Conv1D(8, 1)(series)
    skips = []
    for rate in (1, 2, 4):
        y = layers.Conv1D(8, 2, padding="causal", dilation_rate=rate, activation="tanh")(x)
        gate = layers.Conv1D(8, 2, padding="causal", dilation_rate=rate, activation="sigmoid")(x)
        y = layers.Conv1D(8, 1)(layers.Multiply()([y, gate]))
        skips.append(y)
        x = layers.Add()([x, y])
    x = layers.Conv1D(8, 1, activation="relu")(layers.Activation("relu")(layers.Add()(skips)))
    return keras.Model(series, layers.Conv1D(1, 1)(x))


def series_convolutions() -> keras.Model:
    """Classifies series by convolutions alone."""
    series = keras.Input(SERIES[0])
    x = series
    for _ in range(3):
        x = layers.Conv1D(8, 3, padding="same")(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(series, _classes(layers.GlobalAveragePooling1D()(x)))


def series_transformer() -> keras.Model:
    """Classifies series by attention; pools what other models call channels."""
    series = keras.Input(SERIES[0])
    x = series
    for _ in range(2):
        y = layers.MultiHeadAttention(key_dim=4, num_heads=2, dropout=0.0)(x, x)
        y = x = layers.LayerNormalization(epsilon=1e-6)(y) + x
        y = layers.Conv1D(filters=8, kernel_size=1, activation="relu")(y)
        y = layers.Conv1D(filters=SERIES[0][-1], kernel_size=1)(y)
        x = layers.LayerNormalization(epsilon=1e-6)(y) + x
    x = layers.GlobalAveragePooling1D(data_format="channels_last")(x)
    return keras.Model(series, _classes(layers.Dense(8, activation="relu")(x)))


def next_frames() -> keras.Model:
    """Foretells frames of a film by convolutional LSTMs."""
    frames = keras.Input((4, 8, 8, 1))
    x = layers.ConvLSTM2D(4, 3, padding="same", return_sequences=True)(frames)
    x = layers.ConvLSTM2D(4, 3, padding="same", return_sequences=True)(
        layers.BatchNormalization()(x)
    )
    return keras.Model(frames, layers.Conv3D(1, 3, activation="sigmoid", padding="same")(x))


# Tables.


def categories() -> keras.Model:
    """Whole numbers, one-hot inside of the model, joined with numbers that it normalizes."""
    numbers, kind = keras.Input((6,), name="numbers"), keras.Input((1,), name="kind", dtype="int32")
    coded = layers.CategoryEncoding(VOCABULARY, output_mode="one_hot")(kind)
    scaled = layers.Normalization(mean=[0.1] * 6, variance=[2.0] * 6)(numbers)
    x = layers.Dense(16, activation="relu")(layers.concatenate([scaled, coded]))
    inputs = {"numbers": numbers, "kind": kind}
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid")(layers.Dropout(0.0)(x)))


def deep_and_cross() -> keras.Model:
    """Products of features beside dense layers."""
    features = keras.Input((12,))
    cross = layers.BatchNormalization()(features)
    first = cross
    for _ in range(2):
        cross = first * layers.Dense(12)(cross) + cross
    deep = features
    for _ in range(2):
        deep = layers.ReLU()(layers.BatchNormalization()(layers.Dense(8)(deep)))
    return keras.Model(features, _classes(layers.concatenate([cross, deep])))


class VariableSelection(layers.Layer):
    """Gated residual networks weigh features: a stack of them by a softmax."""

    def __init__(self, units: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shapes):
        self.networks = [GatedResidual(self.units) for _ in shapes]
        self.joint = GatedResidual(self.units)
        self.weigh = layers.Dense(len(shapes), activation="softmax")
        for network, shape in zip(self.networks, shapes, strict=True):
            network.build(shape)
        total = (shapes[0][0], sum(shape[-1] for shape in shapes))
        self.joint.build(total)
        self.weigh.build((shapes[0][0], self.units))

    def call(self, inputs):
        weights = self.weigh(self.joint(ops.concatenate(inputs, axis=-1)))
        made = [network(x) for network, x in zip(self.networks, inputs, strict=True)]
        stack = ops.stack(made, axis=1)
        return ops.squeeze(ops.matmul(ops.expand_dims(weights, 1), stack), axis=1)


class GatedResidual(layers.Layer):
    """A dense network that a gate lets through."""

    def __init__(self, units: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.elu, self.linear = layers.Dense(self.units, "elu"), layers.Dense(self.units)
        self.gate, self.gated = layers.Dense(self.units, "sigmoid"), layers.Dense(self.units)
        self.project, self.norm = layers.Dense(self.units), layers.LayerNormalization()
        for layer, width in (
            (self.elu, shape[-1]),
            *[(layer, self.units) for layer in (self.linear, self.gate, self.gated, self.norm)],
            (self.project, shape[-1]),
        ):
            layer.build((*shape[:-1], width))

    def call(self, x):
        y = self.linear(self.elu(x))
        return self.norm(self.project(x) + self.gated(y) * self.gate(y))


def variable_selection() -> keras.Model:
    """Features that a network chooses from."""
    features = [keras.Input((width,)) for width in (4, 6, 8)]
    x = GatedResidual(8)(VariableSelection(8)(features))
    return keras.Model(features, layers.Dense(1, activation="sigmoid")(x))


def tab_transformer() -> keras.Model:
    """Attention among the categories of a row."""
    kinds = [keras.Input((1,), dtype="int32") for _ in range(4)]
    x = ops.stack([layers.Embedding(VOCABULARY, 8)(kind)[:, 0] for kind in kinds], axis=1)
    x = x + layers.Embedding(4, 8)(ops.arange(4))
    for _ in range(2):
        y = layers.MultiHeadAttention(2, 8)(x, x)
        x = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([y, x]))
        y = layers.Dense(8, activation="gelu")(x)
        x = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([y, x]))
    return keras.Model(kinds, layers.Dense(1, activation="sigmoid")(layers.Flatten()(x)))


class Recommender(keras.Model):
    """Users and films by embeddings; one number for the whole batch is added to each."""

    def __init__(self):
        super().__init__()
        self.users, self.films = (layers.Embedding(VOCABULARY, 8) for _ in range(2))
        self.user_bias, self.film_bias = (layers.Embedding(VOCABULARY, 1) for _ in range(2))

    def call(self, inputs):
        user, film = self.users(inputs[:, 0]), self.films(inputs[:, 1])
        shared = ops.tensordot(user, film, 2)
        return ops.sigmoid(shared + self.user_bias(inputs[:, 0]) + self.film_bias(inputs[:, 1]))


class BagOfInstances(keras.Model):
    """Classifies bags of pictures: one tower for all, and attention among them."""

    def __init__(self):
        super().__init__()
        self.flatten = layers.Flatten()
        self.tower = keras.Sequential([layers.Dense(16, "relu"), layers.Dense(8, "relu")])
        self.score, self.gate = layers.Dense(6, "tanh"), layers.Dense(6, "sigmoid")
        self.weigh, self.head = layers.Dense(1), layers.Dense(5, activation="softmax")

    def call(self, inputs):
        made = [self.tower(self.flatten(x)) for x in inputs]
        scores = [self.weigh(self.score(x) * self.gate(x)) for x in made]
        weights = ops.split(ops.softmax(ops.stack(scores), axis=0), len(made), axis=0)
        weighed = [ops.squeeze(weight, 0) * x for weight, x in zip(weights, made, strict=True)]
        return self.head(layers.concatenate(weighed))


_ROW = ((1,), "int32")

KERAS_IO_ARCHITECTURES: dict[str, Architecture] = {
    "image_classifier": Architecture(image_classifier, IMAGE),
    "conv_mixer": Architecture(conv_mixer, IMAGE),
    "deeplab": Architecture(deeplab, IMAGE, (16, 16)),
    "super_resolution": Architecture(
        super_resolution, ((8, 8, 1), "float"), (16, 16, 3), "mean_squared_error"
    ),
    "swin": Architecture(swin, IMAGE),
    "captcha": Architecture(captcha, ((24, 8, 1), "float"), (3,), "ctc", num_classes=7),
    "point_net": Architecture(point_net, ((16, 3), "float")),
    "text_convolutions": Architecture(text_convolutions, WORDS, (1,), "binary_crossentropy"),
    "sequence_to_sequence": Architecture(
        sequence_to_sequence, [((STEPS, 6), "float")] * 2, (STEPS,), num_classes=6
    ),
    "addition": Architecture(addition, ((STEPS, 6), "float"), (4,), num_classes=6),
    "memory_network": Architecture(
        memory_network, [WORDS, ((4,), "int32")], num_classes=VOCABULARY
    ),
    "fourier_text": Architecture(fourier_text, WORDS),
    "gated_mlp": Architecture(gated_mlp, WORDS),
    "wavenet": Architecture(wavenet, ((16, 2), "float"), (16, 1), "mean_squared_error"),
    "series_convolutions": Architecture(series_convolutions, SERIES),
    "series_transformer": Architecture(series_transformer, SERIES),
    "next_frames": Architecture(
        next_frames, ((4, 8, 8, 1), "float"), (4, 8, 8, 1), "binary_crossentropy"
    ),
    "categories": Architecture(
        categories, {"numbers": ((6,), "float"), "kind": _ROW}, (1,), "binary_crossentropy"
    ),
    "deep_and_cross": Architecture(deep_and_cross, ((12,), "float")),
    "variable_selection": Architecture(
        variable_selection, [((n,), "float") for n in (4, 6, 8)], (1,), "binary_crossentropy"
    ),
    "tab_transformer": Architecture(tab_transformer, [_ROW] * 4, (1,), "binary_crossentropy"),
    "recommender": Architecture(Recommender, ((2,), "int32"), (1,), "binary_crossentropy"),
    "bag_of_instances": Architecture(BagOfInstances, [IMAGE] * 3),
}
