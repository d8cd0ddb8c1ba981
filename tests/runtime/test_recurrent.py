"""Recurrent layers, whole and in blocks of steps, train as they do in plain Keras."""

import keras
import pytest
from keras import layers

from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.strategy.strategy import Strategy
from tests.conftest import NUM_DEVICES
from tests.runtime.strategies import NAMED, anything, split
from tests.runtime.subjects import (
    KNOWN,
    NUM_STEPS,
    Subject,
    assert_equal_training,
    lowering,
    train,
)

STEPS, WORDS, BATCH = 4, 12, 4


def words(rng, *shape):
    return rng.integers(0, WORDS, (NUM_STEPS * BATCH, *shape)).astype("int32")


def language_model(cell, cells=2):
    """One prediction for each step."""
    x = word = keras.Input((STEPS,), dtype="int32", name="word")
    x = layers.Embedding(WORDS, 8, name="embed")(x)
    for number in range(cells):
        x = cell(8, return_sequences=True, name=f"cell_{number}")(x)
        x = layers.LayerNormalization(name=f"norm_{number}")(x)
    return keras.Model(word, layers.Dense(WORDS, "softmax", name="next")(x), name="language")


def classifier():
    """One prediction for all steps, of layers that go both ways."""
    x = word = keras.Input((STEPS,), dtype="int32", name="word")
    x = layers.Embedding(WORDS, 8, name="embed")(x)
    y = layers.GRU(4, return_sequences=True, go_backwards=True, name="backwards")(x)
    x = layers.Concatenate(name="both")(
        [layers.SimpleRNN(4, return_sequences=True, name="forwards")(x), y]
    )
    x = layers.Dense(8, "tanh", name="mix")(x)
    x = layers.LSTM(8, name="last")(x)
    return keras.Model(word, layers.Dense(3, "softmax", name="class")(x), name="classifier")


def translator():
    """States of one layer start another, which reads the output of the first at every step."""
    source = keras.Input((STEPS,), dtype="int32", name="source")
    target = keras.Input((STEPS,), dtype="int32", name="target")
    x = layers.Embedding(WORDS, 8, name="embed_source")(source)
    encoded, *states = layers.LSTM(8, return_sequences=True, return_state=True, name="encoder")(x)
    y = layers.Embedding(WORDS, 8, name="embed_target")(target)
    y = layers.LSTM(8, return_sequences=True, name="decoder")(y, initial_state=states)
    context = layers.Attention(name="attention")([y, encoded])
    y = layers.Concatenate(name="joined")([y, context])
    return keras.Model([source, target], layers.Dense(WORDS, name="next")(y), name="translator")


def per_step():
    return {
        "loss": keras.losses.SparseCategoricalCrossentropy(),
        "metrics": ["sparse_categorical_accuracy"],
    }


def from_logits():
    return {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}


def make(build, compiled, data, time_chunk):
    return Subject(build, compiled, data, batch_size=BATCH, time_chunk=time_chunk)


KNOWN |= {
    f"{name}, {chunk or 'whole'}": make(build, compiled, data, chunk)
    for chunk in (None, 2)
    for name, build, compiled, data in (
        (
            "LSTM",
            lambda: language_model(layers.LSTM),
            per_step,
            lambda rng: (words(rng, STEPS), words(rng, STEPS)),
        ),
        (
            "GRU",
            lambda: language_model(layers.GRU, 1),
            per_step,
            lambda rng: (words(rng, STEPS), words(rng, STEPS), rng.uniform(0.5, 1, (20, STEPS))),
        ),
        (
            "classifier",
            classifier,
            per_step,
            lambda rng: (words(rng, STEPS), words(rng) % 3),
        ),
        (
            "translator",
            translator,
            from_logits,
            lambda rng: ([words(rng, STEPS), words(rng, STEPS)], words(rng, STEPS)),
        ),
    )
}


def wavefront(facts) -> Strategy:
    """Every layer on a device of its own, but each of its blocks on the next."""
    configs = []
    for operator, dimensions in zip(facts.graph.operators, facts.dimensions, strict=True):
        layer = sum(map(ord, operator.layer))
        _, _, block = operator.name.partition("/block_")
        device = (layer + int(block or 0)) % NUM_DEVICES
        configs.append(ParallelConfig((1,) * len(dimensions), (device,)))
    return Strategy(tuple(configs))


STRATEGIES = {
    "S": NAMED["S"],
    "P": NAMED["P"],
    "S and P": NAMED["S and P"],
    "A": lambda facts: split(facts, {"A": 2}),
    "O, overlapping": NAMED["O, overlapping"],
    "wavefront": wavefront,
    "anything": lambda facts: anything(facts, seed=0),
    "anything else": lambda facts: anything(facts, seed=5),
}


@pytest.mark.parametrize(
    ("name", "optimizer", "strategy"),
    [
        *(("LSTM, 2", "adam", strategy) for strategy in STRATEGIES),
        ("translator, 2", "sgd", "S and P"),
        ("translator, 2", "sgd", "wavefront"),
        ("translator, 2", "sgd", "anything"),
    ],
)
def test_blocks_of_steps_train_as_keras_does(name, optimizer, strategy):
    chosen = STRATEGIES[strategy](lowering(name))
    assert_equal_training(name, optimizer, train(KNOWN[name], optimizer, chosen))


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("LSTM, whole", "P"),
        ("LSTM, whole", "anything"),
        ("GRU, whole", "S and P"),
        ("GRU, 2", "P"),
        ("GRU, 2", "anything"),
        ("classifier, 2", "S and P"),
    ],
)
def test_recurrent_layers_split_by_units_train_as_keras_does(name, strategy):
    chosen = STRATEGIES[strategy](lowering(name))
    assert_equal_training(name, "sgd", train(KNOWN[name], "sgd", chosen))
