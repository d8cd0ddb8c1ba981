import dataclasses
import json

import numpy as np
import pytest

from keras_soap.errors import SearchError
from keras_soap.search import mcmc
from keras_soap.search.metropolis import ChainState
from keras_soap.search.problem import Budget, RunOptions
from keras_soap.search.result import StopReason
from keras_soap.search.run import search
from keras_soap.search.tracker import Tracker
from keras_soap.search.workers import Workers
from tests.search import toys


def test_finds_the_fastest_strategy_of_a_small_space():
    problem = toys.problem(toys.twins(512), toys.machine(2), dims="OP")
    result = mcmc.search(problem, Budget(proposals=3000), 0)
    assert result.evaluation.step_time_ns == toys.fastest(problem).step_time_ns


@pytest.mark.parametrize("seed", range(3))
def test_the_number_of_cores_does_not_change_the_result(seed):
    problem = toys.problem(toys.diamond(), toys.machine(4))
    budget = Budget(proposals=400)
    alone = mcmc.search(problem, budget, seed, RunOptions(num_cores=1))
    helped = mcmc.search(problem, budget, seed, RunOptions(num_cores=2))
    assert alone.strategy == helped.strategy
    assert alone.proposals == helped.proposals
    assert [(p.proposals, p.best_ns) for p in alone.history] == [
        (p.proposals, p.best_ns) for p in helped.history
    ]


def test_an_unpicklable_profile_is_searched_with_one_core():
    problem = toys.problem(toys.chain(), toys.machine(2))

    class Local(type(problem.profile)):
        pass

    result = search(
        problem.graph,
        problem.topology,
        Local(),
        budget=Budget(proposals=100),
        num_cores=2,
        progress=False,
    )
    assert result.proposals > 0


def test_stops_when_nothing_improves():
    problem = toys.problem(toys.chain((64, 32), 8), toys.machine(2))
    result = mcmc.search(problem, Budget(proposals=20_000), 0)
    assert result.stopped_by == StopReason.NO_IMPROVEMENT
    assert result.proposals < (1 - mcmc.DESCENT_SHARE) * 20_000


def test_ends_at_a_local_optimum():
    problem = toys.problem(toys.diamond(), toys.machine(2))
    result = mcmc.search(problem, Budget(proposals=3000), 0)
    assert result.locally_optimal
    best = result.evaluation
    for family, members in enumerate(problem.space.families):
        for config in problem.space.configs(family, anywhere=True):
            changed = best.strategy.replace(dict.fromkeys(members, config))
            assert problem.objective.evaluate(changed).rank >= best.rank


def test_resumes_from_a_checkpoint(tmp_path):
    problem = toys.problem(toys.diamond(), toys.machine(4))
    path = tmp_path / "state.json"
    options = RunOptions(checkpoint=path)

    def interrupt(progress):
        if progress.proposals > 100:
            raise KeyboardInterrupt

    stopped = mcmc.search(
        problem, Budget(proposals=400), 0, RunOptions((interrupt,), checkpoint=path)
    )
    assert stopped.stopped_by == StopReason.INTERRUPTED
    resumed = mcmc.search(problem, Budget(proposals=400), 0, options)
    assert resumed.proposals > stopped.proposals
    assert resumed.evaluation.rank <= stopped.evaluation.rank
    assert resumed.history[: len(stopped.history) - 1] == stopped.history[:-1]
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_of_another_search_is_refused(tmp_path):
    path = tmp_path / "state.json"
    problem = toys.problem(toys.chain(), toys.machine(2))
    mcmc.search(problem, Budget(proposals=20), 0, RunOptions(checkpoint=path))
    with pytest.raises(SearchError, match=r"saved by a search with seed=0, .* has seed=1"):
        mcmc.search(problem, Budget(proposals=20), 1, RunOptions(checkpoint=path))
    other = toys.problem(toys.chain((64, 64)), toys.machine(2))
    with pytest.raises(SearchError, match="saved by a search with graph="):
        mcmc.search(other, Budget(proposals=20), 0, RunOptions(checkpoint=path))


def test_what_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "state.json"
    path.write_text(json.dumps([1, 2]))
    with pytest.raises(SearchError, match="does not hold a saved search"):
        mcmc.search(toys.problem(), Budget(proposals=20), 0, RunOptions(checkpoint=path))


def test_initial_strategies_must_fit():
    space = toys.problem(toys.chain(), toys.machine(4)).space
    strategy = space.random_strategy(np.random.default_rng(0))
    wide = strategy.replace({1: next(c for c in space.configs(1) if 3 in c.devices)})
    with pytest.raises(ValueError, match="the topology has devices 0 to 1"):
        toys.problem(toys.chain(), toys.machine(2), initial=(wide,))


def sampling_of(problem, proposals):
    budget = Budget(proposals=proposals)
    tracker = Tracker(problem, budget)
    chains = mcmc._start(problem, tracker, 0, 4)
    return mcmc._Sampling(problem, tracker, budget, chains, 1)


def test_in_a_generation_each_chain_is_annealed_from_a_sharpness_of_its_own():
    sampling = sampling_of(toys.problem(toys.chain((64, 32), 8), toys.machine(2)), 100_000)
    sampling.tracker.proposals = 60_000  # Beyond the stages.
    sampling._begin_generation()
    best_ns = sampling.tracker.best.step_time_ns

    def sharpness():
        phases = map(sampling._phase, sampling.chains)
        return [round(phase.beta_per_ns * best_ns) for phase in phases]

    # From 60 to 1,000 in equal proportions, all to 4,000 after as many proposals of each.
    assert sharpness() == [60, 153, 391, 1000]
    chains = list(sampling.chains)
    for share, expected in ((0.5, [490, 783, 1251, 2000]), (1, [4000] * 4), (2, [4000] * 4)):
        more = int(share * mcmc.GENERATION_PROPOSALS)
        sampling.chains = [
            dataclasses.replace(chain, proposals=chain.proposals + more) for chain in chains
        ]
        assert sharpness() == expected


def test_a_generation_begins_at_the_best_that_all_chains_found_half_as_many_as_these():
    problem = toys.problem(toys.diamond(), toys.machine(4))
    sampling = sampling_of(problem, 100_000)
    rng, found = np.random.default_rng(0), {}
    while len(found) < 3:
        evaluation = problem.objective.evaluate(problem.space.random_strategy(rng))
        found.setdefault(evaluation.rank, evaluation)
    first, second, third = (found[rank] for rank in sorted(found))
    bests = third, first, second, first
    sampling.chains = [
        dataclasses.replace(chain, state=ChainState(problem.starts[0], best))
        for chain, best in zip(sampling.chains, bests, strict=True)
    ]
    sampling._begin_generation()
    assert [chain.state.current for chain in sampling.chains] == [first, second] * 2
    assert [chain.state.best for chain in sampling.chains] == [first, second] * 2


@pytest.mark.parametrize(("proposals", "cycles"), [(500, 1.0), (100, 400 / 1700)])
def test_generations_follow_each_other_when_chains_have_made_their_proposals(
    monkeypatch, proposals, cycles
):
    monkeypatch.setattr(mcmc, "GENERATION_PROPOSALS", proposals)
    sampling = sampling_of(toys.problem(toys.diamond(), toys.machine(4)), 24_000)
    begun = []
    begin = sampling._begin_generation
    monkeypatch.setattr(
        sampling, "_begin_generation", lambda: (begun.append(sampling.cycles_over), begin())
    )
    with Workers(sampling.problem, 1) as workers:
        while sampling.round(workers) is None:
            pass
    # A cycle is 1,700 proposals, and a round of all chains 160. No generation exceeds a cycle.
    assert begun[0] == pytest.approx(mcmc.STAGES_CYCLES, abs=160 / 1700)
    assert min(np.diff(begun)) >= cycles - 1e-9
    assert max(np.diff(begun)) < cycles + 160 / 1700


def test_chains_change_layers_from_hot_to_cold_and_go_on_from_the_best_they_saw():
    problem = toys.problem(toys.diamond(), toys.machine(4))
    budget = Budget(proposals=12_000)
    tracker = Tracker(problem, budget)
    chains = mcmc._start(problem, tracker, 0, 4)
    sampling = mcmc._Sampling(problem, tracker, budget, chains, 1)
    sharpness = []
    with Workers(problem, 1) as workers:
        while sampling.cycles_over < mcmc.STAGES_CYCLES:
            phases = {sampling._phase(chain) for chain in sampling.chains}
            assert {phase.shares for phase in phases} == {mcmc.LAYERS}
            sharpness += [phase.beta_per_ns * tracker.best.step_time_ns for phase in phases]
            assert sampling.round(workers) is None
    assert sharpness == sorted(sharpness)
    assert mcmc.HOT <= sharpness[0] < 1.1 * mcmc.HOT
    assert 0.9 * mcmc.LAYERS_COLD < sharpness[-1] <= mcmc.LAYERS_COLD
    for chain in sampling.chains:
        assert chain.state.current is chain.state.best
    assert {sampling._phase(chain).shares for chain in sampling.chains} == {mcmc.IN_GENERATIONS}


def on_several_nodes(num_proposals):
    """A search that begins, and the numbers of its chains that start from whole nodes."""
    problem = toys.problem(toys.chain((32, 64, 512, 64, 64)), toys.machine(8, 4))
    budget = Budget(proposals=num_proposals)
    tracker = Tracker(problem, budget)
    chains = mcmc._start(problem, tracker, 0, 1)
    sampling = mcmc._Sampling(problem, tracker, budget, chains, 1)
    return sampling, [n for n, plan in enumerate(sampling.plans) if plan is mcmc.ON_NODES]


def heaviest_layer(problem, evaluation):
    family = problem.space.families[problem.space.heaviest]
    return evaluation.strategy.configs[family[0]]


def test_some_chains_place_layers_on_nodes_then_look_at_details_and_begin_again():
    sampling, numbers = on_several_nodes(12_000)
    places = {heaviest_layer(sampling.problem, sampling.chains[n].origin) for n in numbers}
    assert len(places) == len(numbers) == len(sampling.chains) / 2
    nodes, details, _ = mcmc.ON_NODES

    def go_on(stage):
        while sampling.cycles_over < stage.cycles:
            phases = [sampling._phase(sampling.chains[n]) for n in numbers]
            assert {phase.shares for phase in phases} == {stage.shares}
            assert sampling.round(workers) is None

    with Workers(sampling.problem, 1) as workers:
        go_on(nodes)
        origins = [sampling.chains[n].origin for n in numbers]
        assert [sampling.chains[n].state.current for n in numbers] == origins
        assert {heaviest_layer(sampling.problem, origin) for origin in origins} == places
        go_on(details)
    (again,) = {sampling.chains[n].state.current for n in numbers}
    assert again in origins
    assert {sampling.chains[n].origin for n in numbers} == {again}


def test_in_no_more_than_half_of_what_chains_begin_again_with_the_heaviest_layer_lies_alike():
    sampling, numbers = on_several_nodes(10**6)
    origins = sampling._best_origins(numbers)
    assert len(origins) == -(-len(numbers) // mcmc.ORIGINS) >= 3
    places = [heaviest_layer(sampling.problem, origin) for origin in origins]
    assert max(map(places.count, places)) <= -(-len(origins) // 2)


def test_a_long_search_has_more_chains_than_a_short_one():
    problem = toys.problem(toys.diamond(), toys.machine(4))

    def num_chains(num_cores=1, **budget):
        return len(mcmc._start(problem, Tracker(problem, Budget(**budget)), 0, num_cores))

    assert num_chains(proposals=4000) == num_chains(seconds=1e-3) == mcmc.FEWEST_CHAINS
    assert num_chains(proposals=7 * mcmc.CHAIN_PROPOSALS) == 7
    assert num_chains(proposals=10**9) == num_chains(seconds=1e6) == mcmc.MOST_CHAINS
    assert num_chains(40, seconds=1e6) == num_chains(40, seconds=1e-3) == 40
    assert num_chains(40, proposals=4000) == mcmc.FEWEST_CHAINS


def test_what_is_proposed_to_find_the_rate_counts():
    problem = toys.problem(toys.diamond(), toys.machine(4))
    tracker = Tracker(problem, Budget(seconds=10))
    chains = mcmc._start(problem, tracker, 0, 1)
    assert tracker.proposals == chains[0].proposals > 0
    assert tracker.best.rank <= chains[0].state.best.rank
