"""Fits with and without a strategy, compared."""

import keras
import numpy as np
import tensorflow as tf

from keras_soap import SoapStrategy
from tests.runtime.strategies import NAMED
from tests.runtime.subjects import SUBJECTS, lowering, weights_of

VECTORS = SUBJECTS["vectors"]
MORE_X = np.random.default_rng(0).normal(size=(29, 6)).astype("float32")
MORE_Y = np.random.default_rng(1).integers(0, 4, 29)
X, Y = MORE_X[:24], MORE_Y[:24]
FIT = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0}


def soap(name="S and P", **arguments):
    strategy = NAMED[name](lowering("vectors"))
    return SoapStrategy(strategy=strategy, verbose=0, **arguments)


def assert_equal_weights(actual: keras.Model, expected: keras.Model) -> None:
    for path, value in weights_of(expected).items():
        np.testing.assert_allclose(weights_of(actual)[path], value, rtol=1e-5, atol=2e-6)
    for one, other in zip(actual.optimizer.variables, expected.optimizer.variables, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-4, atol=1e-6)


def assert_equal_histories(actual, expected) -> None:
    assert actual.history.keys() == expected.history.keys()
    for key, values in expected.history.items():
        np.testing.assert_allclose(actual.history[key], values, rtol=1e-5, atol=1e-6)


def both(optimizer="adam", make_callbacks=lambda: [], x=X, y=Y, name="S and P", **fit):
    """Trains with and without a strategy; checks that all is equal; gives both models."""
    models = [VECTORS.model(optimizer() if callable(optimizer) else optimizer) for _ in range(2)]
    fit = {**FIT, **fit}
    if isinstance(x, tf.data.Dataset):
        fit.pop("batch_size")
    plain = models[0].fit(x, y, callbacks=make_callbacks(), **fit)
    ours = models[1].fit(x, y, callbacks=[soap(name), *make_callbacks()], **fit)
    assert_equal_histories(ours, plain)
    assert_equal_weights(models[1], models[0])
    return models


class Interrupted(Exception):
    """Raised in the middle of training."""
