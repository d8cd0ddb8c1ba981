"""The best strategy, the count and the clock of a search while it runs."""

import contextlib
import time

from keras_soap.objective import Evaluation
from keras_soap.search.checkpoint import Saved
from keras_soap.search.problem import NO_OPTIONS, Budget, Problem, RunOptions
from keras_soap.search.result import Progress, SearchResult, StopReason


class Tracker:
    """Keeps the best strategy, the count and the clock of one search."""

    def __init__(
        self,
        problem: Problem,
        budget: Budget,
        options: RunOptions = NO_OPTIONS,
        seconds_before: float = 0.0,
    ):
        """Starts the clock, and evaluates what every result must be as good as.

        Args:
            problem: What is searched for.
            budget: When to end.
            options: How it is run.
            seconds_before: Time spent before the search was interrupted and resumed.
        """
        self.budget = budget
        self.callbacks = options.callbacks
        self.started = time.perf_counter() - seconds_before
        self.proposals = 0
        self.history: list[Progress] = []
        self.starts = problem.starts
        self.best = min(self.starts, key=lambda evaluation: evaluation.rank)
        self.note()

    def resume(self, problem: Problem, saved: Saved) -> None:
        """Goes on from where a search was saved."""
        self.proposals = saved.proposals
        self.history = list(saved.history)
        self.best = min(self.best, problem.objective.evaluate(saved.best), key=lambda e: e.rank)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    @property
    def progress(self) -> Progress:
        return Progress(self.seconds, self.proposals, self.best.step_time_ns)

    def note(self) -> None:
        """Adds a line to the history."""
        self.history.append(self.progress)
        self.report()

    def report(self) -> None:
        """Calls the callbacks."""
        for callback in self.callbacks:
            callback(self.progress)

    def offer(self, evaluation: Evaluation) -> bool:
        """Keeps `evaluation` if it is the best so far."""
        if evaluation.rank >= self.best.rank:
            return False
        self.best = evaluation
        self.note()
        return True

    def spent(self) -> StopReason | None:
        """Which limit is reached, if one is."""
        if self.budget.proposals is not None and self.proposals >= self.budget.proposals:
            return StopReason.PROPOSALS
        if self.budget.seconds is not None and self.seconds >= self.budget.seconds:
            return StopReason.TIME
        return None

    def result(
        self,
        problem: Problem,
        method: str,
        seed: int,
        stopped_by: StopReason,
        proved: bool = False,
        lower_bound_ns: int = 0,
        locally_optimal: bool = False,
    ) -> SearchResult:
        """The outcome; evaluates the best once more, from nothing."""
        # A second Ctrl-C, or a callback that raises it, must not lose what was found.
        with contextlib.suppress(KeyboardInterrupt):
            self.note()
        return SearchResult(
            strategy=self.best.strategy,
            evaluation=problem.objective.evaluate(self.best.strategy),
            baselines=dict(problem.baselines),
            proposals=self.proposals,
            search_seconds=self.seconds,
            stopped_by=stopped_by,
            history=tuple(self.history),
            seed=seed,
            method=method,
            cost_source=problem.profile.source,
            proved=proved,
            lower_bound_ns=lower_bound_ns,
            locally_optimal=locally_optimal,
        )
