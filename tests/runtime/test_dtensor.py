"""What a strategy holds are DTensors: activations, weights and slots, laid out as it says."""

import functools

import keras
import numpy as np
import pytest
from tensorflow.experimental import dtensor

from keras_soap.strategy.parallel_config import ParallelConfig
from tests.runtime.strategies import NAMED, anything
from tests.runtime.subjects import SUBJECTS, lowering, train
from tests.runtime.traced import DEVICES

STRATEGIES = ["S", "A and P", "three devices", "anything 2"]


@functools.cache
def trained(strategy: str):
    facts = lowering("images")
    chosen = NAMED[strategy](facts) if strategy in NAMED else anything(facts, int(strategy[-1]))
    return train(SUBJECTS["images"], "adam", chosen)


def shards(tensor) -> list[tuple[int, np.ndarray]]:
    """For each shard the number of its device, and its value."""
    return [
        (DEVICES.index(shard.backing_device), shard.numpy()) for shard in dtensor.unpack(tensor)
    ]


def put_together(shape, regions, parts) -> np.ndarray:
    whole = np.full(shape, np.nan)
    for region, (_, value) in zip(regions, parts, strict=True):
        at = tuple(slice(start, stop) for start, stop in region.tolist())
        assert whole[at].shape == value.shape
        whole[at] = value
    assert not np.isnan(whole).any()
    return whole


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_activations_equal_those_of_one_device(strategy):
    training = trained(strategy)
    x = SUBJECTS["images"].samples()[0][:8]
    model, soap = training.model, training.soap
    made = soap.activations(x)
    inner = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    names = [layer.name for layer in inner]
    outputs = keras.Model(model.inputs, [layer.output for layer in inner])(x)
    expected = dict(zip(names, outputs, strict=True))
    expected["digit/softmax"] = expected.pop("digit")
    lowered = soap.costs.lowering
    numbers = {operator.name: n for n, operator in enumerate(lowered.graph.operators)}
    assert set(made) == {*expected, "digit"}
    for name, activation in made.items():
        config = soap.strategy.configs[numbers[name]]
        operator = lowered.graph.operators[numbers[name]]
        regions = lowered.operator(numbers[name], config.degrees).outputs[0]
        assert dtensor.fetch_layout(activation) == soap.layouts[name]["output"]
        assert tuple(activation.shape) == operator.output.shape
        parts = shards(activation)
        assert [device for device, _ in parts] == list(config.devices)
        whole = put_together(operator.output.shape, regions, parts)
        if name in expected:
            np.testing.assert_allclose(whole, expected[name], rtol=1e-5, atol=1e-6)
        else:  # What the softmax works on.
            exponentials = np.exp(whole - whole.max(1, keepdims=True))
            softmax = exponentials / exponentials.sum(1, keepdims=True)
            np.testing.assert_allclose(softmax, expected["digit/softmax"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_weights_are_sharded_as_the_strategy_says(strategy):
    training = trained(strategy)
    soap = training.soap
    lowered = soap.costs.lowering
    store = soap._functions.run.store
    held = {sharded.variable.path: sharded for sharded in store.sharded}
    for number, operator in enumerate(lowered.graph.operators):
        config = soap.strategy.configs[number]
        block = lowered.operator(number, config.degrees)
        for spec, weight in zip(operator.weight_specs, block.weights, strict=True):
            sharded = held[spec.name]
            layout = soap.layouts[operator.name][spec.name]
            assert sharded.dvariable.layout == layout
            assert layout.mesh.dim_names == [d.name for d in lowered.dimensions[number]]
            local = [
                size // layout.num_shards(axis) for axis, size in enumerate(sharded.variable.shape)
            ]
            assert all((region[:, 1] - region[:, 0]).tolist() == local for region in weight.regions)
            parts = shards(sharded.dvariable.read_value())
            assert [device for device, _ in parts] == list(config.devices)
            whole = put_together(spec.shape, weight.regions, parts)
            np.testing.assert_array_equal(whole, training.after[spec.name])


def test_optimizer_slots_are_sharded_like_their_weights():
    training = trained("A and P")
    store = training.soap._functions.run.store
    held = {sharded.variable.path: sharded for sharded in store.sharded}
    for weight in training.model.trainable_variables:
        slots = [
            v
            for v in training.model.optimizer.variables
            if v.name.startswith(weight.path.replace("/", "_"))
        ]
        assert len(slots) == 2
        for slot in slots:
            assert held[slot.path].layout == held[weight.path].layout
            parts = shards(held[slot.path].dvariable.read_value())
            whole = put_together(slot.shape, np.array(held[slot.path].regions), parts)
            np.testing.assert_array_equal(whole, slot.numpy())


def test_layouts_name_the_axes_they_split():
    layouts = trained("A and P").soap.layouts
    assert layouts["first"]["output"].sharding_specs == [
        "unsharded",
        "unsharded",
        "width",
        "channel",
    ]
    assert layouts["first"]["first/kernel"].sharding_specs[-1] == "channel"
    assert layouts["hidden"]["hidden/kernel"].sharding_specs == ["unsharded", "units"]
    assert layouts["hidden"]["hidden/bias"].sharding_specs == ["units"]
    assert layouts["pool"]["output"].sharding_specs[2] == "width"
    by_sample = trained("S").soap.layouts
    assert by_sample["hidden"]["output"].sharding_specs == ["sample", "unsharded"]
    assert by_sample["hidden"]["hidden/kernel"].is_fully_replicated()


def test_a_mesh_has_the_devices_of_its_configuration_in_their_order():
    training = trained("three devices")
    graph = training.soap.costs.lowering.graph
    config: ParallelConfig = training.soap.strategy.configs[graph.index("hidden")]
    mesh = training.soap.layouts["hidden"]["output"].mesh
    assert len(config.devices) > 1
    assert [DEVICES.index(name) for name in mesh.local_devices()] == list(config.devices)
