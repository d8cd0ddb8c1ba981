"""Losses that people write, and metrics, train and report as on one device: also of whole batches.

What a function does with a batch is found out by trial. If it couples samples, or pixels, no part
may compute it alone.
"""

import inspect

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_soap import SoapStrategy
from tests.runtime.fitting import FIT, MORE_X, assert_equal_histories, assert_equal_weights
from tests.runtime.strategies import NAMED
from tests.runtime.subjects import (
    KNOWN,
    NUM_STEPS,
    Subject,
    assert_equal_training,
    lowering,
    train,
)


def mean_of_all(y_true, y_pred):
    return ops.mean(ops.square(y_true - y_pred))


def sum_of_all(y_true, y_pred):
    return ops.sum(ops.abs(y_true - y_pred)) / 10


def contrast(y_true, y_pred):
    """A value for each sample, of all samples."""
    return ops.logsumexp(ops.matmul(y_pred, ops.transpose(y_true)), axis=1)


def of_rows(y_true, y_pred):
    """A value for each pixel, of all of its row: samples can be split, pixels cannot."""
    return ops.mean(y_true - y_pred, axis=-1) * ops.std(y_pred, axis=(2, 3))[..., None]


def own_mixture(y_true, y_pred):
    """A value for each sample, of the prediction and of what it is a sigmoid of."""
    cross_entropy = keras.losses.binary_crossentropy(y_true, y_pred)
    return cross_entropy + ops.mean(ops.square(y_true - y_pred), axis=-1)


def mean_cross_entropy(y_true, y_pred):
    return ops.mean(keras.losses.binary_crossentropy(y_true, y_pred))


class OwnCall(keras.losses.Loss):
    """Does not do what Keras's does around `call`."""

    def __call__(self, y_true, y_pred, sample_weight=None):
        return ops.max(ops.square(y_true - y_pred))


def focal():
    return keras.losses.BinaryFocalCrossentropy(apply_class_balancing=True)


def of_logits():
    """Of a softmax, whose logits Keras finds all the same, with a warning."""
    return keras.losses.CategoricalCrossentropy(from_logits=True)


def circle():
    return keras.losses.Circle(gamma=2)


def vectors(rng: np.random.Generator):
    x = rng.normal(size=(NUM_STEPS * 8, 6)).astype("float32")
    return x, rng.uniform(0, 1, (len(x), 4)).astype("float32")


def weighted_vectors(rng: np.random.Generator):
    return *vectors(rng), rng.uniform(0.5, 2, NUM_STEPS * 8).astype("float32")


def identities(rng: np.random.Generator):
    x, _ = vectors(rng)
    return x, rng.integers(0, 3, len(x))


def maps(rng: np.random.Generator):
    x = rng.normal(size=(NUM_STEPS * 8, 4, 4, 2)).astype("float32")
    return x, rng.uniform(0, 1, (len(x), 4, 4, 3)).astype("float32")


def vector_model() -> keras.Model:
    x = keras.Input((6,), name="x")
    y = layers.Dense(8, "relu", name="inner")(x)
    return keras.Model(x, layers.Dense(4, "sigmoid", name="out")(y), name="vectors")


def sure_model(activation: str = "sigmoid") -> keras.Model:
    """With predictions so close to 0 and 1 that only what they are made of tells them apart."""
    x = keras.Input((6,), name="x")
    y = layers.Dense(8, "relu", name="inner")(x)
    wide = keras.initializers.RandomNormal(stddev=20, seed=1)
    return keras.Model(x, layers.Dense(4, activation, kernel_initializer=wide, name="out")(y))


def map_model() -> keras.Model:
    x = keras.Input((4, 4, 2), name="x")
    y = layers.Conv2D(4, 3, padding="same", activation="relu", name="inner")(x)
    return keras.Model(x, layers.Conv2D(3, 1, activation="sigmoid", name="out")(y), name="maps")


LOSSES = {
    "mean": (mean_of_all, vectors),
    "weighted mean": (mean_of_all, weighted_vectors),
    "sum": (sum_of_all, vectors),
    "contrast": (contrast, vectors),
    "own call": (OwnCall, vectors),
    "circle": (circle, identities),
    "dice": (keras.losses.Dice, maps),
    "tversky of images": (lambda: keras.losses.Tversky(axis=(1, 2, 3)), maps),
    "mean of maps": (mean_of_all, maps),
    "of rows": (of_rows, maps),
}


def compiled(make):
    loss = make() if inspect.isclass(make) or not inspect.signature(make).parameters else make
    return {"loss": loss}


KNOWN |= {
    f"loss, {name}": Subject(
        map_model if data is maps else vector_model, lambda make=make: compiled(make), data
    )
    for name, (make, data) in LOSSES.items()
}

OF_LOGITS = {
    "binary cross-entropy": ("sigmoid", lambda: "binary_crossentropy"),
    "focal": ("sigmoid", focal),
    "own mixture": ("sigmoid", lambda: own_mixture),
    "mean cross-entropy": ("sigmoid", lambda: mean_cross_entropy),
    "from logits": ("softmax", of_logits),
}

KNOWN |= {
    f"of logits, {name}": Subject(
        lambda activation=activation: sure_model(activation),
        lambda make=make: {"loss": make()},
        vectors,
    )
    for name, (activation, make) in OF_LOGITS.items()
}


@pytest.mark.parametrize(
    ("loss", "strategy"),
    [
        *((loss, "S") for loss in OF_LOGITS),
        ("focal", "S and P"),
        ("own mixture", "O"),
        ("mean cross-entropy", "one device"),
    ],
)
def test_a_loss_takes_logits_where_it_does_on_one_device(loss, strategy):
    subject = f"of logits, {loss}"
    chosen = NAMED[strategy](lowering(subject))
    assert_equal_training(subject, "sgd", train(KNOWN[subject], "sgd", chosen))


@pytest.mark.parametrize(
    ("loss", "strategy", "is_split"),
    [
        ("mean", "S and P", True),
        ("weighted mean", "S", False),
        ("sum", "S", True),
        ("contrast", "S and P", False),
        ("own call", "S", False),
        ("circle", "S and P", False),
        ("dice", "S and A", False),
        ("tversky of images", "S and A", True),
        ("mean of maps", "S and A", True),
        ("of rows", "S and A", True),
    ],
)
def test_losses_train_as_on_one_device(loss, strategy, is_split):
    subject = f"loss, {loss}"
    facts = lowering(subject)
    chosen = NAMED[strategy](facts)
    of_loss = facts.graph.index("loss/out" if "loss/out" in names(facts) else "loss/compile_loss")
    assert (chosen.configs[of_loss].num_parts > 1) == is_split
    assert_equal_training(subject, "sgd", train(KNOWN[subject], "sgd", chosen))


def names(facts):
    return [operator.name for operator in facts.graph.operators]


class Largest(keras.metrics.Metric):
    """The largest error of an epoch: parts cannot add it up."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.largest = self.add_variable((), "zeros", name="largest")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.largest.assign(ops.maximum(self.largest, ops.max(ops.abs(y_true - y_pred))))

    def result(self):
        return self.largest + 0


class Steps(keras.metrics.Metric):
    """How many batches there were."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.steps = self.add_variable((), "zeros", name="steps", dtype="int32")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.steps.assign_add(1)

    def result(self):
        return self.steps + 0


def spread_of_batch(y_true, y_pred):
    return ops.std(y_pred - y_true)


def model_with(**asked) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = vector_model()
    model.compile("sgd", "mse", **asked)
    return model


def test_metrics_of_whole_batches_are_those_of_one_device():
    y = np.random.default_rng(2).uniform(0, 1, (len(MORE_X), 4)).astype("float32")
    found = []
    for split in (False, True):
        asked = [mean_of_all, sum_of_all, spread_of_batch, Largest(name="largest")]
        model = model_with(metrics=[*asked, Steps(name="steps")])
        callbacks = [SoapStrategy(method="data_parallel", verbose=0)] if split else []
        # The last batch is a smaller one, and counts as much in a mean of batches.
        history = model.fit(
            MORE_X, y, validation_data=(MORE_X[:13], y[:13]), callbacks=callbacks, **FIT
        )
        found.append((model, history))
    (plain, expected), (ours, actual) = found
    assert_equal_histories(actual, expected)
    assert_equal_weights(ours, plain)
    assert actual.history["steps"] == [4, 4]
