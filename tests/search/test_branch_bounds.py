import numpy as np
import pytest

from keras_soap.costs.roofline import Roofline
from keras_soap.graph.zoo import MODELS
from keras_soap.search.branch_bounds import BranchBounds
from keras_soap.search.domain import Domain
from keras_soap.search.path_bounds import PathBounds
from keras_soap.search.problem import Problem
from keras_soap.topology.presets import scaled_cluster
from tests.search import toys

PROBLEMS = {
    "diamond": toys.problem(toys.diamond(512), toys.machine(3)),
    "twins": toys.problem(toys.twins(512), toys.machine(3, bandwidth_bytes_per_s=1e10)),
    "inference": toys.problem(toys.diamond(512), toys.machine(2), training=False),
    "two nodes": toys.problem(toys.chain((512, 64, 512), 32), toys.machine(4, 2)),
    "RNNLM": Problem(MODELS["rnnlm"](steps=2, block=1), scaled_cluster(2), Roofline()),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_no_strategy_is_faster_than_the_bounds_of_its_branch(name):
    problem = PROBLEMS[name]
    space = problem.space
    families = range(len(space.families))
    bounds = PathBounds(
        problem,
        [
            Domain.of(list(space.configs(family, True)), problem.topology.num_devices)
            for family in families
        ],
    )
    rows = [{config: row for row, config in enumerate(domain.configs)} for domain in bounds.domains]
    branch = BranchBounds(problem, bounds)
    rng = np.random.default_rng(0)
    order = sorted(
        families, key=lambda family: not problem.graph.in_edges[space.families[family][0]]
    )
    for number in range(40):
        strategy = problem.starts[number % len(problem.starts)].strategy
        for _ in range(number % 5):
            strategy = strategy.replace(space.random_change(rng, strategy))
        time_ns = problem.objective.evaluate(strategy).step_time_ns
        occupied = branch.nothing
        before = 0
        for position, family in enumerate(order):
            row = rows[family][strategy.configs[space.families[family][0]]]
            options = branch.options(family, occupied, order[position + 1 :])
            assert options.bound_ns[row] <= time_ns
            before = max(before, options.bound_ns[row])
            occupied = branch.choose(family, options, row)
        assert before > time_ns / 10
        branch.clear()


def test_a_device_waits_for_what_it_begins_with():
    # Two dense layers on a device each: the second device is idle until the first has done its
    # part, and then has its own backward pass to do, too.
    problem = toys.problem(toys.chain((64, 512, 512), 32), toys.machine(2))
    space = problem.space
    domains = []
    for family, members in enumerate(space.families):
        first = problem.graph.operators[members[0]].name in ("input_0", "dense_1")
        device = 0 if first else 1
        domains.append(
            Domain.of(
                [config for config in space.configs(family, True) if config.devices == (device,)],
                2,
            )
        )
    bounds = PathBounds(problem, domains)
    branch = BranchBounds(problem, bounds)
    occupied = branch.nothing
    for family in (1, 2):
        options = branch.options(family, occupied, [])
        occupied = branch.choose(family, options, 0)
    load = bounds.load_ns[2][0, 1]
    ready = bounds.ready_ns[2][0, 0]
    assert ready > bounds.forward_ns[1][0, 0]
    assert occupied.begin_ns[-1, 1] == ready
    assert options.bound_ns[0] >= ready + load
