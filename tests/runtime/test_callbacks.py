"""Callbacks see, set, save and restore what they would without a strategy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.runtime.fitting import (
    FIT,
    VECTORS,
    Interrupted,
    X,
    Y,
    assert_equal_weights,
    both,
    soap,
)


class Meddler(keras.callbacks.Callback):
    """Looks at the weights in every step, and sets some of them now and then."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append([w.copy() for w in self.model.get_weights()])
        if batch == 1:
            self.model.set_weights([0.5 * w for w in self.model.get_weights()])
        if batch == 2:
            self.model.get_layer("inner").kernel.assign_add(np.full((6, 8), 0.01, "float32"))
            self.seen.append([self.model.get_layer("inner").kernel.numpy()])


def test_callbacks_see_and_set_the_weights_in_the_middle_of_an_epoch():
    meddlers = []

    def make():
        meddlers.append(Meddler())
        return [meddlers[-1]]

    both(make_callbacks=make)
    plain, ours = meddlers
    assert len(plain.seen) == len(ours.seen) > 6
    for step, (expected, actual) in enumerate(zip(plain.seen, ours.seen, strict=True)):
        for one, other in zip(actual, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-6, err_msg=f"step {step}")


class Looker(keras.callbacks.Callback):
    """Calls, evaluates and predicts in the middle of an epoch, in all ways there are."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        model, x = self.model, X[:8]
        if batch == 0:
            self.traced = tf.function(lambda x: self.model(x, training=False))
        if batch in (1, 2):
            self.seen += [
                self.traced(x).numpy(),
                model.predict_on_batch(x),
                model(x, training=False).numpy(),
                model.predict(x, verbose=0),
                keras.Model(model.inputs, model.layers[0].output)(x).numpy(),
            ]


def test_callbacks_can_call_and_predict_in_the_middle_of_an_epoch():
    lookers = []

    def make():
        lookers.append(Looker())
        return [lookers[-1]]

    both(optimizer=lambda: keras.optimizers.SGD(0.5), make_callbacks=make)
    plain, ours = lookers
    assert len(plain.seen) == 20
    for number, (expected, actual) in enumerate(zip(plain.seen, ours.seen, strict=True)):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5, err_msg=f"{number}")


def test_schedules_of_callbacks_take_effect():
    _, ours = both(
        make_callbacks=lambda: [
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.3),
            keras.callbacks.ReduceLROnPlateau("loss", factor=0.1, patience=0, min_delta=10),
        ],
        epochs=3,
    )
    assert float(ours.optimizer.learning_rate) < 1e-5


def test_early_stopping_restores_the_best_weights():
    _, ours = both(
        optimizer=lambda: keras.optimizers.SGD(3.0),
        make_callbacks=lambda: [
            keras.callbacks.EarlyStopping(
                "val_loss", patience=1, restore_best_weights=True, mode="max"
            )
        ],
        validation_data=(X[:10], Y[:10]),
        epochs=5,
    )
    assert int(ours.optimizer.iterations) < 5 * 3


def test_checkpoints_hold_the_weights_of_their_moment(tmp_path):
    which = iter(["plain", "ours"])

    def make():
        folder = tmp_path / next(which)
        folder.mkdir()
        return [
            keras.callbacks.ModelCheckpoint(f"{folder}/{{epoch}}.keras", save_freq="epoch"),
            keras.callbacks.ModelCheckpoint(
                f"{folder}/{{epoch}}-{{batch}}.weights.h5", save_freq=2, save_weights_only=True
            ),
            keras.callbacks.BackupAndRestore(f"{folder}/backup", delete_checkpoint=False),
        ]

    both(make_callbacks=make)
    names = sorted(path.name for path in (tmp_path / "plain").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "ours").iterdir())
    assert len(names) >= 5
    for name in names:
        if name.endswith(".keras"):
            models = [keras.models.load_model(tmp_path / who / name) for who in ("plain", "ours")]
        elif name.endswith(".h5"):
            models = [VECTORS.model("adam") for _ in range(2)]
            for model, who in zip(models, ("plain", "ours"), strict=True):
                model.load_weights(tmp_path / who / name)
        else:
            continue
        for one, other in zip(*(model.get_weights() for model in models), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-6)


class Interrupt(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            raise Interrupted


def test_an_exception_in_a_callback_leaves_a_usable_model():
    plain, ours = (VECTORS.model("adam") for _ in range(2))
    plain.fit(X[:16], Y[:16], **{**FIT, "epochs": 1})
    with pytest.raises(Interrupted):
        ours.fit(X, Y, callbacks=[soap(), Interrupt()], **FIT)
    assert ours.evaluate(X, Y, verbose=0) == pytest.approx(plain.evaluate(X, Y, verbose=0))
    assert_equal_weights(ours, plain)
    for model in (plain, ours):
        model.fit(X, Y, **FIT)
    assert_equal_weights(ours, plain)


def test_logs_in_files_are_those_of_plain_keras(tmp_path):
    pytest.importorskip("tensorboard")
    which = iter(["plain", "ours"])

    def make():
        folder = tmp_path / next(which)
        return [
            keras.callbacks.TensorBoard(folder, histogram_freq=1, update_freq=1),
            keras.callbacks.CSVLogger(f"{folder}.csv"),
        ]

    both(make_callbacks=make, validation_data=(X, Y))
    plain, ours = (
        np.genfromtxt(tmp_path / f"{who}.csv", delimiter=",", names=True)
        for who in ("plain", "ours")
    )
    assert plain.dtype.names == ours.dtype.names
    assert {"epoch", "loss", "accuracy", "val_loss"} <= set(plain.dtype.names)
    for name in plain.dtype.names:
        np.testing.assert_allclose(ours[name], plain[name], rtol=1e-5)
    plain, ours = (events(tmp_path / who) for who in ("plain", "ours"))
    assert plain.keys() == ours.keys()
    assert {tag for tag, _ in plain} >= {
        "train/epoch_loss",
        "train/batch_loss",
        "validation/evaluation_loss_vs_iterations",
        "train/vectors/inner/kernel/histogram",
    }
    for key, value in plain.items():
        # Counts in a histogram may go to its next bucket by the last digit.
        if value.ndim == 0 and "per_second" not in key[0]:
            np.testing.assert_allclose(ours[key], value, rtol=1e-5, atol=1e-5, err_msg=str(key))


def events(folder):
    """Scalars and histograms by tag and step."""
    found = {}
    for path in folder.rglob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if "graph" not in value.tag and "keras" not in value.tag:
                    tensor = tf.make_ndarray(value.tensor)
                    found[f"{path.parent.name}/{value.tag}", event.step] = tensor
    return found
