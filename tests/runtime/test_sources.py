"""Every kind of data that `fit` takes, in whatever portions, trains as without a strategy."""

import keras
import numpy as np
import pytest

from keras_soap import SoapStrategy
from tests.runtime.fitting import (
    FIT,
    MORE_X,
    MORE_Y,
    VECTORS,
    X,
    Y,
    assert_equal_histories,
    assert_equal_weights,
    both,
    soap,
)


class Batches(keras.utils.PyDataset):
    """Batches of eight in another order in every epoch; the last is a smaller one."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.epoch = 0

    def __len__(self):
        return 4

    def __getitem__(self, index):
        at = 8 * ((index + self.epoch) % 4)
        return MORE_X[at : at + 8], MORE_Y[at : at + 8]

    def on_epoch_end(self):
        self.epoch += 1


def batches(count=10**9):
    for number in range(count):
        at = 8 * (number % 3)
        yield X[at : at + 8], Y[at : at + 8]


def fit_both(make_data, **fit):
    """Trains on data made anew for each model; gives the model trained under a strategy."""
    models, histories = [VECTORS.model("adam") for _ in range(2)], []
    for model, callbacks in zip(models, ([], [soap()]), strict=True):
        histories.append(model.fit(make_data(), callbacks=callbacks, verbose=0, **fit))
    assert_equal_histories(histories[1], histories[0])
    assert_equal_weights(models[1], models[0])
    return models[1]


@pytest.mark.parametrize("workers", [1, 2])
def test_py_datasets(workers):
    data = lambda: Batches(workers=workers, max_queue_size=2)  # noqa: E731
    model = fit_both(data, epochs=3, shuffle=False, validation_data=Batches())
    assert int(model.optimizer.iterations) == 12


def test_generators_without_an_end():
    model = fit_both(batches, steps_per_epoch=4, epochs=3)
    assert int(model.optimizer.iterations) == 12


def test_generators_with_an_end():
    # Keras's own step counts once more when it meets the end, which moves Adam, and not SGD.
    found = []
    for callbacks in ([], [soap()]):
        model = VECTORS.model("sgd")
        model.fit(batches(5), callbacks=callbacks, verbose=0)
        found.append(model.get_weights())
    for ours, plain in zip(*reversed(found), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=2e-6)
    assert int(model.optimizer.iterations) == 5


def test_epochs_that_begin_later_and_a_part_held_out():
    _, ours = both(
        x=MORE_X, y=MORE_Y, epochs=5, initial_epoch=3, validation_split=0.3, validation_freq=2
    )
    assert int(ours.optimizer.iterations) == 2 * 3


def test_some_steps_of_each_epoch():
    _, ours = both(epochs=2, steps_per_epoch=2, validation_data=(X, Y), validation_steps=1)
    # Of three batches two, and what is left.
    assert int(ours.optimizer.iterations) == 3


def test_shuffled_samples_come_in_the_order_that_the_seed_gives():
    found = []
    for callbacks in ([], [SoapStrategy(method="data_parallel", verbose=0)]):
        model = VECTORS.model("adam")
        model.build((None, 6))
        keras.utils.set_random_seed(4)
        found.append(model.fit(X, Y, callbacks=callbacks, **{**FIT, "shuffle": True}).history)
    np.testing.assert_allclose(found[1]["loss"], found[0]["loss"], rtol=1e-5)
