"""A strategy never changes the mathematics: training equals that of plain Keras on one device."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.runtime.strategies import NAMED, anything
from tests.runtime.subjects import OPTIMIZERS, assert_equal_training, lowering, train, SUBJECTS


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", NAMED)
def test_each_kind_of_parallelism_trains_as_keras_does(name, optimizer):
    strategy = NAMED[name](lowering("images"))
    assert_equal_training("images", optimizer, train(SUBJECTS["images"], optimizer, strategy))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    # An example takes seconds, and its neighbours do not get simpler.
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_strategy_trains_as_keras_does(optimizer, seed):
    strategy = anything(lowering("images"), seed)
    assert_equal_training("images", optimizer, train(SUBJECTS["images"], optimizer, strategy))
