import dataclasses

import numpy as np
import pytest

from keras_soap.costs.roofline import Roofline
from keras_soap.errors import SearchError
from keras_soap.graph.zoo import MODELS
from keras_soap.search import chain_bounds, exhaustive
from keras_soap.search.domain import Domain
from keras_soap.search.path_bounds import PathBounds
from keras_soap.search.problem import Budget, Problem
from keras_soap.search.symmetry import (
    cosets,
    reductions_of,
    stabilizer,
    symmetries,
    with_equal_reductions,
    with_same_reductions,
)
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.strategy.strategy import Strategy
from keras_soap.topology.presets import scaled_cluster
from tests.search import toys

PROBLEMS = {
    "small chain": (toys.chain((64, 64), 8), toys.machine(2), {}),
    "chain": (toys.chain((512, 512), 32), toys.machine(2), {}),
    "slow links": (toys.chain((256, 64), 32), toys.machine(2, bandwidth_bytes_per_s=1e7), {}),
    "no O": (toys.chain((256, 64, 64), 32), toys.machine(3), {"dims": "SAP"}),
    "three devices": (toys.chain((512, 512), 8), toys.machine(3), {}),
    "two nodes": (toys.diamond(256), toys.machine(4, 2), {"dims": "P"}),
    "inference": (toys.chain((512, 64), 8), toys.machine(2), {"training": False}),
    "twins": (toys.twins(512), toys.machine(2), {"dims": "OP"}),
    "mesh": (toys.twins(48, 24), toys.mesh(3), {}),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_proves_what_brute_force_finds(name):
    graph, topology, arguments = PROBLEMS[name]
    problem = toys.problem(graph, topology, **arguments)
    result = exhaustive.search(problem, Budget(proposals=20_000), 0)
    assert result.proved
    assert result.lower_bound_ns == result.evaluation.step_time_ns
    assert result.evaluation.step_time_ns == toys.fastest(problem).step_time_ns


@pytest.mark.parametrize("name", ["small chain", "slow links", "no O", "twins", "mesh"])
def test_finds_the_fastest_from_a_slow_one(name, monkeypatch):
    monkeypatch.setattr(exhaustive, "_warm_up", lambda *_: None)
    graph, topology, arguments = PROBLEMS[name]
    problem = toys.problem(graph, topology, **arguments)
    result = exhaustive.search(problem, Budget(proposals=100_000), 0)
    assert result.proved
    assert result.evaluation.step_time_ns == toys.fastest(problem).step_time_ns


@pytest.mark.parametrize("name", ["small chain", "slow links", "no O"])
def test_chains_of_too_many_states_are_searched_like_other_graphs(name, monkeypatch):
    monkeypatch.setattr(chain_bounds, "MOST_STATES", 1)
    graph, topology, arguments = PROBLEMS[name]
    problem = toys.problem(graph, topology, **arguments)
    result = exhaustive.search(problem, Budget(proposals=100_000), 0)
    assert result.proved
    assert result.evaluation.step_time_ns == toys.fastest(problem).step_time_ns


@pytest.mark.parametrize("name", ["small chain", "no O", "inference", "twins"])
def test_bounds_are_below_the_time_of_every_strategy(name):
    graph, topology, arguments = PROBLEMS[name]
    problem = toys.problem(graph, topology, **arguments)
    space = problem.space
    domains = [
        Domain.of(list(space.configs(family, True)), topology.num_devices)
        for family in range(len(space.families))
    ]
    bounds = PathBounds(problem, domains)
    by_operator = [
        bounds.bound_ns(number, bounds.ready_ns[number], bounds.head_ns[number])
        for number in range(len(graph.operators))
    ]
    rows = [{config: row for row, config in enumerate(domain.configs)} for domain in domains]
    for strategy in toys.every_strategy(problem):
        time_ns = problem.objective.evaluate(strategy).step_time_ns
        for number, config in enumerate(strategy.configs):
            assert by_operator[number][rows[space.family_of[number]][config]] <= time_ns


def test_large_problems_are_refused():
    problem = toys.problem(toys.chain(), toys.machine(16))
    with pytest.raises(SearchError, match="too many for an exhaustive search"):
        exhaustive.search(problem, Budget(proposals=10), 0)


def test_devices_that_share_cores_are_refused():
    alone = toys.machine(2)
    shared = tuple(dataclasses.replace(device, pool="cores") for device in alone.devices)
    problem = toys.problem(toys.chain(), dataclasses.replace(alone, devices=shared))
    with pytest.raises(SearchError, match=r"share what they compute with \(pool 'cores'"):
        exhaustive.search(problem, Budget(proposals=10), 0)


@pytest.mark.parametrize("name", ["chain", "slow links", "no O", "two nodes", "inference"])
def test_what_is_left_open_has_a_lower_bound(name):
    graph, topology, arguments = PROBLEMS[name]
    problem = toys.problem(graph, topology, **arguments)
    fastest_ns = toys.fastest(problem).step_time_ns
    result = exhaustive.search(problem, Budget(proposals=10), 0)
    assert fastest_ns / 4 < result.lower_bound_ns <= fastest_ns


def test_without_budget_nothing_is_proved():
    problem = toys.problem(toys.diamond(), toys.machine(3))
    result = exhaustive.search(problem, Budget(proposals=10), 0)
    assert not result.proved
    assert result.lower_bound_ns < result.evaluation.step_time_ns
    assert exhaustive.search(problem, Budget(proposals=0), 0).lower_bound_ns == 0


def test_devices_on_one_switch_are_interchangeable():
    assert len(symmetries(toys.machine(4))) == 24
    assert len(stabilizer(symmetries(toys.machine(4)), (0,))) == 6


def test_nodes_are_interchangeable_as_wholes():
    group = symmetries(toys.machine(4, 2))
    assert len(group) == 8
    assert (2, 3, 0, 1) in group
    assert (0, 2, 1, 3) not in group


def test_every_symmetry_is_one_of_a_coset_and_one_of_the_subgroup():
    group = symmetries(toys.machine(4))
    fixed = stabilizer(symmetries(toys.machine(4)), (0,))
    found = cosets(group, fixed)
    assert len(found) == 4
    assert {tuple(f[d] for d in image) for image in found for f in fixed} == set(group)


def test_devices_in_use_stay_where_they_are():
    group = symmetries(toys.machine(4))
    assert {image[:2] for image in stabilizer(group, (0, 1))} == {(0, 1)}


def test_symmetric_strategies_take_the_same_time():
    problem = toys.problem(toys.diamond(256), toys.machine(4, 2), dims="SP")
    best = problem.baselines["expert"].strategy
    configs = type(best)
    for image in stabilizer(symmetries(problem.topology), (0,)):
        moved = configs(
            tuple(
                type(config)(config.degrees, tuple(image[d] for d in config.devices))
                for config in best.configs
            )
        )
        assert (
            problem.objective.evaluate(moved).step_time_ns
            == problem.baselines["expert"].step_time_ns
        )


def test_rings_keep_their_direction():
    topology = toys.machine(4)
    large, small = (4, 2**20, 4, False), (4, 16, 4, False)
    assert len(with_equal_reductions(topology, symmetries(topology), {large, small})) == 24
    assert len(with_same_reductions(topology, symmetries(topology), {small})) == 24
    around = {(0, 1, 2, 3), (1, 2, 3, 0), (2, 3, 0, 1), (3, 0, 1, 2)}
    ports = with_same_reductions(topology, symmetries(topology), {large})
    assert set(ports) == set(symmetries(topology))  # Ports are those of devices, in any order.
    mesh = scaled_cluster(4)
    assert set(with_same_reductions(mesh, symmetries(mesh), {large})) == around
    pairs = {(2, 2**20, 4, False)}
    assert len(with_same_reductions(mesh, symmetries(mesh), pairs)) == 24


def test_symmetries_that_keep_reductions_change_no_times():
    problem = Problem(MODELS["lenet"](), scaled_cluster(4), Roofline())
    group = symmetries(problem.topology)
    rng = np.random.default_rng(0)
    for _ in range(60):
        strategy = problem.space.random_strategy(rng)
        reductions = set()
        for number, config in enumerate(strategy.configs):
            reductions |= reductions_of(problem.lowering, number, config.degrees)
        time_ns = problem.objective.evaluate(strategy).step_time_ns
        for image in stabilizer(with_same_reductions(problem.topology, group, reductions), (0,)):
            moved = Strategy(
                tuple(
                    ParallelConfig(config.degrees, tuple(image[d] for d in config.devices))
                    for config in strategy.configs
                )
            )
            assert problem.objective.evaluate(moved).step_time_ns == time_ns
