"""What every search must do."""

import itertools

import pytest

from keras_soap.errors import SearchError
from keras_soap.search import baseline
from keras_soap.search import problem as problems
from keras_soap.search.problem import Budget, RunOptions
from keras_soap.search.result import StopReason
from keras_soap.search.run import METHODS, find, search
from keras_soap.strategy.baselines import BASELINES
from keras_soap.strategy.strategy import check_strategy
from tests.search import toys

SEARCHES = [name for name in METHODS if name not in BASELINES]
PROBLEMS = {
    "chain": toys.problem(toys.chain((64, 32), 8), toys.machine(2)),
    "diamond": toys.problem(toys.diamond(), toys.machine(3), dims="SP"),
    "twins": toys.problem(toys.twins(512), toys.machine(2)),
    "inference": toys.problem(toys.chain(), toys.machine(2), training=False),
    "one device": toys.problem(toys.chain(), toys.machine(1)),
}
BUDGET = Budget(proposals=120)


@pytest.fixture(params=PROBLEMS)
def problem(request):
    return PROBLEMS[request.param]


@pytest.mark.parametrize("method", METHODS)
class TestEverySearch:
    def test_result_is_valid_and_costs_what_it_says(self, method, problem):
        result = find(method)(problem, BUDGET, 0)
        check_strategy(
            problem.graph,
            problem.lowering.dimensions,
            result.strategy,
            problem.topology.num_devices,
        )
        assert result.evaluation == problem.objective.evaluate(result.strategy)
        assert result.method == method
        assert set(result.baselines) == set(BASELINES)

    def test_same_seed_same_result(self, method, problem):
        first, second = (find(method)(problem, BUDGET, 3) for _ in range(2))
        assert first.strategy == second.strategy
        assert first.proposals == second.proposals

    def test_the_best_never_gets_slower(self, method, problem):
        history = find(method)(problem, BUDGET, 1).history
        assert history
        for before, after in itertools.pairwise(history):
            assert after.best_ns <= before.best_ns
            assert after.proposals >= before.proposals
            assert after.seconds >= before.seconds

    def test_budget_of_proposals_is_kept(self, method, problem):
        result = find(method)(problem, BUDGET, 0)
        assert result.proposals <= 1.3 * BUDGET.proposals + 16

    def test_budget_of_time_is_kept(self, method, problem):
        result = find(method)(problem, Budget(seconds=0.2), 0)
        assert result.search_seconds < 1.0

    def test_budget_of_nothing_gives_a_baseline(self, method, problem):
        result = find(method)(problem, Budget(proposals=0), 0)
        assert result.strategy in [
            found.strategy for found in (*problem.baselines.values(), *problem.starts)
        ]


@pytest.mark.parametrize("method", SEARCHES)
class TestEverySearchForSomethingBetter:
    def test_is_never_worse_than_the_baselines_of_its_space(self, method, problem):
        result = find(method)(problem, BUDGET, 0)
        assert problem.space.contains(result.strategy)
        for found in result.baselines.values():
            if problem.space.contains(found.strategy):
                assert result.evaluation.rank <= found.rank

    def test_is_never_worse_than_what_it_starts_from(self, method):
        best = toys.fastest(PROBLEMS["chain"]).strategy
        start = toys.problem(toys.chain((64, 32), 8), toys.machine(2), initial=(best,))
        assert find(method)(start, BUDGET, 0).evaluation.step_time_ns == (
            start.objective.evaluate(best).step_time_ns
        )

    def test_calls_back(self, method, problem):
        seen = []
        result = find(method)(problem, BUDGET, 0, RunOptions(callbacks=(seen.append,)))
        assert seen
        assert seen[-1].best_ns == result.evaluation.step_time_ns

    def test_keeps_the_best_when_interrupted(self, method, problem):
        def interrupt(progress):
            if progress.proposals > 0:
                raise KeyboardInterrupt

        result = find(method)(problem, BUDGET, 0, RunOptions(callbacks=(interrupt,)))
        assert result.evaluation.rank <= problem.starts[0].rank


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_are_searches_that_give_themselves(name, problem):
    result = baseline.named(name)(problem, BUDGET, 0)
    assert result.evaluation == problem.baselines[name]
    assert result.stopped_by == StopReason.COMPLETE


def test_search_by_name():
    result = search(
        toys.chain(), toys.machine(2), budget=BUDGET, method="mcmc", progress=False, num_cores=1
    )
    assert result.evaluation.feasible
    assert result.cost_source == "analytic"


def test_unknown_search_is_refused():
    with pytest.raises(SearchError, match=r"No search is called 'magic'. Use one of: mcmc"):
        search(toys.chain(), toys.machine(2), budget=BUDGET, method="magic", progress=False)


def test_budget_needs_a_limit():
    with pytest.raises(SearchError, match="Give seconds, proposals, or both"):
        Budget()
    with pytest.raises(SearchError, match="must be 0 or more"):
        Budget(seconds=-1)


def test_what_fits_nowhere_is_refused():
    with pytest.raises(SearchError, match=r"fits into memory.*Use a smaller batch"):
        search(
            toys.chain(),
            toys.machine(2, memory_bytes=1000),
            budget=BUDGET,
            progress=False,
            num_cores=1,
        )


@pytest.mark.parametrize("method", ["mcmc", "exhaustive"])
def test_memory_drives_the_search_to_what_fits(method):
    # Whole or replicated weights take 4 × 512 × 512 × 4 bytes = 4 MiB; halves fit.
    graph = toys.chain((512, 512), 8)
    result = search(
        graph,
        toys.machine(2, memory_bytes=3 * 2**20),
        budget=Budget(proposals=2000),
        method=method,
        progress=False,
        num_cores=1,
    )
    assert result.evaluation.feasible
    assert result.strategy.configs[1].degrees == (1, 2)
    assert not result.baselines["data_parallel"].feasible


def test_baselines_of_too_many_transfers_are_left_out_unless_asked_for(monkeypatch):
    usual = toys.problem()
    pairs = {name: usual.lowering.num_pairs(e.strategy) for name, e in usual.baselines.items()}
    assert pairs["model_parallel"] > pairs["data_parallel"]
    monkeypatch.setattr(problems, "MOST_PAIRS", pairs["data_parallel"])
    limited = toys.problem()
    assert "data_parallel" in limited.baselines
    assert "model_parallel" not in limited.baselines
    result = baseline.named("model_parallel")(limited, Budget(proposals=1), 0)
    assert result.evaluation.step_time_ns == usual.baselines["model_parallel"].step_time_ns
