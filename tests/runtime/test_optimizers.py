"""What an optimizer does with gradients as a whole comes out as on one device."""

import inspect
import json
import re

import keras
import numpy as np
import pytest
from keras import layers

from keras_soap import SoapStrategy
from keras_soap.errors import ExecutionError
from keras_soap.runtime.optimizers import ELEMENTWISE
from tests.runtime.strategies import NAMED
from tests.runtime.subjects import SUBJECTS, lowering


def train_both(
    subject: str, strategy: str, optimizer, tolerance=1e-5, change=lambda x: x
) -> keras.Model:
    """Trains with and without a strategy; compares losses, weights and the optimizer's state.

    Returns the model trained under the strategy.
    """
    plain, expected = plain_training(subject, optimizer, change)
    soap = SoapStrategy(strategy=NAMED[strategy](lowering(subject)), verbose=0)
    ours, found = training(subject, optimizer, change, [soap])
    np.testing.assert_allclose(found, expected, rtol=tolerance)
    for one, other in zip(
        [*ours.weights, *ours.optimizer.variables],
        [*plain.weights, *plain.optimizer.variables],
        strict=True,
    ):
        scale = max(1e-3, float(np.abs(other.numpy()).max()))
        np.testing.assert_allclose(
            one.numpy(), other.numpy(), rtol=0, atol=tolerance * scale, err_msg=other.path
        )
    return ours


def training(subject, optimizer, change, callbacks) -> tuple[keras.Model, list[float]]:
    """A trained model, and the loss of each step."""
    x, y, _ = SUBJECTS[subject].samples()
    x = change(x)
    model = SUBJECTS[subject].model(optimizer())
    # An epoch for each step, so that the loss of each shows.
    losses = [
        model.fit(
            keras.tree.map_structure(lambda a, at=at: a[at : at + 8], x),
            keras.tree.map_structure(lambda a, at=at: a[at : at + 8], y),
            batch_size=8,
            verbose=0,
            callbacks=callbacks,
        ).history["loss"][0]
        for at in range(0, 40, 8)
    ]
    return model, losses


_plain: dict[tuple[str, ...], tuple[keras.Model, list[float]]] = {}


def plain_training(subject, optimizer, change) -> tuple[keras.Model, list[float]]:
    """`training` without a strategy, once for each optimizer and change of the samples."""
    made = json.dumps(keras.optimizers.serialize(optimizer()), default=str, sort_keys=True)
    # Keras numbers the names of optimizers.
    key = (subject, re.sub(r'"name": "\w+"', "", made), change.__qualname__)
    if key not in _plain:
        _plain[key] = training(subject, optimizer, change, [])
    return _plain[key]


CLIPPING = {
    "norm": {"clipnorm": 0.02},
    "norm, never reached": {"clipnorm": 1e3},
    "global norm": {"global_clipnorm": 0.05},
    "value": {"clipvalue": 0.003},
}


@pytest.mark.parametrize(
    ("strategy", "clipping"),
    [
        ("S", "norm"),
        ("P", "global norm"),
        ("S and P", "norm"),
        ("S and P", "global norm"),
        ("O, overlapping", "norm"),
        ("three devices", "global norm"),
        ("S and P", "norm, never reached"),
        ("S and P", "value"),
    ],
)
def test_clipping_takes_the_norm_of_the_whole(strategy, clipping):
    train_both(
        "vectors",
        strategy,
        lambda: keras.optimizers.SGD(0.5, momentum=0.9, **CLIPPING[clipping]),
    )


@pytest.mark.parametrize(
    ("strategy", "clipping"),
    [("S", "norm"), ("P", "global norm"), ("S and P", "norm"), ("S and P", "global norm")],
)
def test_clipping_of_sparse_gradients(strategy, clipping):
    # Global clipping makes them dense, as Keras's does: Adam shows it.
    train_both("texts", strategy, lambda: keras.optimizers.Adam(0.001, **CLIPPING[clipping]), 2e-5)


@pytest.mark.parametrize(("strategy", "clipping"), [("S", "norm"), ("S and P", "global norm")])
def test_clipping_of_accumulated_gradients(strategy, clipping):
    train_both(
        "vectors",
        strategy,
        lambda: keras.optimizers.SGD(0.5, gradient_accumulation_steps=2, **CLIPPING[clipping]),
    )


def test_clipping_of_convolutions_and_normalization():
    train_both("images", "S and P", lambda: keras.optimizers.SGD(0.05, global_clipnorm=0.1), 2e-5)


def test_averages_that_overwrite_weights():
    train_both(
        "vectors",
        "S and P",
        lambda: keras.optimizers.SGD(
            0.1, use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=2
        ),
    )


def test_a_fixed_loss_scale():
    train_both("vectors", "S and P", lambda: keras.optimizers.SGD(0.1, loss_scale_factor=128.0))
    train_both(
        "vectors",
        "S and P",
        lambda: keras.optimizers.SGD(0.1, loss_scale_factor=128.0, clipnorm=0.02),
    )


@pytest.mark.parametrize("strategy", ["S and P", "O, overlapping"])
def test_a_loss_scale_that_grows(strategy):
    train_both(
        "vectors",
        strategy,
        lambda: keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.1),
            initial_scale=64.0,
            dynamic_growth_steps=2,
        ),
    )


@pytest.mark.parametrize("strategy", ["S and P", "O, overlapping"])
def test_steps_with_infinite_gradients_are_skipped_everywhere(strategy):
    def with_an_outlier(x):
        x[11] *= 1e6  # in the second step
        return x

    model = train_both(
        "vectors",
        strategy,
        lambda: keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.1, momentum=0.9), initial_scale=2.0**113
        ),
        change=with_an_outlier,
    )
    assert int(model.optimizer.iterations) == 4
    assert float(model.optimizer.dynamic_scale) == 2.0**112


def mixed(policy: str, strategy: str):
    """Trains under a dtype policy with and without a strategy; gives models and histories."""

    def build():
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [
                keras.Input((6,), name="x"),
                layers.Dense(8, "relu", name="inner"),
                layers.Dense(4, name="class"),
                layers.Activation("softmax", dtype="float32"),
            ]
        )
        model.compile("adam", "sparse_categorical_crossentropy")
        return model

    x, y, _ = SUBJECTS["vectors"].samples()
    keras.config.set_dtype_policy(policy)
    try:
        plain, ours = build(), build()
        fit = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0}
        expected = plain.fit(x, y, **fit)
        soap = SoapStrategy(method="data_parallel", verbose=0)
        if strategy != "S":
            captured = SoapStrategy(method="data_parallel", verbose=0)
            build().fit(x, y, callbacks=[captured], **fit)
            soap = SoapStrategy(strategy=NAMED[strategy](captured.costs.lowering), verbose=0)
        actual = ours.fit(x, y, callbacks=[soap], **fit)
    finally:
        keras.config.set_dtype_policy("float32")
    assert int(ours.optimizer.iterations) == int(plain.optimizer.iterations) > 0
    return plain, ours, expected.history["loss"], actual.history["loss"]


@pytest.mark.parametrize("strategy", ["P", "S and P"])
def test_mixed_float16_scales_the_loss_by_itself(strategy):
    plain, ours, expected, actual = mixed("mixed_float16", strategy)
    assert isinstance(ours.optimizer, keras.optimizers.LossScaleOptimizer)
    assert float(ours.optimizer.dynamic_scale) == float(plain.optimizer.dynamic_scale)
    # To the digits that float16 has.
    np.testing.assert_allclose(actual, expected, rtol=2e-3)
    for one, other in zip(ours.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)


def test_mixed_bfloat16_keeps_weights_in_float32():
    plain, ours, expected, actual = mixed("mixed_bfloat16", "S and P")
    assert {w.dtype for w in ours.weights} == {"float32"}
    # To the digits that bfloat16 has.
    np.testing.assert_allclose(actual, expected, rtol=1e-2)
    for one, other in zip(ours.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-2)


ALL = [
    name
    for name, value in vars(keras.optimizers).items()
    if inspect.isclass(value)
    and issubclass(value, keras.optimizers.Optimizer)
    and name not in ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")
]
"""Every optimizer of Keras's that is none of others."""
REFUSED = ("Adafactor", "ScheduleFreeAdamW")


@pytest.mark.parametrize("name", ALL)
def test_every_optimizer_of_keras_trains_as_on_one_device_or_says_why_not(name):
    def make():
        return getattr(keras.optimizers, name)(0.002)

    if name in REFUSED:
        with pytest.raises(ExecutionError, match=f"Cannot run optimizer {name} .*Use one of"):
            train_both("vectors", "S", make)
    elif name in ELEMENTWISE:
        train_both("vectors", "S and P", make, 2e-5)
    else:
        train_both("vectors", "S", make, 2e-5)
        with pytest.raises(ExecutionError, match=f"{name} .* splits .*dims='SOA'"):
            train_both("vectors", "P", make)
