"""Strategy files: they come back, and fit nothing but what they were made for."""

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_soap.costs.cost_profile import CostSource
from keras_soap.errors import StrategyError
from keras_soap.strategy import proto_io
from keras_soap.strategy.baselines import BASELINES, data_parallel
from keras_soap.strategy.parallel_config import FED
from keras_soap.strategy.saved_strategy import Figures, fit, make_saved
from keras_soap.strategy.search_space import SearchSpace
from keras_soap.strategy.strategy import Strategy
from keras_soap.tasks.lowering import Lowering
from tests.search.toys import GraphOf, chain, machine, twins

FIGURES = Figures(123_456, 789, (1, 2, 3, 4), CostSource.ANALYTIC, "mcmc")


def dimensions(graph):
    return Lowering(graph).dimensions


def made(graph=None, topology=None):
    """A data-parallel strategy with what it was made for."""
    graph, topology = graph or chain(), topology or machine(4)
    strategy = data_parallel(graph, dimensions(graph), topology)
    return make_saved(strategy, graph, dimensions(graph), topology, FIGURES)


def refusal(saved, graph=None, topology=None):
    graph, topology = graph or chain(), topology or machine(4)
    with pytest.raises(StrategyError) as caught:
        fit(saved, graph, dimensions(graph), topology)
    return str(caught.value)


@given(seed=st.integers(0, 2**32), suffix=st.sampled_from(["textproto", "pb"]))
def test_random_strategies_come_back(tmp_path_factory, seed, suffix):
    graph, topology = twins(), machine(4)
    space = SearchSpace(graph, dimensions(graph), topology)
    strategy = space.random_strategy(np.random.default_rng(seed))
    path = tmp_path_factory.getbasetemp() / f"s.{suffix}"
    proto_io.save(path, strategy, graph, dimensions(graph), topology, FIGURES)
    assert proto_io.load(path, graph, dimensions(graph), topology) == strategy
    assert proto_io.read(path).figures == FIGURES


@pytest.mark.parametrize("name", BASELINES)
def test_nothing_is_lost_in_the_message(name):
    graph, topology = chain(), machine(4)
    strategy = BASELINES[name](graph, dimensions(graph), topology)
    saved = make_saved(strategy, graph, dimensions(graph), topology, FIGURES)
    assert proto_io.from_proto(proto_io.to_proto(saved)) == saved


def test_the_topology_may_have_another_name():
    topology = dataclasses.replace(machine(4), name="renamed")
    assert isinstance(fit(made(), chain(), dimensions(chain()), topology), Strategy)


def test_operators_may_stand_in_another_order():
    saved = made()
    shuffled = dataclasses.replace(saved, operators=saved.operators[::-1])
    fitting = fit(shuffled, chain(), dimensions(chain()), machine(4))
    assert fitting == fit(saved, chain(), dimensions(chain()), machine(4))


def test_another_batch_size_is_refused():
    assert "made for batch size 32, not 16. Train with batch size 32" in refusal(
        made(), chain(batch_size=16)
    )


def test_another_number_of_devices_is_refused():
    assert "made for 4 devices (toy_4), but topology 'toy_2' has 2" in refusal(
        made(), topology=machine(2)
    )


def test_a_device_of_another_name_is_refused():
    topology = machine(4)
    devices = list(topology.devices)
    devices[2] = dataclasses.replace(devices[2], name="GPU:9")
    others = dataclasses.replace(topology, devices=tuple(devices), connections=())
    assert "its device 2 is 'CPU:2', but that of topology 'toy_4' is 'GPU:9'" in refusal(
        made(), topology=others
    )


def test_a_device_of_another_model_is_refused():
    topology = machine(4)
    devices = [dataclasses.replace(device, model="K80") for device in topology.devices]
    others = dataclasses.replace(topology, devices=tuple(devices))
    assert "'CPU:0' of model '', but that of topology 'toy_4' is 'K80'" in refusal(
        made(), topology=others
    )


def renamed(graph, number, name):
    operators = list(graph.operators)
    operators[number] = dataclasses.replace(operators[number], name=name)
    return dataclasses.replace(graph, operators=tuple(operators))


def test_a_renamed_operator_is_refused():
    said = refusal(made(), renamed(chain(), 1, "classifier"))
    assert "no operator 'classifier', number 1 of the model (it has 'dense_1', which" in said


def test_an_operator_that_the_model_lacks_is_refused():
    longer = made(chain(widths=(64, 256, 64, 64)))
    saved = dataclasses.replace(
        longer,
        operators=tuple(o for o in longer.operators if o.name.startswith(("input_0", "dense"))),
    )
    graph = GraphOf(32)
    graph.dense(graph.dense(graph.input(64), 256), 64)
    assert "its operator 'dense_3' is not in the model" in refusal(saved, graph.graph())


def test_a_dimension_of_another_size_is_refused():
    said = refusal(made(), chain(widths=(64, 128, 64)))
    assert "units of 'dense_1' has size 256 in it, but 128 in the model" in said


def with_dimension(saved, number, **changes):
    operator = saved.operators[number]
    changed = dataclasses.replace(operator.dimensions[-1], **changes)
    operator = dataclasses.replace(operator, dimensions=(*operator.dimensions[:-1], changed))
    operators = (*saved.operators[:number], operator, *saved.operators[number + 1 :])
    return dataclasses.replace(saved, operators=operators)


def test_inputs_have_no_configurations_and_older_files_may_give_them_some():
    saved = made()
    assert [operator.name for operator in saved.operators] == ["dense_1", "dense_2", "loss_4"]
    first = dataclasses.replace(saved.operators[0], name="input_0")
    older = dataclasses.replace(saved, operators=(first, *saved.operators))
    graph = chain()
    strategies = [fit(each, graph, dimensions(graph), machine(4)) for each in (saved, older)]
    assert strategies[0] == strategies[1]
    assert strategies[0].configs[0] == strategies[0].configs[3] == FED


def test_a_dimension_of_another_name_or_kind_is_refused():
    said = refusal(with_dimension(made(), 0, name="filters"))
    assert "'dense_1' has dimensions sample, filters in it, but sample, units in the" in said
    kind = made().operators[0].dimensions[0].kind
    said = refusal(with_dimension(made(), 0, kind=kind))
    assert "units of 'dense_1' is of kind sample in it, but parameter in the model" in said


def test_other_metrics_are_no_difference():
    graph = chain()
    loss = dataclasses.replace(graph.operators[-1], attributes={"report_bytes": 96})
    other = dataclasses.replace(graph, operators=(*graph.operators[:-1], loss))
    assert fit(made(), other, dimensions(other), machine(4)).configs


def test_an_operator_that_computes_something_else_is_refused():
    graph = chain()
    operators = list(graph.operators)
    operators[1] = dataclasses.replace(operators[1], attributes={"activation": "relu"})
    other = dataclasses.replace(graph, operators=tuple(operators))
    said = refusal(made(), other)
    assert "operator 'dense_1' has another configuration, other weights or other inputs" in said


def without_fingerprints(saved):
    return dataclasses.replace(
        saved,
        operators=tuple(dataclasses.replace(o, fingerprint="") for o in saved.operators),
    )


def test_a_fingerprint_of_the_whole_is_compared_where_operators_have_none():
    saved = dataclasses.replace(without_fingerprints(made()), graph_fingerprint="0123456789abcdef")
    assert "not 0123456789abcdef" in refusal(saved)


def test_a_hand_written_file_may_leave_out_what_is_not_compared(tmp_path):
    graph, topology = chain(), machine(4)
    path = tmp_path / "s.textproto"
    strategy = data_parallel(graph, dimensions(graph), topology)
    proto_io.save(path, strategy, graph, dimensions(graph), topology)
    text = path.read_text()
    for field in ("graph_fingerprint", "fingerprint", "created", "device_models", "model_name"):
        text = re.sub(rf"^ *{field}: .*\n", "", text, flags=re.M)
    text = re.sub(r" (size|kind): \w+", "", text)
    assert "fingerprint" not in text
    assert "SAMPLE" not in text
    path.write_text(text)
    assert proto_io.load(path, graph, dimensions(graph), topology) == strategy


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("degree: 4", "degree: 3", r"'dense_1': degrees=\(3, 1\) make 3 parts"),
        ("degree: 4", "degre: 4", r"s\.textproto:\d+:\d+: .* no field named \"degre\""),
        ("devices: [0, 1, 2, 3]", "devices: [0, 1, 1, 3]", "names a device twice"),
        ("devices: [0, 1, 2, 3]", "devices: [0, 1, 2, 7]", "topology has devices 0 to 3"),
        ("num_devices: 4", "num_devices: 5", "num_devices is 5, but device_names has 4"),
        ('"dense_1"', '"dense_2"', "Operator 'dense_2' has two configs"),
        ("schema_version: 1", "schema_version: 9", "schema_version 9"),
        ("keras_soap.v1.Strategy", "keras_soap.v1.CostProfile", "not a keras_soap.v1.Strategy"),
    ],
)
def test_mistakes_in_files_are_named(tmp_path, old, new, reason):
    graph, topology = chain(), machine(4)
    path = tmp_path / "s.textproto"
    strategy = data_parallel(graph, dimensions(graph), topology)
    proto_io.save(path, strategy, graph, dimensions(graph), topology)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(StrategyError, match=reason) as caught:
        proto_io.load(path, graph, dimensions(graph), topology)
    assert str(path) in str(caught.value)


def test_a_strategy_that_does_not_fit_is_not_saved(tmp_path):
    graph, topology = chain(), machine(2)
    strategy = data_parallel(graph, dimensions(graph), machine(4))
    with pytest.raises(StrategyError, match="placed on device 2"):
        proto_io.save(tmp_path / "s.pb", strategy, graph, dimensions(graph), topology)
    assert list(tmp_path.iterdir()) == []
