"""Weights that are read in several ways, above all tables of words, train as in plain Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_soap import SoapStrategy
from keras_soap.errors import CaptureError
from tests.adapted import Adapted
from tests.runtime.strategies import NAMED, anything, split
from tests.runtime.subjects import (
    KNOWN,
    NUM_STEPS,
    OPTIMIZERS,
    Subject,
    first_batch,
    lowering,
    train,
)

pytestmark = pytest.mark.usefixtures("double_precision")

NUM_WORDS = 24


def wide():
    """Large enough that a word's row matters."""
    return keras.initializers.RandomNormal(0.0, 0.5)


def reversible(**table) -> keras.Model:
    words = keras.Input((6,), dtype="int32", name="words")
    both = layers.ReversibleEmbedding(
        NUM_WORDS, 8, embeddings_initializer=wide(), name="table", **table
    )
    x = layers.Dense(8, "tanh", name="inner")(both(words))
    logits = both(x, reverse=True)
    return keras.Model(words, layers.Softmax(name="next")(logits), name="reversible")


@keras.saving.register_keras_serializable()
class Language(keras.Model):
    """Multiplies by the table of an embedding, transposed."""

    def __init__(self):
        super().__init__(name="language")
        self.table = layers.Embedding(NUM_WORDS, 8, embeddings_initializer=wide(), name="table")
        self.inner = layers.Dense(8, "tanh", name="inner")

    def call(self, words):
        x = self.inner(self.table(words))
        return ops.softmax(ops.matmul(x, ops.transpose(self.table.embeddings)))


def subclassed() -> keras.Model:
    model = Language()
    model(np.zeros((8, 6), "int32"))
    return model


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


class ClosedProjection(Projection):
    """The same where nobody sees what it does."""

    def call(self, x):
        return tf.matmul(x, self.table.embeddings.value, transpose_b=True) + self.bias.value


def projected(projection=Projection):
    def build() -> keras.Model:
        words = keras.Input((6,), dtype="int32", name="words")
        table = layers.Embedding(NUM_WORDS, 8, embeddings_initializer=wide(), name="table")
        x = layers.Dense(8, "tanh", name="inner")(table(words))
        logits = projection(table, name="projection")(x)
        return keras.Model(words, layers.Softmax(name="next")(logits), name="projected")

    return build


def of_operations(turned: bool):
    """Operations of a functional model; to Keras, a table that they turn first is a constant."""

    def build() -> keras.Model:
        words = keras.Input((6,), dtype="int32", name="words")
        table = layers.Embedding(NUM_WORDS, 8, embeddings_initializer=wide(), name="table")
        x = layers.Dense(8, "tanh", name="inner")(table(words))
        if turned:
            logits = ops.matmul(x, ops.transpose(table.embeddings))
        else:
            logits = ops.einsum("btd,wd->btw", x, table.embeddings)
        return keras.Model(words, layers.Softmax(name="next")(logits), name="operations")

    return build


def twice() -> keras.Model:
    """A table that two texts of different ranks are looked up in, and that is projected onto."""
    words = keras.Input((6,), dtype="int32", name="words")
    topic = keras.Input((), dtype="int32", name="topic")
    table = layers.ReversibleEmbedding(NUM_WORDS, 8, embeddings_initializer=wide(), name="table")
    x = layers.Add(name="join")([table(words), layers.Reshape((1, 8), name="one")(table(topic))])
    x = layers.Dense(8, "tanh", name="inner")(x)
    logits = table(x, reverse=True)
    return keras.Model([words, topic], layers.Softmax(name="next")(logits), name="twice")


@keras.saving.register_keras_serializable()
class Mirrored(layers.Layer):
    """Goes back through a dense layer."""

    def __init__(self, dense, **kwargs):
        super().__init__(**kwargs)
        self.dense = dense

    def call(self, x):
        return ops.matmul(x - self.dense.bias, ops.transpose(self.dense.kernel))


def autoencoder() -> keras.Model:
    x = keras.Input((8,), name="x")
    encoder = layers.Dense(4, "tanh", name="encoder")
    return keras.Model(x, Mirrored(encoder, name="decoder")(encoder(x)), name="autoencoder")


def adapted() -> keras.Model:
    x = keras.Input((3, 8), name="x")
    y = Adapted(name="adapted")(x)
    dense = layers.Dense(4, name="dense")
    mean = layers.GlobalAveragePooling1D(name="mean")
    return keras.Model(x, [mean(dense(y)), dense(mean(y))], name="adapted")


def text(rng: np.random.Generator):
    words = rng.integers(0, NUM_WORDS, (NUM_STEPS * 8, 7)).astype("int32")
    return words[:, :-1], words[:, 1:]


def text_with_topics(rng: np.random.Generator):
    words, following = text(rng)
    return [words, rng.integers(0, NUM_WORDS, len(words)).astype("int32")], following


def vectors(rng: np.random.Generator):
    x = rng.normal(size=(NUM_STEPS * 8, 8))
    return x, x


def series(rng: np.random.Generator):
    x = rng.normal(size=(NUM_STEPS * 8, 3, 8))
    return x, list(rng.normal(size=(2, len(x), 4)))


def next_word():
    return {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}


def regression():
    return {"loss": "mse"}


TIED = {
    "reversible": Subject(reversible, next_word, text),
    "a subclass": Subject(subclassed, next_word, text),
    "projected": Subject(projected(), next_word, text),
    "projected, closed": Subject(projected(ClosedProjection), next_word, text),
    "operations": Subject(of_operations(turned=False), next_word, text),
    "operations on a constant": Subject(of_operations(turned=True), next_word, text),
    "looked up twice": Subject(twice, next_word, text_with_topics),
    "autoencoder": Subject(autoencoder, regression, vectors),
    "adapted": Subject(adapted, regression, series),
    "regularized": Subject(
        lambda: reversible(embeddings_regularizer=keras.regularizers.L2(0.1)), next_word, text
    ),
    "soft cap": Subject(lambda: reversible(logit_soft_cap=2.0), next_word, text),
    "not tied": Subject(lambda: reversible(tie_weights=False), next_word, text),
}
KNOWN |= {f"tied, {name}": subject for name, subject in TIED.items()}


_expected = {}


def assert_trains_as_in_keras(name, strategy, optimizer, make=None):
    """Compares with plain Keras in double precision: logs of every step, and all weights.

    Args:
        name: Of a subject, without "tied, ".
        strategy: A name, or "anything SEED".
        optimizer: A name, for what is expected is kept by it.
        make: Makes the optimizer, if it has no name in `OPTIMIZERS`.
    """
    subject = TIED[name]
    make = make or OPTIMIZERS[optimizer]
    facts = lowering(f"tied, {name}")
    key = name, optimizer
    if key not in _expected:
        _expected[key] = train(subject, make())
    chosen = NAMED[strategy](facts) if strategy in NAMED else anything(facts, int(strategy[9:]))
    trained, expected = train(subject, make(), chosen), _expected[key]
    for actual, wanted in zip(trained.logs, expected.logs, strict=True):
        # What regularizers add to the loss is reported in single precision.
        assert actual == pytest.approx(wanted, rel=1e-7 if name == "regularized" else 1e-9)
    assert trained.after.keys() == expected.after.keys()
    for path, wanted in expected.after.items():
        np.testing.assert_allclose(trained.after[path], wanted, rtol=1e-8, atol=1e-10)
        assert "gain" in path or not np.allclose(wanted, expected.before[path], atol=1e-5)


@pytest.mark.parametrize("name", TIED)
def test_any_strategy_trains_as_keras_does(name):
    assert_trains_as_in_keras(name, "anything 1", "adam")


@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("name", ["reversible", "adapted"])
def test_other_strategies_train_as_keras_does(name, seed):
    assert_trains_as_in_keras(name, f"anything {seed}", "sgd")


@pytest.mark.parametrize("strategy", ["S", "P", "O, overlapping", "S and vocabulary"])
def test_each_kind_of_parallelism_trains_as_keras_does(strategy):
    assert_trains_as_in_keras("reversible", strategy, "adam")


@pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm"])
def test_norms_are_those_of_the_sum_of_the_gradients_of_all_readers(clip):
    def make():
        return keras.optimizers.SGD(0.5, **{clip: 0.05})

    assert_trains_as_in_keras("reversible", "S and P", clip, make)
    assert_trains_as_in_keras("looked up twice", "anything 3", clip, make)


def test_smaller_batches_and_predictions_are_those_of_keras():
    subject = TIED["reversible"]
    x, y, _ = subject.samples()
    plain, ours = (subject.model() for _ in range(2))
    soap = SoapStrategy(strategy=NAMED["S and P"](lowering("tied, reversible")), verbose=0)
    fit = {"batch_size": 8, "shuffle": False, "verbose": 0}
    histories = [
        model.fit(x[:29], y[:29], validation_data=(x[:11], y[:11]), callbacks=callbacks, **fit)
        for model, callbacks in ((plain, []), (ours, [soap]))
    ]
    for key, values in histories[0].history.items():
        np.testing.assert_allclose(histories[1].history[key], values, rtol=1e-9)
    made = ours.predict(x[:5], verbose=0, callbacks=[soap])
    np.testing.assert_allclose(made, plain.predict(x[:5], verbose=0), rtol=1e-9)


def test_a_model_that_is_saved_in_mid_training_is_a_plain_keras_file(tmp_path):
    subject = TIED["reversible"]
    x, y, _ = subject.samples()

    class Saves(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                self.model.save(tmp_path / f"{self.model.name}.keras")
                saved.append(keras.models.load_model(tmp_path / f"{self.model.name}.keras"))

    saved = []
    strategy = NAMED["S and vocabulary"](lowering("tied, reversible"))
    for callbacks in ([], [SoapStrategy(strategy=strategy, verbose=0)]):
        model = subject.model("adam")
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[*callbacks, Saves()])
    plain, ours = saved
    assert [v.path for v in ours.variables] == [v.path for v in plain.variables]
    variables = zip(
        [*ours.variables, *ours.optimizer.variables],
        [*plain.variables, *plain.optimizer.variables],
        strict=True,
    )
    for one, other in variables:
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-8, atol=1e-12)


def test_a_table_has_one_slot_for_each_moment():
    model = TIED["reversible"].model("adam")
    x, y, _ = first_batch(TIED["reversible"])
    soap = SoapStrategy(strategy=NAMED["vocabulary"](lowering("tied, reversible")), verbose=0)
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[soap])
    table = [v for v in model.optimizer.variables if v.shape == (NUM_WORDS, 8)]
    assert len(table) == 2


def test_where_all_lie_where_the_table_does_nothing_of_it_moves():
    facts = lowering("tied, projected")
    # Rows of the table, words that are looked up, and words that are predicted.
    strategy = split(facts, {"axis_0": 4, "vocabulary": 4, "channel": 4, "units": 4, "axis_2": 4})
    number = facts.graph.index("table/embeddings")
    assert strategy.configs[number].degrees == (1, 4, 1)
    for edge in facts.graph.out_edges[number]:
        reader = strategy.configs[edge.consumer]
        assert reader.num_parts == 4
        found = facts.edge(edge, strategy.configs[number].degrees, reader.degrees)
        np.testing.assert_array_equal(found.producer, found.consumer)


def test_gradients_of_tables_that_are_only_looked_up_stay_sparse():
    facts = lowering("tied, operations on a constant")
    number = facts.graph.index("table")
    assert facts.graph.operators[number].kind == "embedding"
    (table,) = facts.operator(number, (1, 1, 1, 1)).weights
    assert table.sparse_rows is not None
    assert table.sparse_rows.tolist() == [8 * 6]


def test_states_that_are_read_in_different_ways_are_refused_before_training():
    vector, steps = keras.Input((4,), name="vector"), keras.Input((3, 4), name="steps")
    drop, dense = layers.Dropout(0.5, name="drop"), layers.Dense(4, name="dense")
    model = keras.Model([vector, steps], [dense(drop(vector)), drop(steps)])
    model.compile("sgd", loss="mse")
    x = [np.zeros((8, 4)), np.zeros((8, 3, 4))]
    with pytest.raises(CaptureError, match=r"drop and drop_1 read .* and change it.*own for each"):
        model.fit(x, x, batch_size=8, verbose=0, callbacks=[SoapStrategy(verbose=0)])
