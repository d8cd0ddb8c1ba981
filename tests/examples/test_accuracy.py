"""The figures of the accuracy benchmark, of pairs that were worked out by hand."""

import pytest

from tests.examples.programs import loaded


@pytest.fixture(scope="module")
def accuracy():
    with loaded("accuracy") as modules:
        yield modules["accuracy"]


def pair(model, predicted, measured):
    return {"model": model, "strategy": "", "predicted_s": predicted, "measured_s": measured}


def test_figures_are_those_of_the_pairs(accuracy):
    pairs = [pair("a", 1.0, 1.0), pair("a", 2.0, 4.0), pair("a", 3.0, 3.0), pair("b", 1.2, 1.0)]
    figures = accuracy.summarize(pairs)
    assert figures["num_pairs"] == 4
    assert figures["mean_error"] == pytest.approx((0 + 0.5 + 0 + 0.2) / 4)
    assert figures["max_error"] == 0.5
    assert figures["share_within_30_percent"] == 0.75
    assert figures["kendall_tau"] == {"a": pytest.approx(1 / 3), "b": 0.0}
    assert figures["chosen_over_best"] == {"a": 1.0, "b": 1.0}


def test_what_was_chosen_is_compared_with_the_best_that_was_measured(accuracy):
    figures = accuracy.summarize([pair("a", 1.0, 3.0), pair("a", 2.0, 2.0)])
    assert figures["chosen_over_best"] == {"a": 1.5}
    assert figures["kendall_tau"] == {"a": -1.0}


def test_kendalls_tau_counts_ties_as_scipy_does(accuracy):
    a, b = [12, 2, 1, 12, 2], [1, 4, 7, 1, 0]
    assert accuracy.kendall_tau(a, b) == pytest.approx(-0.47140452079103173)
