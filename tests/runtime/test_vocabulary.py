"""Tables and logits split by vocabulary: trained as on one device, and never gathered."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_soap import SoapStrategy
from tests.runtime.strategies import NAMED, anything
from tests.runtime.subjects import (
    KNOWN,
    NUM_STEPS,
    Subject,
    assert_equal_training,
    first_batch,
    lowering,
    train,
)
from tests.runtime.traced import traced

NUM_WORDS = 52
NUM_CLASSES = 44


def words_model(activation="softmax", **last):
    """A language model whose table and projection are the largest things in it."""

    def build() -> keras.Model:
        words = keras.Input((6,), dtype="int32", name="language")
        x = layers.Embedding(NUM_WORDS, 8, name="table")(words)
        x = layers.Dense(8, "tanh", name="inner")(x)
        x = layers.Dense(NUM_CLASSES, activation, name="next", **last)(x)
        return keras.Model(words, x, name="language")

    return build


def words_data(rng: np.random.Generator):
    words = rng.integers(0, NUM_WORDS, (NUM_STEPS * 8, 6)).astype("int32")
    return words, rng.integers(0, NUM_CLASSES, words.shape)


def column_data(rng: np.random.Generator):
    words, labels = words_data(rng)
    return words, labels[..., None], rng.uniform(0.5, 2, words.shape).astype("float32")


def vectors_data(rng: np.random.Generator):
    words, labels = words_data(rng)
    weights = rng.uniform(0.5, 2, labels.shape).astype("float32")
    return words, np.eye(NUM_CLASSES, dtype="float32")[labels], weights


def left_out_data(rng: np.random.Generator):
    words, labels = words_data(rng)
    # All of some samples, and of none other.
    labels[rng.random(labels.shape) < 0.4] = 7
    labels[::5] = 7
    return words, labels


def sparse():
    top = keras.metrics.SparseTopKCategoricalAccuracy(3)
    return {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy", top]}


def accuracy_alone():
    return {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}


WORDS: dict[str, Subject] = {
    "language": Subject(words_model(), sparse, words_data),
    # All logits are equal at first: the first class is the largest.
    "ties": Subject(words_model(kernel_initializer="zeros"), sparse, words_data),
    "columns": Subject(
        words_model(None),
        lambda: {
            "loss": keras.losses.SparseCategoricalCrossentropy(True, reduction="sum"),
            "weighted_metrics": ["sparse_categorical_accuracy"],
        },
        column_data,
    ),
    "vectors of labels": Subject(
        words_model(),
        lambda: {
            "loss": keras.losses.CategoricalCrossentropy(label_smoothing=0.2),
            "metrics": ["accuracy", "categorical_crossentropy"],
            "weighted_metrics": ["categorical_accuracy"],
        },
        vectors_data,
    ),
    "weighted mean": Subject(
        words_model(),
        lambda: {"loss": keras.losses.CategoricalCrossentropy(reduction="mean_with_sample_weight")},
        vectors_data,
    ),
    "a class left out": Subject(
        words_model(None),
        lambda: {
            "loss": keras.losses.SparseCategoricalCrossentropy(True, ignore_class=7),
            "metrics": ["accuracy"],
        },
        left_out_data,
    ),
    "a class left out of a softmax": Subject(
        words_model(),
        lambda: {"loss": keras.losses.SparseCategoricalCrossentropy(ignore_class=7)},
        left_out_data,
    ),
}
KNOWN |= WORDS


@pytest.mark.parametrize(
    ("subject", "strategy", "optimizer"),
    [
        ("language", "vocabulary", "sgd"),
        ("language", "S and vocabulary", "adam"),
        ("ties", "vocabulary", "sgd"),
        ("columns", "S and vocabulary", "sgd"),
        ("vectors of labels", "anything", "sgd"),
        ("weighted mean", "S and vocabulary", "sgd"),
        ("a class left out", "S and vocabulary", "sgd"),
        ("a class left out of a softmax", "S and P", "sgd"),
        ("pairs", "vocabulary", "adam"),
    ],
)
def test_splits_by_vocabulary_train_as_in_keras(subject, strategy, optimizer):
    facts = lowering(subject)
    chosen = NAMED[strategy](facts) if strategy in NAMED else anything(facts, seed=2)
    assert_equal_training(subject, optimizer, train(KNOWN[subject], optimizer, chosen))


@pytest.mark.usefixtures("double_precision")
def test_a_split_vocabulary_is_exact_in_double_precision():
    name = "words in double precision"
    KNOWN[name] = Subject(words_model(), accuracy_alone, words_data)
    expected = train(KNOWN[name], "sgd")
    trained = train(KNOWN[name], "sgd", NAMED["vocabulary"](lowering(name)))
    for actual, wanted in zip(trained.logs, expected.logs, strict=True):
        assert actual == pytest.approx(wanted, rel=1e-10)
    for path, wanted in expected.after.items():
        np.testing.assert_allclose(trained.after[path], wanted, rtol=1e-10, atol=1e-12)


def test_no_device_ever_holds_a_whole_table_or_whole_logits():
    # The prediction is read whole by the metric alone that needs it whole.
    KNOWN["words without top k"] = Subject(words_model(), accuracy_alone, words_data)
    step = traced("words without top k", "vocabulary", optimizer="adam")
    sizes = {
        size
        for operation in step.operations
        for tensor in operation.outputs
        if tensor.shape.rank is not None
        for size in tensor.shape
    }
    assert {NUM_WORDS // 4, NUM_CLASSES // 4} <= sizes
    assert not {NUM_WORDS, NUM_CLASSES} & sizes


def test_gradients_of_a_split_table_are_rows_of_the_part():
    subject, facts = KNOWN["language"], lowering("language")
    model = subject.model(keras.optimizers.SGD(1.0))
    soap = SoapStrategy(strategy=NAMED["vocabulary"](facts), verbose=0)
    seen: list[tf.IndexedSlices] = []
    update = keras.optimizers.SGD.update_step

    def noted(self, gradient, variable, learning_rate):
        if tuple(variable.shape) == (NUM_WORDS // 4, 8):
            seen.append(gradient)
        return update(self, gradient, variable, learning_rate)

    keras.optimizers.SGD.update_step = noted
    try:
        x, y, _ = first_batch(subject)
        model.fit(x, y, batch_size=8, verbose=0, callbacks=[soap])
    finally:
        keras.optimizers.SGD.update_step = update
    assert len(seen) == 4
    assert all(isinstance(gradient, tf.IndexedSlices) for gradient in seen)
    assert [gradient.values.shape for gradient in seen] == [(8 * 6, 8)] * 4


@pytest.mark.parametrize("wrong", ["word", "label"])
def test_what_is_outside_the_vocabulary_fails_as_in_keras(wrong):
    subject = KNOWN["language"]
    x, y, _ = subject.samples()
    (x if wrong == "word" else y)[1, 2] = 60
    model = subject.model()
    soap = SoapStrategy(strategy=NAMED["vocabulary"](lowering("language")), verbose=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="is not in"):
        model.fit(x, y, batch_size=8, verbose=0, callbacks=[soap])


def test_only_some_parts_of_a_table_may_be_looked_up_in_a_step():
    subject = KNOWN["language"]
    x, y, _ = subject.samples()
    x = x % (NUM_WORDS // 4)
    trained = {}
    for strategy in (None, NAMED["vocabulary"](lowering("language"))):
        model = subject.model("adam")
        callbacks = [] if strategy is None else [SoapStrategy(strategy=strategy, verbose=0)]
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=callbacks)
        trained[strategy is None] = model.get_layer("table").get_weights()[0]
    np.testing.assert_allclose(trained[False], trained[True], rtol=1e-5, atol=1e-6)
