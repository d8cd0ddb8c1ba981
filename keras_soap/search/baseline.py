"""Baselines as searches: there is nothing to look for, so they end at once."""

from collections.abc import Callable

from keras_soap.search.problem import NO_OPTIONS, Budget, Problem, RunOptions
from keras_soap.search.result import Progress, SearchResult, StopReason


def named(name: str) -> Callable[[Problem, Budget, int, RunOptions], SearchResult]:
    """The search whose result is the baseline `name` itself, whether or not another is faster."""

    def search(
        problem: Problem, budget: Budget, seed: int, options: RunOptions = NO_OPTIONS
    ) -> SearchResult:
        evaluation = problem.baselines.get(name)
        if evaluation is None:
            evaluation = problem.objective.evaluate(problem.baseline(name))
        return SearchResult(
            strategy=evaluation.strategy,
            evaluation=evaluation,
            baselines=dict(problem.baselines),
            proposals=0,
            search_seconds=0.0,
            stopped_by=StopReason.COMPLETE,
            history=(Progress(0.0, 0, evaluation.step_time_ns),),
            seed=seed,
            method=name,
            cost_source=problem.profile.source,
        )

    return search
