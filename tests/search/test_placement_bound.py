import pytest

from keras_soap.search import reinforce
from keras_soap.search.placement_bound import placement_bound_ns
from keras_soap.search.problem import Budget
from tests.search import toys

GRAPHS = {
    "chain": toys.chain,
    "diamond": toys.diamond,
    "twins": toys.twins,
    "wide diamond": lambda: toys.diamond(1024, 512),
}


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("num_devices", [1, 2, 3])
@pytest.mark.parametrize("training", [True, False])
def test_no_placement_is_faster(name, num_devices, training):
    problem = toys.problem(GRAPHS[name](), toys.machine(num_devices), dims="O", training=training)
    bound_ns = placement_bound_ns(problem)
    assert 0 < bound_ns <= toys.fastest(problem).step_time_ns


@pytest.mark.parametrize("training", [True, False])
def test_one_device_is_as_slow_as_all_work(training):
    problem = toys.problem(toys.diamond(), toys.machine(1), training=training)
    whole = problem.objective.evaluate(problem.space.whole())
    assert placement_bound_ns(problem) == whole.step_time_ns


def test_more_devices_do_not_help_a_chain_without_weights():
    graph = toys.chain()
    alone, several = (
        placement_bound_ns(toys.problem(graph, toys.machine(n), training=False)) for n in (1, 8)
    )
    assert alone == several


def test_a_placement_over_free_links_comes_near():
    machine = toys.machine(2, bandwidth_bytes_per_s=1e15, latency_ns=0)
    problem = toys.problem(toys.diamond(512, 512), machine, dims="O")
    assert toys.fastest(problem).step_time_ns < 1.5 * placement_bound_ns(problem)


@pytest.mark.parametrize(("dims", "shown"), [("O", True), ("SOAP", False)])
def test_reinforce_says_so_where_it_holds(dims, shown):
    problem = toys.problem(toys.diamond(), toys.machine(2), dims=dims)
    result = reinforce.search(problem, Budget(proposals=20), 0)
    assert result.lower_bound_ns == (placement_bound_ns(problem) if shown else 0)
