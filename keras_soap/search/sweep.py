"""Simulates one strategy after the other, as small changes where they are near each other."""

from collections.abc import Mapping

from keras_soap.objective import Evaluation
from keras_soap.search.problem import Problem
from keras_soap.search.tracker import Tracker
from keras_soap.strategy.parallel_config import ParallelConfig


class BudgetSpent(Exception):
    """Ends a search from within."""


class Sweep:
    """Offers what it simulates to a tracker."""

    def __init__(self, problem: Problem, tracker: Tracker):
        self.objective = problem.objective
        self.families = problem.space.family_of
        self.tracker = tracker
        self._current: Evaluation = tracker.best

    def run(self, chosen: Mapping[int, ParallelConfig]) -> None:
        """Simulates a strategy.

        Args:
            chosen: A configuration for each operator that is no input of the model.

        Raises:
            BudgetSpent: If the tracker says so.
        """
        if self.tracker.spent():
            raise BudgetSpent
        self.tracker.proposals += 1
        before = self._current.strategy.configs
        change = {n: config for n, config in chosen.items() if config != before[n]}
        if not change:
            return
        if len({self.families[number] for number in change}) > 1:
            # To the end, so that others can start from it.
            self._current = self.objective.update(self._current, change)
            self.tracker.offer(self._current)
            return
        best = self.tracker.best
        limit_ns = best.step_time_ns if best.feasible else None
        self.tracker.offer(self.objective.update(self._current, change, limit_ns))
