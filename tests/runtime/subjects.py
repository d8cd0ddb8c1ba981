"""Small models with data, trained by plain Keras and under strategies, to be compared."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_soap import SoapStrategy
from keras_soap.capture.functions import learn_inputs
from keras_soap.capture.losses import capture_step
from keras_soap.strategy.strategy import Strategy
from keras_soap.tasks.lowering import Lowering

NUM_STEPS = 5

OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.00025),
}


@dataclass(frozen=True)
class Subject:
    """A model to train.

    Attributes:
        build: Makes the model, not compiled; its weights depend on Keras's seed alone.
        compile: What `compile` is given besides the optimizer.
        data: Makes `fit`'s x, y and, perhaps, sample weights, of `NUM_STEPS` batches.
        batch_size: Samples in one step.
        fit: More arguments of `fit`.
        noise: Parts of the paths of weights whose true gradient is zero, and what follows from
            them. What float arithmetic leaves of such a gradient is noise, which Adam makes full
            steps of.
        time_chunk: As in `SoapStrategy`.
    """

    build: Callable[[], keras.Model]
    compile: Callable[[], dict[str, Any]]
    data: Callable[[np.random.Generator], tuple[Any, ...]]
    batch_size: int = 8
    fit: dict[str, Any] = field(default_factory=dict)
    noise: tuple[str, ...] = ()
    time_chunk: int | None = None

    def model(self, optimizer: str | keras.optimizers.Optimizer = "sgd") -> keras.Model:
        """A compiled model, always with the same weights."""
        keras.utils.set_random_seed(1)
        model = self.build()
        if isinstance(optimizer, str):
            optimizer = OPTIMIZERS[optimizer]()
        model.compile(optimizer=optimizer, **self.compile())
        return model

    def samples(self) -> tuple[Any, Any, Any]:
        """x, y and sample weights (or None)."""
        x, y, *rest = self.data(np.random.default_rng(0))
        return x, y, rest[0] if rest else None


@dataclass(frozen=True)
class Training:
    """What came of training.

    Attributes:
        logs: Of each step by itself.
        weights: By path, before and after.
        model: Afterwards.
        soap: The callback, if there was a strategy.
    """

    logs: list[dict[str, float]]
    before: dict[str, np.ndarray]
    after: dict[str, np.ndarray]
    model: keras.Model
    soap: SoapStrategy | None = None


class StepLogs(keras.callbacks.Callback):
    """Records the logs of each step, which Keras averages over an epoch."""

    def __init__(self):
        super().__init__()
        self.steps: list[dict[str, float]] = []

    def on_train_batch_begin(self, batch, logs=None):
        self.model.reset_metrics()

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append({key: float(value) for key, value in logs.items()})


def weights_of(model: keras.Model) -> dict[str, np.ndarray]:
    return {v.path: v.numpy() for v in model.variables if "seed_generator" not in v.path}


def train(
    subject: Subject,
    optimizer: str | keras.optimizers.Optimizer,
    strategy: Strategy | SoapStrategy | None = None,
) -> Training:
    """Trains for `NUM_STEPS` steps, under `strategy` if there is one."""
    model = subject.model(optimizer)
    before = weights_of(model)
    x, y, sample_weight = subject.samples()
    recorder = StepLogs()
    soap = strategy
    if isinstance(strategy, Strategy):
        soap = SoapStrategy(strategy=strategy, time_chunk=subject.time_chunk, verbose=0)
    model.fit(
        x,
        y,
        sample_weight=sample_weight,
        batch_size=subject.batch_size,
        shuffle=False,
        verbose=0,
        callbacks=[recorder] if soap is None else [soap, recorder],
        **subject.fit,
    )
    return Training(recorder.steps, before, weights_of(model), model, soap)


@functools.cache
def reference(name: str, optimizer: str) -> Training:
    """What plain Keras makes of the subject called `name`, on one device."""
    return train(KNOWN[name], optimizer)


@functools.cache
def lowering(name: str) -> Lowering:
    """The lowering of the subject called `name`, as `fit` captures it."""
    subject = KNOWN[name]
    model = subject.model()
    batch = first_batch(subject)
    model._symbolic_build(data_batch=batch)
    learn_inputs(model, batch[0])
    step = capture_step(model, subject.batch_size, *batch[1:], time_chunk=subject.time_chunk)
    return Lowering(step.model.graph)


def first_batch(subject: Subject) -> tuple[Any, ...]:
    """x, y and sample weights (or None) of the first step, as tensors."""
    x, y, sample_weight = subject.samples()
    if "class_weight" in subject.fit:
        sample_weight = np.ones(len(y), "float32")
    return keras.tree.map_structure(
        lambda a: None if a is None else tf.constant(a[: subject.batch_size]),
        (x, y, sample_weight),
    )


def assert_equal_training(name: str, optimizer: str, trained: Training) -> None:
    """Compares with plain Keras: logs of every step, and all weights, to 1e-5."""
    expected = reference(name, optimizer)
    assert len(trained.logs) == len(expected.logs) == NUM_STEPS
    for step, (actual, wanted) in enumerate(zip(trained.logs, expected.logs, strict=True)):
        assert actual.keys() == wanted.keys()
        for key, value in wanted.items():
            assert actual[key] == pytest.approx(value, rel=1e-5, abs=1e-7), f"{key} of step {step}"
    assert trained.after.keys() == expected.after.keys()
    largest_change = max(
        np.abs(expected.after[path] - expected.before[path]).max() for path in expected.after
    )
    assert largest_change > 1e-3, "nothing was trained"
    for path, wanted in expected.after.items():
        # A weight that hardly changes is the rounding of larger gradients that cancel.
        scale = max(np.abs(wanted).max(), 1e-3 * largest_change)
        if any(part in path for part in KNOWN[name].noise):
            if optimizer != "sgd":
                continue
            scale = largest_change
        error = np.abs(trained.after[path] - wanted).max()
        assert error <= 1e-5 * scale, f"{path} is off by {error:.2e} of {scale:.2e}"


def image_model() -> keras.Model:
    """Of the kind that learns the digits, and small."""
    image = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(8, 3, padding="same", name="first")(image)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.MaxPooling2D(name="pool")(x)
    y = layers.Conv2D(8, 3, padding="same", activation="relu", name="inner")(x)
    x = layers.Add(name="residual")([x, y])
    left = layers.Conv2D(8, 1, name="left")(x)
    right = layers.Conv2D(4, 3, padding="same", name="right")(x)
    x = layers.Concatenate(name="join")([left, right])
    x = layers.Flatten(name="flat")(x)
    x = layers.Dense(16, activation="relu", name="hidden")(x)
    return keras.Model(image, layers.Dense(10, "softmax", name="digit")(x), name="images")


def image_data(rng: np.random.Generator):
    x = rng.normal(size=(NUM_STEPS * 8, 8, 8, 1)).astype("float32")
    return x, rng.integers(0, 10, len(x))


def text_model() -> keras.Model:
    """An embedding, whose gradient is sparse, and a layer normalization."""
    words = keras.Input((6,), dtype="int32", name="words")
    x = layers.Embedding(12, 8, name="table")(words)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.Dense(8, activation="tanh", name="inner")(x)
    x = layers.GlobalAveragePooling1D(name="mean")(x)
    return keras.Model(words, layers.Dense(1, "sigmoid", name="liked")(x), name="texts")


def text_data(rng: np.random.Generator):
    # Some words are rare: Adam moves the rows of a dense gradient's absent words, too.
    x = np.minimum(rng.integers(0, 12, (NUM_STEPS * 8, 6)), rng.integers(0, 12, (40, 6)))
    return x.astype("int32"), rng.integers(0, 2, (len(x), 1)).astype("float32")


def pair_model() -> keras.Model:
    """Two calls of the same layers (Siamese), and of the same table."""
    ends = [keras.Input((4,), dtype="int32", name=name) for name in ("one", "other")]
    table = layers.Embedding(10, 4, name="table")
    flat, tower = layers.Flatten(name="flat"), layers.Dense(8, activation="relu", name="tower")
    towers = [tower(flat(table(end))) for end in ends]
    x = layers.Multiply(name="product")(towers)
    return keras.Model(ends, layers.Dense(2, name="distance")(x), name="pairs")


def pair_data(rng: np.random.Generator):
    one, other = rng.integers(0, 10, (2, NUM_STEPS * 8, 4)).astype("int32")
    return [one, other], rng.normal(size=(len(one), 2)).astype("float32")


def family_model() -> keras.Model:
    """Two inputs and two outputs with names, and a model in the model, called twice."""
    left, right = (keras.Input((6,), name=name) for name in ("left", "right"))
    inner = keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, "relu", name="a"), layers.Dense(4, name="b")],
        name="inner",
    )
    x = layers.Concatenate(name="join")([inner(left), inner(right)])
    price = layers.Dense(4, name="price")(x)
    kind = layers.Dense(4, "softmax", name="kind")(x)
    return keras.Model({"left": left, "right": right}, {"price": price, "kind": kind}, name="fam")


def family_data(rng: np.random.Generator):
    left, right = rng.normal(size=(2, NUM_STEPS * 8, 6)).astype("float32")
    kinds = np.eye(4, dtype="float32")[rng.integers(0, 4, len(left))]
    prices = rng.normal(size=(len(left), 4)).astype("float32")
    weights = {name: rng.uniform(0.5, 2, len(left)).astype("float32") for name in ("kind", "price")}
    return {"right": right, "left": left}, {"kind": kinds, "price": prices}, weights


def two_headed_model() -> keras.Model:
    """Two outputs in a list."""
    x = keras.Input((6,), name="x")
    y = layers.Dense(8, "relu", name="trunk")(x)
    heads = [layers.Dense(4, name="first")(y), layers.Dense(1, "sigmoid", name="second")(y)]
    return keras.Model(x, heads, name="heads")


def two_headed_data(rng: np.random.Generator):
    x = rng.normal(size=(NUM_STEPS * 8, 6)).astype("float32")
    return x, [rng.normal(size=(40, 4)).astype("float32"), rng.integers(0, 2, (40, 1))]


def vector_model() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((6,), name="x"),
            layers.Dense(8, "relu", name="inner"),
            layers.Dense(4, "softmax", name="class"),
        ],
        name="vectors",
    )


def vector_data(rng: np.random.Generator):
    x = rng.normal(size=(NUM_STEPS * 8, 6)).astype("float32")
    return x, rng.integers(0, 4, len(x))


def weighted_vector_data(rng: np.random.Generator):
    x, y = vector_data(rng)
    return x, np.eye(4, dtype="float32")[y], rng.uniform(0.5, 2, len(x)).astype("float32")


SUBJECTS: dict[str, Subject] = {
    "images": Subject(
        image_model,
        lambda: {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]},
        image_data,
        noise=("first/bias", "norm/moving_mean"),
    ),
    "texts": Subject(
        text_model,
        lambda: {"loss": "binary_crossentropy", "metrics": ["accuracy"]},
        text_data,
    ),
    "pairs": Subject(pair_model, lambda: {"loss": "mse", "metrics": ["mae"]}, pair_data),
    "family": Subject(
        family_model,
        lambda: {
            "loss": {"price": "mse", "kind": "categorical_crossentropy"},
            "loss_weights": {"price": 0.3, "kind": 2.0},
            "metrics": {"kind": ["accuracy"], "price": ["mae"]},
            "weighted_metrics": {"price": ["mse"]},
        },
        family_data,
    ),
    "heads": Subject(
        two_headed_model,
        lambda: {
            "loss": ["mse", keras.losses.BinaryCrossentropy(label_smoothing=0.1)],
            "loss_weights": [0.5, 1.0],
            "metrics": [["mae"], ["accuracy"]],
        },
        two_headed_data,
    ),
    "vectors": Subject(
        vector_model,
        lambda: {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]},
        vector_data,
    ),
    "vectors, sample_weight": Subject(
        vector_model,
        lambda: {
            "loss": "categorical_crossentropy",
            "metrics": ["accuracy"],
            "weighted_metrics": ["accuracy"],
        },
        weighted_vector_data,
    ),
    "vectors, class_weight": Subject(
        vector_model,
        lambda: {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]},
        vector_data,
        fit={"class_weight": {0: 1.0, 1: 3.0, 2: 0.5, 3: 0.0}},
    ),
}

KNOWN = dict(SUBJECTS)
"""What functions of this module find by name: `SUBJECTS`, and those that test modules add."""
