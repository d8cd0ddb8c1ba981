"""What layers make of their own weights while they run, in all of their calls."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_soap import SoapStrategy
from tests.runtime.fitting import FIT, assert_equal_histories
from tests.runtime.strategies import NAMED
from tests.runtime.subjects import KNOWN, NUM_STEPS, Subject, lowering, weights_of


class Counter(layers.Layer):
    """Counts its calls, and adds some of that."""

    def build(self, shape):
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")

    def call(self, x):
        self.count.assign_add(1.0)
        return x + 0.01 * self.count


class Clipped(layers.Layer):
    """Clips its kernel before it reads it."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 8), name="kernel")

    def call(self, x):
        read = ops.matmul(x, self.kernel)
        self.kernel.assign(ops.clip(self.kernel, -0.1, 0.1))
        return read + ops.matmul(x, self.kernel)


class Raised(layers.Layer):
    """Adds some of the batch's mean, of which there is nothing before it is trained."""

    def build(self, shape):
        self.gate = self.add_weight(shape=(), initializer="zeros", name="gate")

    def call(self, x):
        return x + self.gate * ops.mean(x, axis=0, keepdims=True)


def towers(make):
    """One layer, or several in a row, called on two inputs and on what comes of it."""

    def build():
        x, y = keras.Input((6,), name="x"), keras.Input((6,), name="y")
        inner = keras.Sequential([keras.Input((6,)), *make()], name="tower")
        wide = layers.Dense(6, name="again")
        z = layers.Concatenate(name="join")([inner(x), inner(y), inner(wide(inner(y)))])
        return keras.Model([x, y], layers.Dense(4, "softmax", name="class")(z), name="towers")

    return build


MADE = {
    "normalized": lambda: [layers.Dense(8, name="inner"), layers.BatchNormalization(name="norm")],
    "counted": lambda: [layers.Dense(8, name="inner"), Counter(name="counter")],
    "spectral": lambda: [layers.SpectralNormalization(layers.Dense(8, name="inner"), name="one")],
    "clipped": lambda: [Clipped(name="clipped")],
    "raised": lambda: [layers.Dense(8, name="inner"), Raised(name="raised")],
}


def data(rng):
    x = rng.normal(size=(2, NUM_STEPS * 8, 6)).astype("float32")
    return list(x), rng.integers(0, 4, NUM_STEPS * 8)


SUBJECTS = {
    f"towers, {name}": Subject(
        towers(make),
        lambda: {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]},
        data,
    )
    for name, make in MADE.items()
}
KNOWN.update(SUBJECTS)


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        *((name, "S and P") for name in SUBJECTS),
        ("towers, normalized", "S"),
        ("towers, normalized", "O"),
        ("towers, spectral", "S"),
        ("towers, spectral", "one device"),
        ("towers, counted", "three devices"),
        ("towers, clipped", "O"),
        ("towers, raised", "S"),
    ],
)
def test_all_calls_change_states_one_after_the_other_as_in_keras(name, strategy):
    x, y, _ = SUBJECTS[name].samples()
    fit = {**FIT, "validation_data": (x, y), "validation_batch_size": 8}
    plain, ours = (SUBJECTS[name].model("sgd") for _ in range(2))
    soap = SoapStrategy(strategy=NAMED[strategy](lowering(name)), verbose=0)
    expected = plain.fit(x, y, **fit)
    assert_equal_histories(ours.fit(x, y, **fit, callbacks=[soap]), expected)
    start = weights_of(SUBJECTS[name].model("sgd"))
    for path, value in weights_of(plain).items():
        scale = np.max(np.abs(value - start[path]))
        error = np.max(np.abs(weights_of(ours)[path] - value))
        assert error <= 1e-4 * scale + 1e-6, path


def test_what_inference_changes_is_seen_by_whoever_reads_it():
    subject = SUBJECTS["towers, counted"]
    x, y, _ = subject.samples()
    seen = []

    class Predict(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.predict([one[:8] for one in x], batch_size=4, verbose=0)
            counter = self.model.get_layer("tower").get_layer("counter")
            seen[-1].append(float(counter.count.numpy()))

    strategy = NAMED["S and P"](lowering("towers, counted"))
    for callbacks in ([], [SoapStrategy(strategy=strategy, verbose=0)]):
        seen.append([])
        subject.model("sgd").fit(x, y, **FIT, callbacks=[*callbacks, Predict()])
    # Four calls in each of five steps and two predictions.
    assert seen == [[28.0, 56.0], [28.0, 56.0]]
