import pytest

from keras_soap.strategy.baselines import BASELINES
from keras_soap.strategy.strategy import check_strategy
from keras_soap.tasks.lowering import Lowering
from tests.search import toys

GRAPHS = {
    "chain": toys.chain(),
    "diamond": toys.diamond(),
    "twins": toys.twins(),
    "odd": toys.chain((7, 15, 9), batch_size=10),
}


@pytest.mark.parametrize("num_devices", [1, 2, 3, 4, 7, 16])
@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("name", BASELINES)
def test_baselines_fit_any_graph_and_any_number_of_devices(name, graph, num_devices):
    graph = GRAPHS[graph]
    dimensions = Lowering(graph).dimensions
    strategy = BASELINES[name](graph, dimensions, toys.machine(num_devices))
    check_strategy(graph, dimensions, strategy, num_devices)


def make(name, graph, num_devices, num_nodes=1):
    topology = toys.machine(num_devices, num_nodes)
    return BASELINES[name](graph, Lowering(graph).dimensions, topology).configs


def test_data_parallelism_splits_samples_over_all_devices():
    for config in make("data_parallel", toys.chain(), 4):
        assert config.degrees in ((4,), (4, 1))
        assert config.devices == (0, 1, 2, 3)


def test_data_parallelism_takes_the_largest_divisor_of_the_batch():
    for config in make("data_parallel", toys.chain(batch_size=10), 4):
        assert config.num_parts == 2


def test_model_parallelism_splits_weights_over_all_devices():
    configs = make("model_parallel", toys.chain(), 4)
    assert configs[1].degrees == configs[2].degrees == (1, 4)


def test_model_parallelism_spreads_layers_that_it_cannot_split():
    configs = make("model_parallel", toys.chain((7, 7, 7), 9), 2)
    assert [config.devices for config in configs] == [(0,), (0,), (0,), (1,), (1,)]


def test_the_expert_splits_fully_connected_layers_by_units():
    configs = make("expert", toys.chain(), 4)
    assert configs[0].degrees == (4, 1)
    assert configs[1].degrees == configs[2].degrees == (1, 4)
    assert configs[4].degrees == (4,)
