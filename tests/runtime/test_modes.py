"""Models that branch on `training` train, and are used, as in Keras."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

from keras_soap import SoapStrategy
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.strategy.strategy import Strategy
from tests import branching
from tests.runtime.strategies import NAMED, anything
from tests.runtime.subjects import (
    KNOWN,
    NUM_STEPS,
    Subject,
    assert_equal_training,
    lowering,
    reference,
    train,
)

WIDTH = 8


def built(make):
    def build():
        model = make()
        for training in (False, True):
            model(np.ones((1, WIDTH), "float32"), training=training)
        return model

    return build


def vision_transformer():
    x = keras.Input((6, WIDTH), name="patches")
    y = branching.Block(WIDTH, name="one")(x)
    y = branching.Noisy(WIDTH, name="noisy")(y)
    y = branching.Dropped(name="dropped")(y)
    y = layers.GlobalAveragePooling1D(name="mean")(y)
    return keras.Model(x, layers.Dense(4, name="classes")(y), name="vit")


def data(*shape):
    def make(rng):
        x = rng.normal(size=(NUM_STEPS * 8, *shape)).astype("float32")
        return x, rng.integers(0, 4, len(x))

    return make


def compiled():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return {"loss": loss, "metrics": ["accuracy"]}


SUBJECTS = {
    # The bias of keys moves all scores of a query alike.
    "branching, transformer": Subject(
        vision_transformer, compiled, data(6, WIDTH), noise=("key/bias",)
    ),
    # What comes before a batch normalization, which centres it, has a bias without a gradient.
    "branching, classifier": Subject(built(branching.Classifier), compiled, data(WIDTH)),
    "branching, heads": Subject(built(branching.TwoHeads), compiled, data(WIDTH)),
    "branching, adds loss": Subject(
        built(lambda: branching.Variational(always=True)), compiled, data(WIDTH)
    ),
    "branching, adds loss in training": Subject(
        built(lambda: branching.Variational(always=False)), compiled, data(WIDTH)
    ),
    "branching, autoencoder": Subject(built(branching.Autoencoder), compiled, data(WIDTH)),
}
KNOWN |= SUBJECTS


def whole_draws(facts, strategy):
    """The strategy with what draws random numbers in one part, which draws what Keras draws."""
    draws = {"draw", "noise", "dot_product_attention", "whole", "samplewise"}
    configs = [
        ParallelConfig((1,) * len(config.degrees), config.devices[-1:])
        if operator.kind in draws
        else config
        for operator, config in zip(facts.graph.operators, strategy.configs, strict=True)
    ]
    return Strategy(tuple(configs))


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        *((name, "S and P") for name in SUBJECTS),
        ("branching, classifier", 1),
        ("branching, heads", 1),
        ("branching, adds loss", 1),
    ],
)
def test_it_trains_evaluates_and_predicts_as_in_keras(name, seed):
    facts, subject = lowering(name), KNOWN[name]
    chosen = anything(facts, seed) if isinstance(seed, int) else NAMED[seed](facts)
    trained = train(subject, "sgd", whole_draws(facts, chosen))
    assert_equal_training(name, "sgd", trained)
    x, y, _ = subject.samples()
    # The last batch is smaller.
    x, y = x[:20], y[:20]
    plain = reference(name, "sgd").model
    callbacks = [trained.soap]
    np.testing.assert_allclose(
        trained.model.evaluate(x, y, batch_size=8, verbose=0, callbacks=callbacks),
        plain.evaluate(x, y, batch_size=8, verbose=0),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        trained.model.predict(x, batch_size=8, verbose=0, callbacks=callbacks),
        plain.predict(x, batch_size=8, verbose=0),
        rtol=1e-4,
        atol=1e-5,
    )


def drop_paths():
    x = keras.Input((WIDTH,), name="x")
    y = branching.DropPath(0.5, name="drop_path")(x)
    return keras.Model(x, layers.Dense(4, name="classes")(y), name="paths")


GLOBAL = Subject(drop_paths, compiled, data(WIDTH))


def test_draws_are_again_the_same_in_another_run_and_others_in_each_step():
    runs = [train(GLOBAL, "sgd", SoapStrategy(method="data_parallel", verbose=0)) for _ in range(2)]
    assert runs[0].logs == runs[1].logs
    # Weights do not change, so that losses differ by what is drawn alone.
    frozen = dataclasses.replace(
        GLOBAL,
        data=lambda rng: tuple(
            np.tile(part[:8], (NUM_STEPS, *(1,) * (part.ndim - 1))) for part in data(WIDTH)(rng)
        ),
    )
    still = train(
        frozen, keras.optimizers.SGD(0.0), SoapStrategy(method="data_parallel", verbose=0)
    )
    assert len({log["loss"] for log in still.logs}) == NUM_STEPS


def test_evaluation_and_prediction_leave_the_states_of_draws_alone():
    trained = train(GLOBAL, "sgd", SoapStrategy(method="data_parallel", verbose=0))
    x, y, _ = GLOBAL.samples()
    expected = trained.model(x)
    for _ in range(2):
        found = trained.model.predict(x, batch_size=8, verbose=0, callbacks=[trained.soap])
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    logs = [
        trained.model.evaluate(x, y, batch_size=8, verbose=0, callbacks=[trained.soap])
        for _ in range(2)
    ]
    assert logs[0] == logs[1]
