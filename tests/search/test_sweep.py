import numpy as np
import pytest

from keras_soap.search.problem import Budget
from keras_soap.search.sweep import BudgetSpent, Sweep
from keras_soap.search.tracker import Tracker
from tests.search import toys


def test_strategies_in_any_order_are_simulated_each_as_if_it_were_the_only_one():
    problem = toys.problem(toys.chain((64, 64), 8), toys.machine(2))
    strategies = toys.every_strategy(problem)
    # In their order most differ in one operator, else in several.
    shuffled = np.random.default_rng(0).permutation(len(strategies))
    order = [*range(len(strategies)), *shuffled.tolist()]
    for first in range(0, len(order), 7):
        some = [strategies[number] for number in order[first : first + 7]]
        tracker = Tracker(problem, Budget(proposals=100_000))
        sweep = Sweep(problem, tracker)
        for strategy in some:
            sweep.run(dict(enumerate(strategy.configs)))
        fastest = min(map(problem.objective.evaluate, some), key=lambda found: found.rank)
        assert tracker.proposals == len(some)
        assert tracker.best.rank == min(fastest.rank, problem.starts[0].rank)


def test_ends_with_its_budget():
    problem = toys.problem(toys.chain((64, 64), 8), toys.machine(2))
    tracker = Tracker(problem, Budget(proposals=3))
    sweep = Sweep(problem, tracker)
    config = problem.space.whole().configs[1]
    for _ in range(3):
        sweep.run({1: config})
    with pytest.raises(BudgetSpent):
        sweep.run({1: config})
    assert tracker.proposals == 3
