"""Layers of layers and subclassed models train under strategies as Keras trains them."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_soap import SoapStrategy
from tests.runtime.strategies import NAMED, anything
from tests.runtime.subjects import (
    KNOWN,
    NUM_STEPS,
    Subject,
    assert_equal_training,
    lowering,
    train,
)

LENGTH, WIDTH, WORDS = 6, 8, 12


class Block(layers.Layer):
    """A causal transformer block with weights of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(2, 4, name="attention")
        self.dense = keras.Sequential(
            [layers.Dense(16, "relu", name="up"), layers.Dense(WIDTH, name="down")], name="dense"
        )
        self.norms = [layers.LayerNormalization(name=f"norm_{n}") for n in range(2)]

    def build(self, shape):
        self.positions = self.add_weight(shape=(LENGTH, WIDTH), name="positions")
        self.mixing = self.add_weight(shape=(WIDTH, WIDTH), name="mixing")

    def call(self, x, training=None):
        x = self.positions + ops.matmul(x, self.mixing)
        y = self.norms[0](x, training=training)
        x = x + self.attention(y, y, use_causal_mask=True)
        return x + self.dense(self.norms[1](x))


class Words(keras.Model):
    """A subclassed model of two inputs, which looks words up in one table for both."""

    def __init__(self):
        super().__init__(name="words")
        self.table = layers.Embedding(WORDS, WIDTH, name="table")
        self.block = Block(name="block")
        self.both = layers.Bidirectional(
            layers.LSTM(4, return_sequences=True, name="lstm"), name="both"
        )
        self.between = layers.MultiHeadAttention(2, 4, name="between")
        self.norm = layers.BatchNormalization(name="norm")
        self.out = layers.Dense(WORDS, name="out")

    def call(self, inputs, training=None):
        source = self.both(self.table(inputs["source"]))
        target = self.block(self.table(inputs["target"]), training=training)
        x = self.between(self.norm(target, training=training), source)
        return self.out(ops.mean(x[:, 1:], axis=1) + x[:, 0])


def build_words() -> keras.Model:
    model = Words()
    model({name: np.ones((1, LENGTH), "int32") for name in ("source", "target")})
    return model


def words(rng: np.random.Generator):
    x = {
        name: rng.integers(0, WORDS, (NUM_STEPS * 8, LENGTH)).astype("int32")
        for name in ("source", "target")
    }
    return x, rng.integers(0, WORDS, NUM_STEPS * 8)


def build_frames() -> keras.Model:
    """A convolution of every frame, and a length that the graph leaves open."""
    frames = keras.Input((None, 4, 4, 2), name="frames")
    y = layers.TimeDistributed(layers.Conv2D(4, 3, name="conv"), name="steps")(frames)
    y = layers.Reshape((-1, 16), name="flat")(y)
    y = layers.Dense(8, "tanh", name="inner")(y)
    y = ops.matmul(layers.Dot(-1, name="products")([y, y]), y)
    y = layers.EinsumDense("abc,cd->abd", (None, 5), bias_axes="d", name="out")(y)
    return keras.Model(frames, layers.GlobalAveragePooling1D(name="mean")(y), name="frames")


def frames(rng: np.random.Generator):
    x = rng.normal(size=(NUM_STEPS * 8, 4, 4, 4, 2)).astype("float32")
    return x, rng.integers(0, 5, NUM_STEPS * 8)


def compiled():
    return {
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
    }


# A bias of keys moves all scores of a query alike, and one before a batch normalization all that it
# centres: their gradients are zero.
KNOWN |= {
    "opened, words": Subject(build_words, compiled, words, noise=("key/bias", "down/bias")),
    "opened, frames": Subject(build_frames, compiled, frames),
}


@pytest.mark.parametrize(
    ("subject", "strategy"),
    [
        ("words", "S and P"),
        ("words", 1),
        ("frames", 3),
    ],
)
def test_what_is_opened_trains_as_in_keras(subject, strategy):
    subject = f"opened, {subject}"
    facts = lowering(subject)
    chosen = anything(facts, strategy) if isinstance(strategy, int) else NAMED[strategy](facts)
    assert_equal_training(subject, "sgd", train(KNOWN[subject], "sgd", chosen))


def test_heads_are_on_different_devices():
    facts = lowering("opened, words")
    config = NAMED["P"](facts).configs[facts.graph.index("block/attention/query")]
    trained = train(KNOWN["opened, words"], "sgd", NAMED["P"](facts))
    assert_equal_training("opened, words", "sgd", trained)
    assert trained.soap is not None
    layout = trained.soap.layouts["block/attention/query"]
    (kernel,) = (of for path, of in layout.items() if path.endswith("kernel"))
    assert config.num_parts == 4
    assert kernel.mesh.size == 4
    assert [kernel.num_shards(axis) for axis in range(3)] == [1, 2, 2]


def test_a_subclassed_model_is_searched_evaluated_and_used_under_its_strategy():
    subject = KNOWN["opened, words"]
    plain, model = subject.model("sgd"), subject.model("sgd")
    x, y, _ = subject.samples()
    # The last batch is smaller.
    part = ({name: values[:36] for name, values in x.items()}, y[:36])
    soap = SoapStrategy(search_budget_s=0.5, profile="analytic", verbose=0)
    logs = [
        m.fit(*part, batch_size=8, shuffle=False, validation_data=part, verbose=0, callbacks=c)
        for m, c in ((plain, []), (model, [soap]))
    ]
    for key, values in logs[0].history.items():
        np.testing.assert_allclose(logs[1].history[key], values, rtol=1e-5)
    for one, other in zip(plain.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)
    predicted = model.predict(part[0], batch_size=8, verbose=0, callbacks=[soap])
    np.testing.assert_allclose(predicted, plain.predict(part[0], verbose=0), rtol=1e-4, atol=1e-5)
