"""Small models after keras.io's examples of text and series, for `conformance.py` to train."""

from typing import Any

import keras
from architecture import SERIES, STEPS, VOCABULARY, WORDS, Architecture, classified
from keras import layers, ops


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
    return keras.Model(words, classified(layers.GlobalAveragePooling1D()(x)))


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
    return keras.Model(words, classified(layers.GlobalAveragePooling1D()(x)))


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
    return keras.Model(series, classified(layers.GlobalAveragePooling1D()(x)))


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
    return keras.Model(series, classified(layers.Dense(8, activation="relu")(x)))


def next_frames() -> keras.Model:
    """Foretells frames of a film by convolutional LSTMs."""
    frames = keras.Input((4, 8, 8, 1))
    x = layers.ConvLSTM2D(4, 3, padding="same", return_sequences=True)(frames)
    x = layers.ConvLSTM2D(4, 3, padding="same", return_sequences=True)(
        layers.BatchNormalization()(x)
    )
    return keras.Model(frames, layers.Conv3D(1, 3, activation="sigmoid", padding="same")(x))


def series_autoencoder() -> keras.Model:
    """Makes series again from fewer steps, by transposed convolutions: finds what is unusual."""
    series = keras.Input((16, 2))
    x = layers.Conv1D(8, 5, padding="same", strides=2, activation="relu")(series)
    x = layers.Conv1D(4, 5, padding="same", strides=2, activation="relu")(layers.Dropout(0.0)(x))
    x = layers.Conv1DTranspose(4, 5, padding="same", strides=2, activation="relu")(x)
    x = layers.Conv1DTranspose(8, 5, padding="same", strides=2, activation="relu")(x)
    return keras.Model(series, layers.Conv1DTranspose(2, 5, padding="same")(x))


def speech() -> keras.Model:
    """Writes down what is said, from spectrograms: DeepSpeech2, for the loss of CTC."""
    spectrogram = keras.Input((16, 9))
    x = layers.Reshape((-1, 9, 1))(spectrogram)
    for kernel in ((5, 3), (3, 3)):
        x = layers.Conv2D(4, kernel, strides=(1, 2), padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Reshape((-1, x.shape[-2] * x.shape[-1]))(x)
    for _ in range(2):
        x = layers.Bidirectional(layers.GRU(6, return_sequences=True, reset_after=True))(x)
        x = layers.Dropout(0.0)(x)
    x = layers.Dropout(0.0)(layers.ReLU()(layers.Dense(12)(x)))
    return keras.Model(spectrogram, layers.Dense(7, activation="softmax")(x))


SEQUENCES: dict[str, Architecture] = {
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
    "series_autoencoder": Architecture(
        series_autoencoder, ((16, 2), "float"), (16, 2), "mean_squared_error"
    ),
    "speech": Architecture(speech, ((16, 9), "float"), (3,), "ctc", num_classes=7),
}
