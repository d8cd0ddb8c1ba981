"""A strategy never changes the mathematics: training equals that of plain Keras on one device."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.runtime.strategies import NAMED, anything
from tests.runtime.subjects import OPTIMIZERS, SUBJECTS, assert_equal_training, lowering, train

ALONE = ["S", "A, height", "A, width", "P", "O", "O, overlapping"]
MIXED = {
    "A, channels": "sgd",
    "S and A": "adam",
    "S and P": "sgd",
    "A and P": "adam",
    "three devices": "sgd",
    "one device": "adam",
}
OTHERS = [(subject, "anything", "adam") for subject in SUBJECTS if subject != "images"] + [
    ("texts", "S and P", "sgd"),
    ("texts", "O, overlapping", "adam"),
    ("pairs", "S and P", "sgd"),
    ("pairs", "O, overlapping", "adam"),
    ("family", "S and P", "sgd"),
    ("heads", "O, overlapping", "sgd"),
    ("vectors, sample_weight", "S and P", "sgd"),
    ("vectors, class_weight", "S and P", "sgd"),
]


@pytest.mark.parametrize(
    ("name", "optimizer"), [*((name, "sgd") for name in ALONE), ("S", "adam"), ("P", "adam")]
)
def test_each_kind_of_parallelism_alone_trains_as_keras_does(name, optimizer):
    strategy = NAMED[name](lowering("images"))
    assert_equal_training("images", optimizer, train(SUBJECTS["images"], optimizer, strategy))


@pytest.mark.parametrize(("name", "optimizer"), MIXED.items())
def test_mixtures_train_as_keras_does(name, optimizer):
    strategy = NAMED[name](lowering("images"))
    assert_equal_training("images", optimizer, train(SUBJECTS["images"], optimizer, strategy))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    # An example takes seconds, and its neighbours do not get simpler.
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_strategy_trains_as_keras_does(optimizer, seed):
    # Other strategies for every optimizer.
    strategy = anything(lowering("images"), seed + list(OPTIMIZERS).index(optimizer))
    assert_equal_training("images", optimizer, train(SUBJECTS["images"], optimizer, strategy))


@pytest.mark.parametrize(("subject", "strategy", "optimizer"), OTHERS)
def test_other_layers_losses_and_weightings_train_as_in_keras(subject, strategy, optimizer):
    facts = lowering(subject)
    chosen = NAMED[strategy](facts) if strategy in NAMED else anything(facts, seed=2)
    assert_equal_training(subject, optimizer, train(SUBJECTS[subject], optimizer, chosen))
