"""Small models of the kinds that people write, for `conformance.py` to train.

None draws random numbers, so that losses can be compared. What keras.io's examples do to data
before the model (looking up strings, crossing features, augmenting) is upstream of it there, and
not here.
"""

from typing import Any

import keras
from architecture import IMAGE, SERIES, STEPS, VOCABULARY, WORDS, Architecture
from hub_architectures import HUB_ARCHITECTURES
from keras import layers, ops
from keras_io_images import IMAGES
from keras_io_sequences import SEQUENCES
from keras_io_tables import TABLES


def unet() -> keras.Model:
    """Image segmentation with skips between contracting and expanding halves."""
    image = keras.Input(IMAGE[0])
    x = layers.Conv2D(8, 3, strides=2, padding="same")(image)
    x = layers.Activation("relu")(layers.BatchNormalization()(x))
    skips = []
    for filters in (12, 16):
        skips.append(x)
        x = layers.SeparableConv2D(filters, 3, padding="same")(x)
        x = layers.Activation("relu")(layers.BatchNormalization()(x))
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    for filters in (12, 8):
        x = layers.Conv2DTranspose(filters, 3, padding="same", activation="relu")(x)
        x = layers.UpSampling2D(2)(layers.BatchNormalization()(x))
        x = layers.Concatenate()([x, skips.pop()])
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    return keras.Model(image, layers.Conv2D(5, 3, padding="same", activation="softmax")(x))


def siamese() -> keras.Model:
    """Whether two images are of a kind: one tower for both, and a distance."""
    image = keras.Input(IMAGE[0])
    x = layers.Conv2D(4, 5, activation="tanh")(image)
    x = layers.AveragePooling2D(2)(x)
    x = layers.Flatten()(x)
    tower = keras.Model(image, layers.Dense(10, activation="tanh")(x), name="tower")
    left, right = keras.Input(IMAGE[0], name="left"), keras.Input(IMAGE[0], name="right")
    one, other = tower(left), tower(right)
    square = ops.sum(ops.square(one - other), axis=1, keepdims=True)
    distance = ops.sqrt(ops.maximum(square, keras.config.epsilon()))
    normal = layers.BatchNormalization()(distance)
    return keras.Model([left, right], layers.Dense(1, activation="sigmoid")(normal))


def autoencoder() -> keras.Model:
    """Images from a few numbers each."""
    image = keras.Input(IMAGE[0])
    x = layers.Conv2D(8, 3, activation="relu", padding="same")(image)
    x = layers.MaxPooling2D(2, padding="same")(x)
    x = layers.Dense(16)(layers.Flatten()(x))
    x = layers.Reshape((8, 8, 8))(layers.Dense(8 * 8 * 8, activation="relu")(x))
    x = layers.Conv2DTranspose(8, 3, strides=2, activation="relu", padding="same")(x)
    return keras.Model(image, layers.Conv2D(3, 3, padding="same")(x))


class TokenAndPositionEmbedding(layers.Layer):
    """Sum of two embeddings."""

    def __init__(self, steps: int, vocabulary: int, width: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.tokens = layers.Embedding(vocabulary, width)
        self.positions = layers.Embedding(steps, width)

    def call(self, x):
        return self.tokens(x) + self.positions(ops.arange(ops.shape(x)[-1]))


class LearnedPositions(layers.Layer):
    """Adds a weight of its own."""

    def build(self, shape):
        self.table = self.add_weight(shape=shape[1:], name="table")

    def call(self, x):
        return x + self.table


class TransformerBlock(layers.Layer):
    """Attention and two dense layers, each with a residual and a normalization."""

    def __init__(self, width: int, heads: int, inner: int, attention: Any = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.attention = attention or layers.MultiHeadAttention(heads, width // heads)
        self.dense = keras.Sequential([layers.Dense(inner, "gelu"), layers.Dense(width)])
        self.norms = [layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]
        self.dropouts = [layers.Dropout(0.0) for _ in range(2)]

    def call(self, x, training=None, causal=False):
        y = self.attention(x, x, use_causal_mask=causal)
        x = self.norms[0](x + self.dropouts[0](y, training=training))
        return self.norms[1](x + self.dropouts[1](self.dense(x), training=training))


def text_transformer(attention: Any = None) -> keras.Model:
    """A text classifier with a transformer block."""
    words = keras.Input(WORDS[0], dtype="int32")
    x = TokenAndPositionEmbedding(STEPS, VOCABULARY, 16)(words)
    x = TransformerBlock(16, 4, 32, attention)(x)
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.Dense(20, activation="relu")(x)
    return keras.Model(words, layers.Dense(5, activation="softmax")(x))


def grouped_query_transformer() -> keras.Model:
    """The same with fewer heads of keys and values."""
    return text_transformer(layers.GroupQueryAttention(4, 4, 2))


def language_model() -> keras.Model:
    """A causal one: a small GPT."""
    words = keras.Input(WORDS[0], dtype="int32")
    x = LearnedPositions()(layers.Embedding(VOCABULARY, 16)(words))
    for _ in range(2):
        x = TransformerBlock(16, 4, 32)(x, causal=True)
    return keras.Model(words, layers.Dense(VOCABULARY, activation="softmax")(x))


def tied_language_model() -> keras.Model:
    """The same with one table for words that are read and words that are predicted."""
    words = keras.Input(WORDS[0], dtype="int32")
    table = layers.ReversibleEmbedding(VOCABULARY, 16)
    x = TransformerBlock(16, 4, 32)(LearnedPositions()(table(words)), causal=True)
    return keras.Model(words, layers.Softmax()(table(x, reverse=True)))


class Mirrored(layers.Layer):
    """Goes back through a dense layer: by its kernel, transposed."""

    def __init__(self, dense: layers.Dense, **kwargs: Any):
        super().__init__(**kwargs)
        self.dense = dense

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.dense.kernel))


def tied_autoencoder() -> keras.Model:
    """An autoencoder whose decoder has the weights of its encoder."""
    series = keras.Input(SERIES[0])
    encoder = layers.Dense(8, "relu")
    x = Mirrored(encoder)(encoder(series))
    return keras.Model(series, x)


class Patches(layers.Layer):
    """Cuts images into squares."""

    def __init__(self, size: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.size = size

    def call(self, images):
        _, height, width, channels = images.shape
        across, down = width // self.size, height // self.size
        x = ops.image.extract_patches(images, size=self.size)
        return ops.reshape(x, (-1, across * down, self.size**2 * channels))


def vision_transformer() -> keras.Model:
    """A classifier of images that are sequences of patches."""
    image = keras.Input(IMAGE[0])
    x = LearnedPositions()(layers.Dense(16)(Patches(4)(image)))
    for _ in range(2):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = layers.Add()([layers.MultiHeadAttention(4, 4, dropout=0.0)(y, y), x])
        y = layers.Dense(32, activation="gelu")(layers.LayerNormalization(epsilon=1e-6)(x))
        x = layers.Add()([layers.Dense(16)(y), x])
    x = layers.Flatten()(layers.LayerNormalization(epsilon=1e-6)(x))
    return keras.Model(image, layers.Dense(5, activation="softmax")(x))


class Mixer(layers.Layer):
    """Dense layers along patches, then along channels."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.norm = layers.LayerNormalization()

    def build(self, shape):
        self.along_patches = layers.Dense(shape[1], activation="gelu")
        self.along_channels = keras.Sequential([layers.Dense(32, "gelu"), layers.Dense(shape[2])])
        self.along_patches.build((shape[0], shape[2], shape[1]))
        self.along_channels.build(shape)
        self.norm.build(shape)

    def call(self, x):
        y = ops.swapaxes(self.along_patches(ops.swapaxes(self.norm(x), 1, 2)), 1, 2)
        x = x + y
        return x + self.along_channels(self.norm(x))


def mixer() -> keras.Model:
    """An MLP-Mixer."""
    image = keras.Input(IMAGE[0])
    x = Mixer()(Mixer()(layers.Dense(16)(Patches(4)(image))))
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(image, layers.Dense(5, activation="softmax")(x))


def structured_data() -> keras.Model:
    """Numbers and categories, each embedded, joined and gated."""
    numbers = keras.Input((6,), name="numbers")
    kinds = [keras.Input((1,), name=name, dtype="int32") for name in ("work", "state")]
    parts = [layers.Flatten()(layers.Embedding(VOCABULARY, 4)(kind)) for kind in kinds]
    x = layers.Concatenate()([layers.Normalization(mean=0.1, variance=2.0)(numbers), *parts])
    for _ in range(2):
        gate = layers.Dense(14, activation="sigmoid")(x)
        x = layers.LayerNormalization()(layers.Dense(14, activation="elu")(x) * gate + x)
    inputs = {"numbers": numbers, "work": kinds[0], "state": kinds[1]}
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))


def time_series() -> keras.Model:
    """A forecast from convolutions and a GRU."""
    steps = keras.Input(SERIES[0])
    x = layers.Conv1D(8, 3, padding="causal", activation="relu")(steps)
    x = layers.MaxPooling1D(2)(x)
    x = layers.GRU(8, return_sequences=True)(x)
    return keras.Model(steps, layers.Dense(2)(layers.GRU(6)(x)))


def bidirectional() -> keras.Model:
    """Tags for steps, from two stacked recurrent layers in both directions."""
    words = keras.Input(WORDS[0], dtype="int32")
    x = layers.Embedding(VOCABULARY, 8)(words)
    x = layers.Bidirectional(layers.LSTM(6, return_sequences=True))(x)
    x = layers.Bidirectional(layers.GRU(4, return_sequences=True), merge_mode="sum")(x)
    return keras.Model(words, layers.TimeDistributed(layers.Dense(5, activation="softmax"))(x))


def masked_text() -> keras.Model:
    """Text of different lengths: 0 is padding."""
    words = keras.Input(WORDS[0], dtype="int32")
    x = layers.Embedding(VOCABULARY, 8, mask_zero=True)(words)
    x = layers.Bidirectional(layers.LSTM(6, return_sequences=True))(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(words, layers.Dense(5, activation="softmax")(x))


def video() -> keras.Model:
    """A convolution of every frame, then an LSTM over frames."""
    frames = keras.Input((4, 8, 8, 3))
    encoder = keras.Sequential(
        [layers.Conv2D(6, 3, activation="relu"), layers.MaxPooling2D(2), layers.Flatten()]
    )
    x = layers.LSTM(8)(layers.TimeDistributed(encoder)(frames))
    return keras.Model(frames, layers.Dense(5, activation="softmax")(x))


class ResidualBlock(layers.Layer):
    """Two convolutions, with normalization, and what came in."""

    def __init__(self, filters: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.convs = [layers.Conv2D(filters, 3, padding="same", use_bias=False) for _ in range(2)]
        self.norms = [layers.BatchNormalization() for _ in range(2)]

    def call(self, x, training=None):
        y = ops.relu(self.norms[0](self.convs[0](x), training=training))
        return ops.relu(self.norms[1](self.convs[1](y), training=training) + x)


class SubclassedResNet(keras.Model):
    """Written as a class, with layers in a list."""

    def __init__(self):
        super().__init__()
        self.stem = layers.Conv2D(8, 3, strides=2, padding="same")
        self.blocks = [ResidualBlock(8) for _ in range(2)]
        self.head = layers.Dense(5, activation="softmax")

    def call(self, inputs, training=None):
        x = self.stem(inputs["image"])
        for block in self.blocks:
            x = block(x, training=training)
        return self.head(ops.mean(x, axis=(1, 2)) * inputs["scale"])


class SubclassedTranslator(keras.Model):
    """Encoder and decoder with attention between them, on two inputs."""

    def __init__(self):
        super().__init__()
        self.source = TokenAndPositionEmbedding(STEPS, VOCABULARY, 16)
        self.target = TokenAndPositionEmbedding(STEPS, VOCABULARY, 16)
        self.encoder = TransformerBlock(16, 2, 24)
        self.decoder = TransformerBlock(16, 2, 24)
        self.between = layers.MultiHeadAttention(2, 8)
        self.words = layers.Dense(VOCABULARY, activation="softmax")

    def call(self, inputs):
        source, target = inputs
        known = self.encoder(self.source(source))
        x = self.decoder(self.target(target), causal=True)
        return self.words(x + self.between(x, known))


OWN_ARCHITECTURES: dict[str, Architecture] = {
    "unet": Architecture(unet, IMAGE, (16, 16)),
    "siamese": Architecture(siamese, [IMAGE, IMAGE], (1,), "binary_crossentropy"),
    "autoencoder": Architecture(autoencoder, IMAGE, (16, 16, 3), "mean_squared_error"),
    "text_transformer": Architecture(text_transformer, WORDS),
    "grouped_query_transformer": Architecture(grouped_query_transformer, WORDS),
    "language_model": Architecture(language_model, WORDS, (STEPS,), num_classes=VOCABULARY),
    "tied_language_model": Architecture(
        tied_language_model, WORDS, (STEPS,), num_classes=VOCABULARY
    ),
    "tied_autoencoder": Architecture(tied_autoencoder, SERIES, SERIES[0], "mean_squared_error"),
    "vision_transformer": Architecture(vision_transformer, IMAGE),
    "mixer": Architecture(mixer, IMAGE),
    "structured_data": Architecture(
        structured_data,
        {"numbers": ((6,), "float"), "work": ((1,), "int32"), "state": ((1,), "int32")},
        (1,),
        "binary_crossentropy",
    ),
    "time_series": Architecture(time_series, SERIES, (2,), "mean_squared_error"),
    "bidirectional": Architecture(bidirectional, WORDS, (STEPS,)),
    "masked_text": Architecture(masked_text, WORDS),
    "video": Architecture(video, ((4, 8, 8, 3), "float")),
    "subclassed_resnet": Architecture(SubclassedResNet, {"image": IMAGE, "scale": ((1,), "float")}),
    "subclassed_translator": Architecture(
        SubclassedTranslator, [WORDS, WORDS], (STEPS,), num_classes=VOCABULARY
    ),
}

KERAS_IO_ARCHITECTURES = {**IMAGES, **SEQUENCES, **TABLES}

ARCHITECTURES = {**OWN_ARCHITECTURES, **KERAS_IO_ARCHITECTURES, **HUB_ARCHITECTURES}
