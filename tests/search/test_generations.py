import numpy as np
import pytest

from keras_soap.objective import Evaluation
from keras_soap.search.chains import Chain
from keras_soap.search.generations import PATIENCE, Generations
from keras_soap.search.metropolis import ChainState
from keras_soap.strategy.strategy import Strategy


def found(step_time_ns, excess_bytes=0):
    return Evaluation(Strategy(()), step_time_ns, 0, excess_bytes, ())


def chains_at(bests, origins=(900, 800, 700, 600), excess_bytes=0):
    return [
        Chain(
            number,
            np.random.default_rng(number),
            ChainState(found(5000), found(best, excess_bytes)),
            0,
            found(origin),
        )
        for number, (best, origin) in enumerate(zip(bests, origins, strict=True))
    ]


def times(starts):
    return [start.step_time_ns for start in starts]


BEST = found(100)


def test_a_generation_begins_at_the_best_half_of_what_was_found_none_twice():
    generations = Generations()
    assert times(generations.starts(chains_at([30, 10, 20, 10]), BEST, last=False)) == [10, 20]
    assert times(generations.starts(chains_at([40, 40, 40, 40]), BEST, last=False)) == [40]


def test_when_nothing_is_gained_any_more_the_next_begins_where_the_first_did():
    generations = Generations()
    for _ in range(PATIENCE):
        assert times(generations.starts(chains_at([500] * 4), BEST, last=False)) == [500]
    assert generations.found == []
    assert times(generations.starts(chains_at([500] * 4), BEST, last=False)) == [600, 700]
    assert times(generations.found) == [500]
    # A new epoch has as many generations to gain something.
    for _ in range(PATIENCE):
        assert times(generations.starts(chains_at([550] * 4), BEST, last=False)) == [550]
    assert times(generations.starts(chains_at([550] * 4), BEST, last=False)) == [600, 700]
    assert times(generations.found) == [500, 550]


@pytest.mark.parametrize("gained", ["the best", "others"])
def test_an_epoch_goes_on_while_what_its_generations_begin_at_gets_faster(gained):
    generations = Generations()
    for number in range(4 * PATIENCE):
        slower = 600_000 - 1_000 * number
        bests = [slower] * 4 if gained == "the best" else [400_000, slower, slower, slower]
        generations.starts(chains_at(bests), BEST, last=False)
    assert generations.found == []


def test_an_epoch_goes_on_while_what_was_found_does_not_fit_into_memory():
    generations = Generations()
    for excess_bytes in range(4 * PATIENCE, 0, -1):
        starts = generations.starts(chains_at([500] * 4, excess_bytes=excess_bytes), BEST, False)
        assert [start.excess_bytes for start in starts] == [excess_bytes]
    assert generations.found == []


def test_the_last_generations_begin_at_what_all_epochs_found():
    generations = Generations()
    for best in (500, 300):
        for _ in range(PATIENCE + 1):
            generations.starts(chains_at([best] * 4), BEST, last=False)
    generations.starts(chains_at([450, 400, 460, 470]), BEST, last=False)
    chains = chains_at([450, 400, 460, 470])
    assert times(generations.starts(chains, found(250), last=True)) == [250, 300]
    # From then on they go their way, however little they gain.
    for _ in range(2 * PATIENCE):
        assert times(generations.starts(chains_at([450] * 4), found(250), last=True)) == [450]
