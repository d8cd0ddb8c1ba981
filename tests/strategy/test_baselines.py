import pytest

from keras_soap.graph.zoo import nmt
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


def of_translator(name, num_devices, num_nodes=1, **sizes):
    """Configurations of NMT by the layer that an operator belongs to or stands in for."""
    graph = nmt(64, steps=8, block=4, **sizes)
    configs = make(name, graph, num_devices, num_nodes)
    return {
        op.layer or op.kind: config for op, config in zip(graph.operators, configs, strict=True)
    }


def make(name, graph, num_devices, num_nodes=1):
    topology = toys.machine(num_devices, num_nodes)
    return BASELINES[name](graph, Lowering(graph).dimensions, topology).configs


def of_operators(name, graph, num_devices):
    """Configurations of all but the inputs, which have none."""
    configs = make(name, graph, num_devices)
    kinds = [operator.kind for operator in graph.operators]
    return [config for kind, config in zip(kinds, configs, strict=True) if kind != "input"]


def test_data_parallelism_splits_samples_over_all_devices():
    for config in of_operators("data_parallel", toys.chain(), 4):
        assert config.degrees in ((4,), (4, 1))
        assert config.devices == (0, 1, 2, 3)


def test_data_parallelism_takes_the_largest_divisor_of_the_batch():
    for config in of_operators("data_parallel", toys.chain(batch_size=10), 4):
        assert config.num_parts == 2


def test_model_parallelism_splits_weights_over_all_devices():
    configs = make("model_parallel", toys.chain(), 4)
    assert configs[1].degrees == configs[2].degrees == (1, 4)


def test_model_parallelism_spreads_layers_that_it_cannot_split():
    configs = of_operators("model_parallel", toys.chain((7, 7, 7), 9), 5)
    assert [config.devices for config in configs] == [(1,), (2,), (4,)]


def test_the_expert_splits_fully_connected_layers_by_units():
    configs = make("expert", toys.chain(), 4)
    assert configs[1].degrees == configs[2].degrees == (1, 4)
    assert configs[4].degrees == (4,)


def test_the_expert_gives_each_recurrent_layer_a_device_in_each_node_and_splits_the_softmax():
    configs = of_translator("expert", 8, num_nodes=2)
    layers = [configs[f"{name}coder_{of}"] for name in ("en", "de") for of in range(2)]
    assert [config.devices for config in layers] == [(0, 4), (1, 5), (2, 6), (3, 7)]
    assert {config.degrees for config in layers} == {(2, 1)}
    assert configs["source"].devices == layers[0].devices
    assert configs["target"].devices == layers[2].devices
    assert configs["mixing"].devices == layers[3].devices
    assert configs["projection"].degrees == (2, 1, 4)
    assert configs["projection"].devices == configs["cross_entropy"].devices == tuple(range(8))
    assert configs["cross_entropy"].degrees == configs["projection"].degrees


def test_layers_get_devices_of_their_own_in_proportion_to_their_work():
    # A projection of 8,192 words is 2·1,024·8,192 operations a word, an LSTM layer
    # 2·4·2,048·1,024: as much.
    configs = of_translator("layer_parallel", 8, vocabulary=4 * 8192)
    layers = ["encoder_0", "encoder_1", "decoder_0", "decoder_1", "projection"]
    groups = [configs[name].devices for name in layers]
    assert [len(group) for group in groups] == [1, 1, 1, 1, 4]
    assert sorted(device for group in groups for device in group) == list(range(8))
    assert configs["projection"].devices == (0, 1, 2, 3)
    assert configs["cross_entropy"] == configs["projection"]
    assert configs["projection"].degrees == (1, 1, 4)
    assert configs["mixing"].devices == configs["attention"].devices == configs["decoder_1"].devices
    assert configs["target"].devices == configs["decoder_0"].devices


def test_a_softmax_on_several_nodes_splits_its_units_within_them():
    configs = of_translator("layer_parallel", 8, num_nodes=4, vocabulary=4 * 8192)
    assert configs["projection"].degrees == configs["cross_entropy"].degrees == (2, 1, 2)


def test_more_layers_than_devices_share_them_in_order():
    configs = of_translator("layer_parallel", 2, vocabulary=1024)
    assert configs["encoder_0"].devices == configs["encoder_1"].devices == (0,)
    assert configs["decoder_0"].devices == configs["decoder_1"].devices == (1,)
