import pytest

from keras_soap.search.problem import Budget
from keras_soap.search.sweep import BudgetSpent, Sweep
from keras_soap.search.tracker import Tracker
from tests.search import toys


def test_simulates_every_combination_once():
    problem = toys.problem(toys.chain((64, 64), 8), toys.machine(2))
    space = problem.space
    every = [list(space.configs(family, True)) for family in range(len(space.families))]
    tracker = Tracker(problem, Budget(proposals=100_000))
    chosen = {0: every[0][1]}
    Sweep(problem, tracker).run(chosen, [((n,), every[n]) for n in range(1, len(every))])
    strategies = [s for s in toys.every_strategy(problem) if s.configs[0] == every[0][1]]
    assert tracker.proposals == len(strategies)
    fastest = min(map(problem.objective.evaluate, strategies), key=lambda found: found.rank)
    assert tracker.best.rank == min(fastest.rank, problem.starts[0].rank)


def test_ends_with_its_budget():
    problem = toys.problem(toys.chain((64, 64), 8), toys.machine(2))
    tracker = Tracker(problem, Budget(proposals=3))
    choices = [((0,), list(problem.space.configs(0, True)))]
    whole = dict(enumerate(problem.space.whole().configs))
    with pytest.raises(BudgetSpent):
        Sweep(problem, tracker).run(whole, choices)
    assert tracker.proposals == 3


def test_nothing_to_choose_from_is_nothing_to_simulate():
    problem = toys.problem(toys.chain((64, 64), 8), toys.machine(2))
    tracker = Tracker(problem, Budget(proposals=3))
    Sweep(problem, tracker).run({}, [((0,), []), ((1,), list(problem.space.configs(1, True)))])
    assert tracker.proposals == 0
