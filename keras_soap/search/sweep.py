"""Simulates every strategy of a product of configurations, most of them as small changes."""

import itertools
from collections.abc import Mapping, Sequence

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
        self.tracker = tracker
        self._current: Evaluation = tracker.best

    def run(
        self,
        chosen: Mapping[int, ParallelConfig],
        choices: Sequence[tuple[Sequence[int], Sequence[ParallelConfig]]] = (),
    ) -> None:
        """Simulates strategies.

        Args:
            chosen: What all of them have, by operator.
            choices: Operators that change together, and the configurations that they have in turn,
                each with each. Together with `chosen`, all operators.

        Raises:
            BudgetSpent: If the tracker says so.
        """
        if not all(configs for _, configs in choices):
            return
        ordered = sorted(choices, key=lambda choice: len(choice[1]))
        last_members, last_configs = ordered.pop() if ordered else ((), ())
        members = [numbers for numbers, _ in ordered]
        for configs in itertools.product(*(configs for _, configs in ordered)):
            self._count()
            change = dict(chosen)
            for numbers, config in zip(members, configs, strict=True):
                change.update(dict.fromkeys(numbers, config))
            change.update(dict.fromkeys(last_members, last_configs[0]) if last_configs else {})
            self._move(change)
            for config in last_configs[1:]:
                self._count()
                best = self.tracker.best
                limit_ns = best.step_time_ns if best.feasible else None
                change = dict.fromkeys(last_members, config)
                self.tracker.offer(self.objective.update(self._current, change, limit_ns))

    def _move(self, chosen: Mapping[int, ParallelConfig]) -> None:
        """Simulates a strategy to the end, so that others can start from it."""
        before = self._current.strategy.configs
        change = {n: config for n, config in chosen.items() if config != before[n]}
        if change:
            self._current = self.objective.update(self._current, change)
            self.tracker.offer(self._current)

    def _count(self) -> None:
        if self.tracker.spent():
            raise BudgetSpent
        self.tracker.proposals += 1
