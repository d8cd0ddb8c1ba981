import itertools

import pytest

from keras_soap.costs.roofline import Roofline
from keras_soap.graph.zoo import MODELS
from keras_soap.search.part_symmetry import PartSymmetries, has_own_links
from keras_soap.search.problem import Problem
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.strategy.strategy import Strategy
from keras_soap.topology.presets import scaled_cluster
from tests.search import toys

PROBLEMS = {
    "twins": toys.problem(toys.twins(48, 24), toys.mesh(3)),
    "layers": toys.problem(toys.chain((48, 48, 48), 24), toys.mesh(3), dims="OP"),
    "inference": toys.problem(toys.twins(48, 24), toys.mesh(3), dims="SO", training=False),
}


def choosing(problem: Problem) -> list[int]:
    """Families whose parts have devices to choose."""
    return [family for family, fed in enumerate(problem.space.is_input) if not fed]


@pytest.mark.parametrize("name", PROBLEMS)
def test_devices_that_lead_reach_every_time_that_any_reach(name):
    problem = PROBLEMS[name]
    order = choosing(problem)
    num_all = num_leading = 0
    for choice in itertools.product(*(problem.space.degrees[family] for family in order)):
        degrees = dict(zip(order, choice, strict=True))
        groups = PartSymmetries(problem).groups(degrees, order)
        devices = [
            list(itertools.permutations(range(problem.topology.num_devices), len(group[0])))
            for group in groups
        ]
        leading = [
            [d for d in each if all(tuple(d[part] for part in image) >= d for image in group)]
            for each, group in zip(devices, groups, strict=True)
        ]
        reached = {placed: time_ns(problem, degrees, placed) for placed in product(devices)}
        assert {reached[placed] for placed in product(leading)} == set(reached.values())
        num_all += len(reached)
        num_leading += len(product(leading))
    assert num_leading < num_all / 2


def product(of_families):
    return list(itertools.product(*of_families))


def time_ns(problem, degrees, placed):
    configs = {
        family: ParallelConfig(each, devices)
        for (family, each), devices in zip(degrees.items(), placed, strict=True)
    }
    start = problem.starts[0].strategy.configs
    strategy = Strategy(
        tuple(configs.get(family, start[n]) for n, family in enumerate(problem.space.family_of))
    )
    return problem.objective.evaluate(strategy).step_time_ns


def groups_of(problem, **degrees):
    """Sizes of groups, given degrees by the name of an operator; others are not split."""
    order, space = choosing(problem), problem.space
    of_family = {family: tuple(1 for _ in space.degrees[family][0]) for family in order}
    for name, each in degrees.items():
        of_family[space.family_of[problem.graph.index(name)]] = each
    groups = PartSymmetries(problem).groups(of_family, order)
    return {
        name: len(groups[order.index(space.family_of[problem.graph.index(name)])])
        for name in degrees
    }


RNNLM = Problem(MODELS["rnnlm"](steps=2, block=1), scaled_cluster(4), Roofline())


def test_parts_of_a_layer_whose_neighbours_read_all_are_alike():
    found = groups_of(RNNLM, lstm_6=(1, 4), lstm_7=(1, 4), dense_8=(1, 1, 4), loss_10=(4, 1, 1))
    assert found == {"lstm_6": 24, "lstm_7": 24, "dense_8": 24, "loss_10": 24}


def test_parts_that_read_each_other_are_alike_together():
    # Samples stay where they are, so one layer may have any order; all others then follow it.
    found = groups_of(RNNLM, lstm_6=(4, 1), lstm_7=(4, 1), dense_8=(4, 1, 1))
    assert found == {"lstm_6": 24, "lstm_7": 1, "dense_8": 1}


def test_parts_that_hold_the_same_weights_stay_together():
    # The halves of the second layer's units change places, but for all samples at once.
    found = groups_of(RNNLM, lstm_6=(2, 1), lstm_7=(2, 2), dense_8=(1, 1, 4))
    assert found == {"lstm_6": 2, "lstm_7": 2, "dense_8": 24}


def test_parts_that_share_links_are_not_alike():
    problem = toys.problem(toys.twins(48, 24), toys.machine(3))
    assert not has_own_links(problem.topology)
    order = choosing(problem)
    degrees = dict(zip(order, [(1, 3), (1, 3), (3,)], strict=True))
    assert [len(group) for group in PartSymmetries(problem).groups(degrees, order)] == [1, 1, 1]


def test_only_links_of_one_pair_of_devices_are_their_own():
    assert has_own_links(scaled_cluster(4))
    assert has_own_links(toys.mesh(3))
    assert not has_own_links(scaled_cluster(8))
