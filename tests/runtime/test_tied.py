"""Tables that are read forwards, as embeddings, and backwards, as projections to words."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_soap import SoapStrategy
from keras_soap.errors import CaptureError
from tests.runtime.strategies import NAMED
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
    table = layers.ReversibleEmbedding(
        NUM_WORDS,
        8,
        tie_weights=False,
        embeddings_initializer=keras.initializers.RandomNormal(0.0, 0.5),
        name="table",
    )
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
KNOWN["untied"] = Subject(untied, lambda: COMPILE, data)


@pytest.mark.parametrize("strategy", ["S", "O"])
def test_a_table_with_a_projection_of_its_own_trains_as_on_one_device(strategy):
    chosen = NAMED[strategy](lowering("untied"))
    assert_equal_training("untied", "sgd", train(KNOWN["untied"], "sgd", chosen))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (reversible, "table/take and table read the weight .* tie_weights=False"),
        (projected, "table and projection/einsum read the weight .* in different"),
        (Language, r"computes with weights alone \(ops.transpose\(weight\)\)"),
    ],
)
def test_tables_that_are_read_backwards_are_refused_with_the_reason(build, reason):
    x, y = data(np.random.default_rng(0))
    model = build()
    model.compile("sgd", **COMPILE)
    model(x[:8])
    before = model.get_weights()
    with pytest.raises(CaptureError, match=reason):
        model.fit(x, y, batch_size=8, verbose=0, callbacks=[SoapStrategy(verbose=0)])
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
