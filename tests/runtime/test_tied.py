"""Tables that are read forwards and backwards: embedding and projection are one weight."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.runtime.strategies import NAMED, anything
from tests.runtime.subjects import (
    KNOWN,
    NUM_STEPS,
    Subject,
    assert_equal_training,
    lowering,
    train,
)

NUM_WORDS = 24


def reversible() -> keras.Model:
    words = keras.Input((6,), dtype="int32", name="words")
    table = layers.ReversibleEmbedding(NUM_WORDS, 8, name="table")
    x = layers.Dense(8, "tanh", name="inner")(table(words))
    logits = table(x, reverse=True)
    return keras.Model(words, layers.Softmax(name="next")(logits), name="tied")


def untied() -> keras.Model:
    words = keras.Input((6,), dtype="int32", name="words")
    table = layers.ReversibleEmbedding(NUM_WORDS, 8, tie_weights=False, name="table")
    x = layers.Dense(8, "tanh", name="inner")(table(words))
    return keras.Model(words, layers.Softmax(name="next")(table(x, reverse=True)), name="tied")


@keras.saving.register_keras_serializable()
class Language(keras.Model):
    """Multiplies by the table of an embedding, transposed."""

    def __init__(self):
        super().__init__(name="tied")
        self.table = layers.Embedding(NUM_WORDS, 8, name="table")
        self.inner = layers.Dense(8, "tanh", name="inner")

    def call(self, words):
        x = self.inner(self.table(words))
        return ops.softmax(ops.matmul(x, ops.transpose(self.table.embeddings)))


@keras.saving.register_keras_serializable()
class Projection(layers.Layer):
    """Projects onto the table of an embedding, and adds a bias of its own."""

    def __init__(self, table, **kwargs):
        super().__init__(**kwargs)
        self.table = table

    def build(self, shape):
        self.bias = self.add_weight(shape=(NUM_WORDS,), name="bias")

    def call(self, x):
        return ops.einsum("btd,wd->btw", x, self.table.embeddings) + self.bias


def projected() -> keras.Model:
    words = keras.Input((6,), dtype="int32", name="words")
    table = layers.Embedding(NUM_WORDS, 8, name="table")
    x = layers.Dense(8, "tanh", name="inner")(table(words))
    logits = Projection(table, name="projection")(x)
    return keras.Model(words, layers.Softmax(name="next")(logits), name="tied")


def data(rng: np.random.Generator):
    words = rng.integers(0, NUM_WORDS, (NUM_STEPS * 8, 7)).astype("int32")
    return words[:, :-1], words[:, 1:]


COMPILE = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
MODELS = {
    "reversible": reversible,
    "untied": untied,
    "transposed": Language,
    "projected": projected,
}
KNOWN |= {f"tied, {name}": Subject(build, lambda: COMPILE, data) for name, build in MODELS.items()}


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("strategy", ["S", "P", "S and P", "vocabulary", "O", "anything"])
@pytest.mark.parametrize("model", MODELS)
def test_tied_tables_train_as_on_one_device(model, strategy, optimizer):
    subject = f"tied, {model}"
    facts = lowering(subject)
    chosen = NAMED[strategy](facts) if strategy in NAMED else anything(facts, seed=3)
    assert_equal_training(subject, optimizer, train(KNOWN[subject], optimizer, chosen))
