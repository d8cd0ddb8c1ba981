"""The accuracy benchmark: figures of pairs that were worked out by hand, and its resuming."""

import json

import numpy as np
import pytest

from keras_soap.costs.roofline import Roofline
from keras_soap.graph.zoo import MODELS
from keras_soap.search.problem import Problem
from keras_soap.topology.presets import scaled_cluster
from tests.examples.programs import loaded


@pytest.fixture(scope="module")
def accuracy():
    with loaded("accuracy_figures", "accuracy_worker", "accuracy") as modules:
        yield modules


@pytest.fixture
def figures(accuracy):
    return accuracy["accuracy_figures"]


def pair(model, predicted, *turns, speed=None):
    """A pair whose turns have one step each, or those of a list."""
    measured = [turn if isinstance(turn, list) else [turn] for turn in turns]
    return {
        "model": model,
        "strategy": "",
        "predicted_s": predicted,
        "measured_s": measured,
        "processor_s": measured,
        "speed": speed or [[1.0] * len(turn) for turn in measured],
    }


def test_figures_are_those_of_the_pairs(figures):
    pairs = [pair("a", 1.0, 1.0), pair("a", 2.0, 4.0), pair("a", 3.0, 3.0)]
    pairs = figures.of_network(pairs) + figures.of_network([pair("b", 1.2, 1.0)])
    found = figures.summarize(pairs)
    assert found["num_pairs"] == 4
    assert found["mean_error"] == pytest.approx((0 + 0.5 + 0 + 0.2) / 4)
    assert found["mean_error_of"] == {"a": pytest.approx(0.5 / 3), "b": pytest.approx(0.2)}
    assert found["max_error"] == 0.5
    assert found["share_within_30_percent"] == 0.75
    assert found["kendall_tau"] == {"a": pytest.approx(1 / 3), "b": 0.0}
    assert found["chosen_over_best"] == {"a": 1.0, "b": 1.0}


def test_what_was_chosen_is_compared_with_the_best_that_was_measured(figures):
    found = figures.summarize(figures.of_network([pair("a", 1.0, 3.0), pair("a", 2.0, 2.0)]))
    assert found["chosen_over_best"] == {"a": 1.5}
    assert found["kendall_tau"] == {"a": -1.0}


def test_turns_count_relative_to_those_of_other_strategies_in_the_same_round(figures):
    # The machine is half as fast in the second round, and the first strategy unlucky in the third.
    pairs = [
        pair("a", 2.0, [1.0, 9.0, 2.0], 4.0, 9.0, 2.0, 2.0),
        pair("a", 3.0, 3.0, 6.0, 3.0, 3.0, 3.0),
        pair("a", 4.0, 4.0, 8.0, 4.0, 4.0, 4.0),
    ]
    assert figures.steps_s(pairs) == pytest.approx([2.0, 3.0, 4.0])
    assert [figures.error(of) for of in figures.of_network(pairs)] == pytest.approx([0, 0, 0])
    busy = {**pairs[0], "processor_s": [[2.0, 8.0, 2.0], [8.0], [9.0], [4.0], [10.5]]}
    assert figures.cores(busy) == 1.5


def test_how_far_halves_of_the_rounds_are_from_all_is_told(figures):
    # One half is rounds 0 and 3, the other 1 and 2.
    found = figures.of_network([pair("a", 1.0, 2.0, 3.0, 3.0, 2.0), pair("a", 1.0, *[1.0] * 4)])
    # By halves 2 and 3 times the second strategy; the level is 1.5 in one and 2 in the other.
    assert found[0]["step_s"] == pytest.approx(found[1]["step_s"] * 2.5, rel=0.05)
    assert found[0]["spread"] == pytest.approx(0.5 / found[0]["step_s"])
    assert figures.of_network([pair("a", 2.0, [1.0, 9.0])])[0]["spread"] == 0


def test_steps_count_in_which_cores_were_as_fast_as_they_usually_are(figures):
    # Three quarters are up to 0.9, and 85 % of that is 0.765.
    one = pair("a", 1.0, [2.0, 1.0], [4.0, 3.0], speed=[[0.9, 0.7], [0.8, 0.9]])
    other = pair("a", 1.0, [8.0, 7.0], [6.0, 5.0], speed=[[0.5, 0.6], [0.9, 0.9]])
    kept = figures.of_network([one, other])
    assert [of["measured_s"] for of in kept] == [[[2.0], [4.0, 3.0]], [[], [6.0, 5.0]]]
    assert [of["processor_s"] for of in kept] == [of["measured_s"] for of in kept]
    assert (figures.num_steps(kept), figures.num_steps([one, other])) == (5, 8)
    # The second has no step in one half, and no turn to compare with the first one's first.
    assert kept[1]["spread"] == 0
    assert figures.tau_of_halves(kept) is None
    assert figures.order(*kept) == 0


def test_a_strategy_whose_steps_all_were_disturbed_keeps_them(figures):
    quiet = pair("a", 1.0, *[1.0] * 9)
    loud = pair("a", 1.0, *[3.0] * 9, speed=[[0.5]] * 9)
    assert figures.undisturbed([quiet, quiet, quiet, quiet, loud])[-1] == loud


def test_random_strategies_are_those_that_are_predicted_to_lie_far_apart(accuracy):
    far_apart = accuracy["accuracy_worker"].far_apart
    times = {"soap": 1.0, "expert": 2.0, "a": 2.1, "b": 1.5, "c": 8.0, "d": 3.5}
    # Gaps of ratios: c is 4 from the expert's, then d is 1.75 from it; b is 1.33, a 1.05.
    assert list(far_apart(times, ["soap", "expert"], 5)) == ["soap", "expert", "c", "d", "b"]
    assert far_apart(times, ["soap", "expert"], 1) == {"soap": 1.0}
    assert far_apart(times, ["soap", "expert"], 9) == times


def test_random_strategies_spread_few_operators_or_many(accuracy):
    graph, topology = MODELS["alexnet"](), scaled_cluster(2)
    space = Problem(graph, topology, Roofline()).space
    rng = np.random.default_rng(0)
    made = [accuracy["accuracy_worker"].partly_random(space, rng) for _ in range(40)]
    assert all(space.contains(strategy) for strategy in made)
    home = space.whole().configs
    elsewhere = [
        sum(c != at_home for c, at_home in zip(strategy.configs, home, strict=True))
        for strategy in made
    ]
    # With all of them anywhere, about three quarters are elsewhere.
    assert min(elsewhere) < 0.1 * len(home)
    assert max(elsewhere) > 0.5 * len(home)


def test_orders_that_rounds_do_not_agree_about_are_counted_apart(figures):
    slow, fast = pair("a", 3.0, *[9] * 6), pair("a", 1.0, *[5] * 6)
    unsteady = pair("a", 2.0, 4, 6, 4, 6, 6, 4)
    assert figures.order(fast, slow) == -1 == -figures.order(slow, fast)
    assert figures.order(fast, unsteady) == 0
    found = figures.summarize(figures.of_network([slow, fast, unsteady]))
    assert (found["orders"], found["undecided_orders"]) == ({"a": 3}, {"a": 1})
    assert found["kendall_tau_of_decided"] == {"a": 1.0}
    # Of the median of 0.8 and 1 in its rounds, and 1 and 5/6 of the fast one, the former is less.
    assert found["kendall_tau"]["a"] == pytest.approx(1 / 3)
    assert "1 of 3" in figures.render(found)
    assert figures.tau_of_decided([fast, unsteady]) is None


def test_an_order_is_decided_where_chance_would_seldom_agree_so(figures):
    # Of 6 tosses all are alike in 1 of 32 cases, of 5 in 1 of 16, of 12 ten or more in 1 of 26.
    assert figures.order(pair("a", 1, *[1] * 6), pair("a", 1, *[2] * 6)) == -1
    assert figures.order(pair("a", 1, *[1] * 5), pair("a", 1, *[2] * 5)) == 0
    mostly = pair("a", 1, *[1] * 10, *[3] * 2)
    assert figures.order(mostly, pair("a", 1, *[2] * 12)) == -1
    assert figures.order(pair("a", 1, *[1] * 9, *[3] * 3), pair("a", 1, *[2] * 12)) == 0


def test_halves_of_the_rounds_have_as_many_that_went_either_way(figures):
    # One half is rounds 0, 3, 4 and 7, the other 1, 2, 5 and 6.
    one, other = pair("a", 1, 1, 9, 9, 1, 1, 9, 9, 1), pair("a", 1, 2, 8, 8, 2, 2, 8, 8, 2)
    assert figures.tau_of_halves([one, other]) == -1.0
    assert figures.tau_of_halves([pair("a", 1, 1), pair("a", 1, 2)]) is None


def test_kendalls_tau_counts_ties_as_scipy_does(figures):
    a, b = [12, 2, 1, 12, 2], [1, 4, 7, 1, 0]
    assert figures.kendall_tau(a, b) == pytest.approx(-0.47140452079103173)


def test_only_the_turns_that_are_missing_are_measured(accuracy, tmp_path, monkeypatch):
    worker = accuracy["accuracy_worker"]
    timed = []

    class Fit:
        def __init__(self, name, strategy, options):
            self.strategy = strategy.stem

        def turn(self):
            if len(timed) == 3:
                raise KeyboardInterrupt
            timed.append(self.strategy)
            return {"measured_s": [float(len(timed))], "processor_s": [0.0], "speed": [1.0]}

    monkeypatch.setattr(worker, "_Fit", Fit)
    monkeypatch.setattr(worker, "start_devices", lambda num_devices: None)
    (tmp_path / "plan.json").write_text(json.dumps({"one": 1.0, "other": 2.0}))
    options = worker.Options(num_rounds=3)
    with pytest.raises(KeyboardInterrupt):
        worker.measure("rnnlm", tmp_path, options)
    # The second round goes backwards.
    assert timed == ["one", "other", "other"]
    timed[:] = ["", ""]
    with pytest.raises(KeyboardInterrupt):
        worker.measure("rnnlm", tmp_path, options)
    assert timed[2:] == ["one"]
    timed[:] = [""] * 4
    worker.measure("rnnlm", tmp_path, options)
    assert timed[4:] == ["one", "other"]
    measured = json.loads((tmp_path / "measured.json").read_text())
    assert measured["one"]["measured_s"] == [[1.0], [3.0], [5.0]]
    assert measured["other"]["measured_s"] == [[2.0], [3.0], [6.0]]
    assert measured["other"]["processor_s"] == [[0.0]] * 3
