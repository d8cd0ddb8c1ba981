import numpy as np
import pytest

from keras_soap.costs.roofline import Roofline
from keras_soap.graph.zoo import MODELS
from keras_soap.search.chain_bounds import ChainBounds, chain
from keras_soap.search.domain import Domain
from keras_soap.search.path_bounds import PathBounds
from keras_soap.search.problem import Problem
from keras_soap.search.symmetry import symmetries
from keras_soap.strategy.parallel_config import FED, ParallelConfig
from keras_soap.strategy.strategy import Strategy
from keras_soap.topology.presets import k80, scaled_cluster
from tests.search import toys

NO_LIMIT_NS = 1 << 60
CHAINS = {
    "two layers": (toys.chain((64, 256, 64), 32), toys.machine(2), {}),
    "three devices": (toys.chain((64, 64), 32), toys.machine(3), {}),
    "slow links": (toys.chain((512, 64), 32), toys.machine(3, bandwidth_bytes_per_s=1e7), {}),
    "two nodes": (toys.chain((64, 64), 8), toys.machine(4, 2), {"dims": "OP"}),
    "no O": (toys.chain((256, 64, 64, 256), 32), toys.machine(4), {"dims": "SAP"}),
    "inference": (toys.chain((512, 64, 64), 8), toys.machine(2), {"training": False}),
}


def chain_bounds(problem: Problem, domains: list[Domain], group) -> ChainBounds:
    bounds = PathBounds(problem, domains)
    edges = chain(bounds)
    assert edges
    return ChainBounds(bounds, edges, group)


def least_ns(problem: Problem, strategy: Strategy) -> int:
    """The bound of one strategy."""
    num_devices = problem.topology.num_devices
    domains = [
        Domain.of([strategy.configs[members[0]]], num_devices) for members in problem.space.families
    ]
    unchanged = (tuple(range(num_devices)),)
    levels = chain_bounds(problem, domains, unchanged).levels(NO_LIMIT_NS, lambda: None)
    assert levels
    return int(levels[-1].least_ns.item())


@pytest.mark.parametrize("name", CHAINS)
def test_no_strategy_is_faster_than_its_bound_and_none_is_left_out(name):
    graph, topology, arguments = CHAINS[name]
    problem = toys.problem(graph, topology, **arguments)
    space = problem.space
    every = [list(space.configs(family, True)) for family in range(len(space.families))]
    domains = [Domain.of(configs, topology.num_devices) for configs in every]
    group = symmetries(topology) if space.places else symmetries(topology)[:1]
    bounds = chain_bounds(problem, domains, group)
    levels = bounds.levels(NO_LIMIT_NS, lambda: None)
    assert levels
    reached = set()
    for state, least in enumerate(levels[-1].least_ns.tolist()):
        for placed in bounds.strategies(levels, state):
            for image in group:
                configs = dict(enumerate(space.whole().configs))
                for number, (row, renamed) in placed.items():
                    config = every[number][row]
                    devices = tuple(image[renamed[device]] for device in config.devices)
                    configs[number] = ParallelConfig(config.degrees, devices)
                strategy = Strategy(tuple(configs[n] for n in range(len(graph.operators))))
                if strategy.configs not in reached:
                    reached.add(strategy.configs)
                    assert least <= problem.objective.evaluate(strategy).step_time_ns
    assert len(reached) == np.prod([len(configs) for configs in every])


@pytest.mark.parametrize(
    ("model", "topology", "num_strategies"),
    [("lenet", scaled_cluster(4), 60), ("lenet", k80(2), 20), ("alexnet", scaled_cluster(8), 5)],
    ids=["LeNet", "LeNet, K80", "AlexNet"],
)
def test_no_strategy_of_a_network_is_faster_than_its_bound(model, topology, num_strategies):
    problem = Problem(MODELS[model](), topology, Roofline())
    rng = np.random.default_rng(0)
    for number in range(num_strategies):
        strategy = problem.starts[number % len(problem.starts)].strategy
        for _ in range(number % 7):
            strategy = strategy.replace(problem.space.random_change(rng, strategy))
        assert least_ns(problem, strategy) <= problem.objective.evaluate(strategy).step_time_ns


def test_bound_of_a_chain_on_one_device_is_what_it_takes():
    problem = toys.problem(toys.chain((64, 128, 256, 64)))
    whole = problem.space.whole()
    assert least_ns(problem, whole) == problem.objective.evaluate(whole).step_time_ns


def test_bound_of_the_fastest_strategy_of_lenet_is_what_it_takes():
    problem = Problem(MODELS["lenet"](), scaled_cluster(4), Roofline())
    front = [ParallelConfig((1, 1, 1, 2), (0, 1))] * 2
    middle = [ParallelConfig((2, 1, 1, 1), (2, 3))] * 2 + [ParallelConfig((2, 1), (2, 3))] * 2
    strategy = Strategy(
        (
            FED,
            *front,
            *middle,
            ParallelConfig((1, 1), (0,)),
            ParallelConfig((1, 1), (1,)),
            FED,
            ParallelConfig((1, 1), (1,)),
        )
    )
    assert least_ns(problem, strategy) == problem.objective.evaluate(strategy).step_time_ns


def test_states_below_a_limit_are_those_whose_bound_is_below_it():
    problem = toys.problem(toys.chain((64, 256, 64), 32), toys.machine(3), dims="SAP")
    space = problem.space
    domains = [
        Domain.of(list(space.configs(family, True)), 3) for family in range(len(space.families))
    ]
    bounds = chain_bounds(problem, domains, ((0, 1, 2),))
    every = bounds.levels(NO_LIMIT_NS, lambda: None)
    assert every
    least = np.sort(every[-1].least_ns)
    limit_ns = int(np.median(least))
    some = bounds.levels(limit_ns, lambda: None)
    assert some
    assert np.sort(some[-1].least_ns).tolist() == least[least < limit_ns].tolist()


def test_graphs_that_are_no_chains_are_told():
    for graph in (toys.diamond(), toys.twins()):
        problem = toys.problem(graph, toys.machine(2))
        domains = [
            Domain.of(list(problem.space.configs(family, True)), 2)
            for family in range(len(problem.space.families))
        ]
        assert chain(PathBounds(problem, domains)) is None
