import numpy as np

from keras_soap.search import reinforce
from keras_soap.search.problem import Budget
from tests.search import toys


def test_only_places_operators_whole():
    problem = toys.problem(toys.chain(), toys.machine(3))
    rng = np.random.default_rng(0)
    policy = reinforce.softmax(np.zeros((len(problem.space.families), 3)))
    strategy = reinforce.whole(problem, reinforce.draw(rng, policy))
    assert all(config.num_parts == 1 for config in strategy.configs)


def test_draws_follow_the_policy():
    rng = np.random.default_rng(0)
    policy = np.array([[0.2, 0.8], [1.0, 0.0]])
    drawn = np.array([reinforce.draw(rng, policy) for _ in range(5000)])
    assert abs(drawn[:, 0].mean() - 0.8) < 0.02
    assert not drawn[:, 1].any()


def test_fast_placements_become_more_likely():
    logits = np.zeros((1, 2))
    placements, costs = np.array([[0], [1]]), np.array([10.0, 20.0])
    after = reinforce.softmax(
        reinforce.improved(logits, reinforce.softmax(logits), placements, costs)
    )
    assert after[0, 0] > 0.6


def test_equal_costs_teach_nothing():
    logits = np.zeros((1, 2))
    placements, costs = np.array([[0], [1]]), np.array([10.0, 10.0])
    after = reinforce.improved(logits, reinforce.softmax(logits), placements, costs)
    assert (after == logits).all()


def test_finds_the_best_placement_of_a_small_graph():
    problem = toys.problem(toys.diamond(1024), toys.machine(2), dims="O")
    best = toys.fastest(problem)
    result = reinforce.search(problem, Budget(proposals=2000), 0)
    assert result.evaluation.step_time_ns == best.step_time_ns
