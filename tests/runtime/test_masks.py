"""Masks reach the layers that read them, whatever devices these are on."""

from collections.abc import Callable

import keras
import numpy as np
import pytest
from keras import layers

from tests.runtime.strategies import NAMED, anything
from tests.runtime.subjects import (
    KNOWN,
    NUM_STEPS,
    Subject,
    assert_equal_training,
    lowering,
    train,
)


def words(rng: np.random.Generator):
    x = rng.integers(1, 12, (NUM_STEPS * 8, 6)).astype("int32")
    x[np.arange(6) >= rng.integers(1, 7, len(x))[:, None]] = 0
    return x, rng.integers(0, 2, (len(x), 1)).astype("float32")


def steps(rng: np.random.Generator):
    x, y = words(rng)
    return rng.normal(size=(*x.shape, 3)).astype("float32") * (x != 0)[..., None], y


def text_model(after: Callable) -> Callable[[], keras.Model]:
    def build() -> keras.Model:
        x = keras.Input((6,), dtype="int32", name="words")
        y = layers.Embedding(12, 8, mask_zero=True, name="table")(x)
        y = layers.Dense(8, "tanh", name="inner", use_bias=False)(y)
        return keras.Model(x, layers.Dense(1, "sigmoid", name="liked")(after(y)), name="masked")

    return build


def step_model() -> keras.Model:
    x = keras.Input((6, 3), name="steps")
    y = layers.Masking(name="masking")(x)
    y = layers.GRU(8, return_sequences=True, name="gru")(y)
    y = layers.BatchNormalization(name="norm")(y)
    y = layers.Bidirectional(layers.LSTM(4, name="one"), name="both")(y)
    return keras.Model(x, layers.Dense(1, "sigmoid", name="liked")(y), name="masked")


def of_two(y):
    z = layers.SimpleRNN(8, return_sequences=True, name="rnn")(y)
    y = layers.Concatenate(name="join")([layers.Add(name="sum")([y, z]), z])
    return layers.GlobalAveragePooling1D(name="mean")(y)


def attention(y):
    # Without biases: that of the keys has no gradient, but for what rounding leaves of it.
    y = layers.MultiHeadAttention(2, 4, use_bias=False, name="heads")(y, y)
    y = layers.Multiply(name="product")([y, layers.Dense(8, name="gate")(y)])
    nested = keras.Sequential([layers.GRU(8, name="gru")], name="nested")
    return nested(y)


class Encoder(layers.Layer):
    """As in keras.io's translation example: attention finds masks and is handed one."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.heads = layers.MultiHeadAttention(2, 4, use_bias=False, name="heads")
        self.inner = layers.Dense(8, "tanh", use_bias=False, name="hidden")
        self.supports_masking = True

    def call(self, x, mask=None):
        padding = keras.ops.cast(mask[:, None, :], "int32")
        x = x + self.heads(query=x, value=x, key=x, attention_mask=padding)
        return x + self.inner(x)


AFTER = {
    "attention": attention,
    "encoder": lambda y: layers.GRU(8, name="gru")(Encoder(name="encoder")(y)),
    "lstm": lambda y: layers.LSTM(8, name="lstm")(y),
    "mean": lambda y: layers.GlobalAveragePooling1D(name="mean")(
        layers.LayerNormalization(name="norm")(y)
    ),
    "merged": of_two,
    "lost": lambda y: layers.Flatten(name="flat")(y),
}


def each_step(last: Callable, recurrent: bool = False) -> Callable[[], keras.Model]:
    """A prediction for each word: its mask is for the loss."""

    def build() -> keras.Model:
        x = keras.Input((6,), dtype="int32", name="words")
        y = layers.Embedding(12, 8, mask_zero=True, name="table")(x)
        if recurrent:
            y = layers.SimpleRNN(8, return_sequences=True, name="rnn")(y)
        return keras.Model(x, last(y), name="masked")

    return build


def tagged_words(rng: np.random.Generator):
    x, _ = words(rng)
    return x, rng.integers(0, 8, x.shape)


def weighted_words(rng: np.random.Generator):
    x, y = tagged_words(rng)
    return x, y, rng.uniform(0.5, 2, x.shape).astype("float32")


def valued_words(rng: np.random.Generator):
    x, _ = words(rng)
    return x, rng.normal(size=(*x.shape, 4)).astype("float32")


def tags(activation="softmax"):
    return lambda y: layers.Dense(8, activation, name="tag")(y)


def of_tags(loss="sparse_categorical_crossentropy", **more):
    # Top k needs whole predictions.
    top = keras.metrics.SparseTopKCategoricalAccuracy(2)
    return {"loss": loss, "metrics": ["accuracy", top], **more}


def masked_mean():
    loss = keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight")
    return of_tags(loss, weighted_metrics=["accuracy"])


OF_EACH_STEP = {
    "tags": Subject(each_step(tags()), of_tags, tagged_words),
    "weighted tags": Subject(each_step(tags()), masked_mean, weighted_words),
    "tags in blocks": Subject(each_step(tags(), True), of_tags, tagged_words, time_chunk=2),
    "tags left out": Subject(
        each_step(tags(None)),
        lambda: of_tags(keras.losses.SparseCategoricalCrossentropy(True, ignore_class=3)),
        tagged_words,
    ),
    "values": Subject(
        each_step(lambda y: layers.Dense(4, name="value")(y)),
        lambda: {"loss": "mse", "metrics": ["mae"]},
        valued_words,
    ),
    "summed values": Subject(
        each_step(lambda y: layers.Dense(4, name="value")(y)),
        lambda: {"loss": keras.losses.MeanSquaredError(reduction="sum")},
        valued_words,
    ),
}
COMPILE = {"loss": "binary_crossentropy", "metrics": ["accuracy"]}
KNOWN |= {
    f"masks, {name}": Subject(text_model(after), lambda: COMPILE, words)
    for name, after in AFTER.items()
} | {
    "masks, steps": Subject(step_model, lambda: COMPILE, steps),
    "masks, blocks": Subject(text_model(AFTER["lstm"]), lambda: COMPILE, words, time_chunk=2),
}
KNOWN |= {f"masks, {name}": subject for name, subject in OF_EACH_STEP.items()}


@pytest.mark.parametrize(
    ("subject", "strategy", "optimizer"),
    [
        ("lstm", "P", "sgd"),
        ("lstm", "S and P", "sgd"),
        ("lstm", "O, overlapping", "adam"),
        ("mean", "anything", "adam"),
        ("merged", "S and P", "sgd"),
        ("merged", "O", "adam"),
        ("lost", "S and P", "sgd"),
        ("attention", "S and P", "sgd"),
        ("attention", "anything", "sgd"),
        ("encoder", "anything", "sgd"),
        ("steps", "three devices", "sgd"),
        ("blocks", "S and P", "sgd"),
        ("tags", "vocabulary", "adam"),
        ("weighted tags", "S and vocabulary", "sgd"),
        ("tags in blocks", "S and vocabulary", "sgd"),
        ("tags left out", "S and vocabulary", "sgd"),
        ("values", "S and P", "sgd"),
        ("summed values", "anything", "sgd"),
    ],
)
def test_masks_train_as_in_keras(subject, strategy, optimizer):
    subject = f"masks, {subject}"
    facts = lowering(subject)
    chosen = NAMED[strategy](facts) if strategy in NAMED else anything(facts, seed=2)
    assert_equal_training(subject, optimizer, train(KNOWN[subject], optimizer, chosen))
