"""Regularizers add to losses and gradients what they add on one device."""

import keras
import numpy as np
import pytest
from keras import layers, regularizers

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


def vectors() -> keras.Model:
    """Weights split and whole, one of them shared, one frozen; a softmax that is regularized."""
    x = keras.Input((6,), name="x")
    shared = layers.Dense(6, "tanh", name="shared", kernel_regularizer="l2", use_bias=False)
    y = shared(shared(x))
    y = layers.Dense(
        8,
        "relu",
        name="inner",
        kernel_regularizer=regularizers.L1(0.01),
        bias_regularizer=regularizers.L1L2(0.1, 0.2),
        activity_regularizer=regularizers.L2(0.03),
    )(y)
    y = layers.Dense(8, name="frozen", kernel_regularizer="l2", trainable=False)(y)
    y = layers.ActivityRegularization(l1=0.01, l2=0.02, name="activity")(y)
    return keras.Model(
        x, layers.Dense(4, "softmax", name="class", activity_regularizer="l1")(y), name="vectors"
    )


def vector_data(rng: np.random.Generator):
    x = rng.normal(size=(NUM_STEPS * 8, 6)).astype("float32")
    return x, rng.integers(0, 4, len(x))


def images() -> keras.Model:
    x = keras.Input((8, 8, 2), name="x")
    y = layers.Conv2D(
        8,
        3,
        padding="same",
        name="conv",
        use_bias=False,  # The normalization makes its gradient next to nothing.
        kernel_regularizer=regularizers.L2(0.02),
        activity_regularizer=regularizers.L1(0.001),
    )(x)
    y = layers.BatchNormalization(name="norm", gamma_regularizer="l2")(y)
    y = layers.GlobalAveragePooling2D(name="mean")(y)
    return keras.Model(x, layers.Dense(4, name="out")(y), name="images")


def image_data(rng: np.random.Generator):
    x = rng.normal(size=(NUM_STEPS * 8, 8, 8, 2)).astype("float32")
    return x, rng.normal(size=(len(x), 4)).astype("float32")


def texts() -> keras.Model:
    """A sparse gradient that a regularizer makes dense, and a recurrent layer."""
    x = keras.Input((6,), dtype="int32", name="x")
    y = layers.Embedding(12, 8, name="table", embeddings_regularizer=regularizers.L2(0.01))(x)
    y = layers.LSTM(
        8,
        name="lstm",
        return_sequences=True,
        kernel_regularizer=regularizers.L1(0.01),
        recurrent_regularizer=regularizers.L2(0.01),
        activity_regularizer=regularizers.L2(0.01),
    )(y)
    y = layers.GlobalAveragePooling1D(name="mean")(y)
    return keras.Model(x, layers.Dense(1, "sigmoid", name="liked")(y), name="texts")


def text_data(rng: np.random.Generator):
    x = rng.integers(0, 12, (NUM_STEPS * 8, 6)).astype("int32")
    return x, rng.integers(0, 2, (len(x), 1)).astype("float32")


def orthogonal() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((6,), name="x"),
            layers.Dense(
                8, name="inner", kernel_regularizer=regularizers.OrthogonalRegularizer(0.1)
            ),
            layers.Dense(4, "softmax", name="class"),
        ],
        name="orthogonal",
    )


CLASSES = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
KNOWN |= {
    "penalties, vectors": Subject(vectors, lambda: CLASSES, vector_data),
    "penalties, images": Subject(images, lambda: {"loss": "mse"}, image_data),
    "penalties, texts": Subject(texts, lambda: {"loss": "binary_crossentropy"}, text_data),
    "penalties, steps": Subject(
        texts, lambda: {"loss": "binary_crossentropy"}, text_data, time_chunk=2
    ),
    "penalties, orthogonal": Subject(orthogonal, lambda: CLASSES, vector_data),
}


@pytest.mark.parametrize(
    ("subject", "strategy", "optimizer"),
    [
        ("vectors", "S and P", "sgd"),
        ("vectors", "O, overlapping", "adam"),
        ("vectors", "anything", "sgd"),
        ("images", "P", "sgd"),
        ("images", "S and A", "sgd"),
        ("images", "three devices", "sgd"),
        ("texts", "P", "adam"),
        ("texts", "S and P", "sgd"),
        ("steps", "S and P", "sgd"),
        ("steps", "O", "adam"),
        ("orthogonal", "S", "adam"),
    ],
)
def test_regularizers_train_as_in_keras(subject, strategy, optimizer):
    subject = f"penalties, {subject}"
    facts = lowering(subject)
    chosen = NAMED[strategy](facts) if strategy in NAMED else anything(facts, seed=2)
    assert_equal_training(subject, optimizer, train(KNOWN[subject], optimizer, chosen))


@pytest.mark.parametrize("subject", ["penalties, vectors", "penalties, images"])
def test_validation_and_partial_batches_are_regularized_too(subject):
    x, y, _ = KNOWN[subject].samples()
    histories = []
    for callbacks in (
        [],
        [SoapStrategy(strategy=NAMED["S and P"](lowering(subject)), verbose=0)],
    ):
        model = KNOWN[subject].model()
        histories.append(
            model.fit(
                x[:20],
                y[:20],
                batch_size=8,
                shuffle=False,
                validation_data=(x[20:31], y[20:31]),
                verbose=0,
                callbacks=callbacks,
            ).history
        )
    assert histories[0].keys() == histories[1].keys()
    for key, values in histories[0].items():
        np.testing.assert_allclose(histories[1][key], values, rtol=1e-5, err_msg=key)


def test_scaled_losses_scale_regularizers():
    x, y, _ = KNOWN["penalties, vectors"].samples()
    models = []
    for callbacks in (
        [],
        [SoapStrategy(strategy=NAMED["S and P"](lowering("penalties, vectors")), verbose=0)],
    ):
        optimizer = keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.1, global_clipnorm=0.5), initial_scale=256.0
        )
        model = KNOWN["penalties, vectors"].model(optimizer)
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=callbacks)
        models.append(model)
    for one, other in zip(models[1].get_weights(), models[0].get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
