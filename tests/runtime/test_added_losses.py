"""What layers add to the loss inside of their call trains as on one device."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_soap import SoapStrategy
from tests.runtime.strategies import NAMED
from tests.runtime.subjects import (
    KNOWN,
    Subject,
    assert_equal_training,
    lowering,
    train,
    vector_data,
)


class Added(layers.Layer):
    """Adds a loss of what an inner layer makes; in training another one, too."""

    def __init__(self, loss, **kwargs):
        super().__init__(**kwargs)
        self.loss = loss
        self.inner = layers.Dense(8, "tanh", name="in", activity_regularizer="l2")

    def call(self, x, training=None):
        y = self.inner(x)
        self.add_loss(0.1 * self.loss(y))
        if training:
            self.add_loss(0.01 * self.loss(keras.ops.square(x)))
        return y


LOSSES = {
    "mean": lambda y: keras.ops.mean(keras.ops.abs(y)),
    "sum": lambda y: keras.ops.sum(keras.ops.abs(y)),
    "whole": lambda y: keras.ops.std(y),
}


def model_of(loss):
    def build() -> keras.Model:
        x = keras.Input((6,), name="x")
        y = Added(loss, name="added")(layers.Dense(8, "relu", name="first")(x))
        return keras.Model(x, layers.Dense(4, "softmax", name="class")(y), name="adding")

    return build


KNOWN |= {
    f"added, {name}": Subject(
        model_of(loss),
        lambda: {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]},
        vector_data,
    )
    for name, loss in LOSSES.items()
}


class Autoencoder(keras.Model):
    """Adds how far its sigmoid, which the outer loss reads too, is from the input's."""

    def __init__(self):
        super().__init__(name="autoencoder")
        self.inner = layers.Dense(8, "relu", name="inner")
        self.outer = layers.Dense(6, "sigmoid", name="outer")

    def call(self, x):
        y = self.outer(self.inner(x))
        difference = keras.losses.binary_crossentropy(keras.ops.sigmoid(x), y)
        self.add_loss(keras.ops.mean(difference))
        return y


def vectors(rng: np.random.Generator):
    x, _ = vector_data(rng)
    return x, np.abs(x)


def built_autoencoder() -> keras.Model:
    model = Autoencoder()
    model(np.ones((1, 6), "float32"))
    return model


KNOWN["added, autoencoder"] = Subject(built_autoencoder, lambda: {"loss": "mse"}, vectors)


@pytest.mark.parametrize(
    ("loss", "strategy"),
    [
        ("autoencoder", "S"),
        ("autoencoder", "S and P"),
        ("mean", "S"),
        ("mean", "P"),
        ("sum", "S and P"),
        ("whole", "S and P"),
        ("whole", "O"),
    ],
)
def test_added_losses_train_as_in_keras(loss, strategy):
    subject = f"added, {loss}"
    chosen = NAMED[strategy](lowering(subject))
    assert_equal_training(subject, "sgd", train(KNOWN[subject], "sgd", chosen))


def test_added_losses_are_in_the_loss_of_an_evaluation():
    subject = KNOWN["added, mean"]
    x, y, _ = subject.samples()
    found = []
    for strategy in (None, NAMED["S"](lowering("added, mean"))):
        model = subject.model()
        callbacks = [] if strategy is None else [SoapStrategy(strategy=strategy, verbose=0)]
        # The last batch is a smaller one.
        history = model.fit(
            x, y, batch_size=8, shuffle=False, verbose=0, callbacks=callbacks,
            validation_data=(x[:22], y[:22]),
        )  # fmt: skip
        found.append(history.history["val_loss"])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)
