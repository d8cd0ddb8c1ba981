"""Parts are run, timed and remembered. How long they take is never asserted."""

import json
import math
import pickle
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf  # so that conftest makes devices
from keras import layers

from keras_soap.capture.planning import capture_with_layers
from keras_soap.costs import measure, measure_parts, proto_io
from keras_soap.costs.cost_profile import CostSource
from keras_soap.costs.cost_table import CostTable, PartTime, part_keys
from keras_soap.costs.measure import MeasuredProfile
from keras_soap.costs.timing import Precision, Timing
from keras_soap.errors import CostError
from keras_soap.runtime import measuring
from keras_soap.runtime.measuring import all_parts, measure_all
from keras_soap.tasks.lowering import Lowering
from keras_soap.topology.device_topology import Device, DeviceTopology
from keras_soap.topology.local import local_topology

QUICK = Precision(min_runs=2, max_runs=2, seconds=0)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(measure, "UPDATE_BYTES", (1024, 4096))
    monkeypatch.setattr(measure_parts, "NUM_COPIES", 2)


@pytest.fixture
def topology():
    return local_topology().subset(2)


@pytest.fixture
def stopwatch(monkeypatch):
    """Stands in for measuring: notes what would be measured, and takes no time."""
    noted = []

    def measure_part(captured, number, part, differentiated, has_backward, *others):
        noted.append((part.operator.name, part.output, tuple(differentiated), has_backward))
        return PartTime(1000 + len(noted), 2000, 0.1, 2)

    monkeypatch.setattr(measure_parts, "measure_part", measure_part)
    monkeypatch.setattr(
        measure_parts, "measure_update", lambda o, num_bytes, *others: PartTime(num_bytes, 0)
    )
    return noted


def dense(*units, batch=8, width=4, **arguments):
    stack = [layers.Dense(n, **arguments) for n in units]
    model = keras.Sequential([keras.Input((width,)), *stack])
    model.compile("sgd", "mse")
    return capture_with_layers(model, batch, training=True)


def convolutional():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, padding="same"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(5, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)
    return model, capture_with_layers(model, 4, training=True)


def profile_of(captured, topology, folder, **arguments):
    return MeasuredProfile(captured, topology, cache_folder=folder, precision=QUICK, **arguments)


def test_every_part_of_a_real_model_runs(tmp_path, topology, monkeypatch):
    # So that none takes long enough to be doubted, however busy the machine is.
    monkeypatch.setattr(measuring, "LEAST_NS", math.inf)
    model, captured = convolutional()
    lowering = Lowering(captured.graph)
    profile = profile_of(captured, topology, tmp_path, optimizer=model.optimizer)
    measure_all(profile, lowering, topology, progress=False)
    table = profile.table()
    kinds = {json.loads(key)[0] for key in table.entries}
    # The softmax at the end is in no step of training.
    assert kinds == {"convolution", "batch_normalization", "dense", "cross_entropy", "update"}
    assert profile.num_measured == len(table.entries)
    assert (table.device_model, table.source) == ("CPU", CostSource.MEASURED)
    assert {"tensorflow", "keras", "hardware", "intra_op_threads"} <= set(table.versions)
    by_kind = {json.loads(key)[0]: time for key, time in table.entries.items() if time.num_runs > 0}
    assert set(by_kind) == kinds
    for suffix in ("pb", "textproto"):
        proto_io.save(tmp_path / f"p.{suffix}", table)
        assert proto_io.load(tmp_path / f"p.{suffix}") == table


@pytest.mark.parametrize(
    "make",
    [
        lambda x: layers.LSTM(4, return_sequences=True)(x),
        lambda x: layers.MultiHeadAttention(2, 2)(x, x),
        lambda x: layers.Dropout(0.5)(x),
        lambda x: layers.LayerNormalization()(layers.Embedding(10, 4)(x[:, :, 0] * 0)),
    ],
    ids=["recurrent", "attention", "noise", "embedding"],
)
def test_families_of_layers_run(tmp_path, topology, make):
    inputs = keras.Input((6, 4))
    model = keras.Model(inputs, layers.Dense(2)(make(inputs)))
    captured = capture_with_layers(model, 4, training=True)
    lowering = Lowering(captured.graph)
    profile = profile_of(captured, topology, tmp_path)
    for operator, regions in all_parts(lowering, 2, "P"):
        for times in profile.part_times_ns(operator, regions, topology.devices[0]):
            assert times.shape == (len(regions),)
            assert (times >= 0).all()


def test_each_shape_is_measured_once(tmp_path, topology, stopwatch):
    captured = dense(6, 6, width=6)
    lowering = Lowering(captured.graph)
    profile = profile_of(captured, topology, tmp_path)
    measure_all(profile, lowering, topology, progress=False)
    # The layers are alike: whole, half of the samples, half of the units.
    names = [name for name, *_ in stopwatch]
    assert names.count("dense") == 3
    assert names.count("dense_1") == 0
    operator, other = captured.graph.operators[1:3]
    regions = lowering.operator(1, (2, 1)).outputs[0]
    first = profile.part_times_ns(operator, regions, topology.devices[0])
    second = profile.part_times_ns(other, regions, topology.devices[1])
    np.testing.assert_array_equal(first, second)
    assert len(set(first[0].tolist())) == 1


def test_what_is_measured_again_replaces_what_was_known(tmp_path, topology, stopwatch):
    captured = dense(6)
    operator, device = captured.graph.operators[1], topology.devices[0]
    halves = Lowering(captured.graph).operator(1, (2, 1)).outputs[0]
    profile = profile_of(captured, topology, tmp_path)
    assert profile.part_times_ns(operator, halves, device).forward.tolist() == [1001, 1001]
    assert profile.num_looks(operator, halves) == 1
    profile.measure_again(operator, halves)
    # Both halves are one part.
    assert len(stopwatch) == 2
    for known in (profile, profile_of(captured, topology, tmp_path)):
        assert known.part_times_ns(operator, halves, device).forward.tolist() == [1002, 1002]
        assert known.num_looks(operator, halves) == 2
    assert len(stopwatch) == 2


def test_halves_that_take_as_long_as_the_whole_are_looked_at_again(tmp_path, topology, monkeypatch):
    looks: Counter[tuple[int, ...]] = Counter()

    def measure_part(captured, number, part, *others):
        shape = tuple(stop - start for start, stop in part.output)
        looks[shape] += 1
        if shape == (4, 6):
            return PartTime(2_000_000, 5_500_000 if looks[shape] == 1 else 2_500_000)
        return PartTime(2_500_000, 5_500_000) if shape == (8, 6) else PartTime(3_000_000, 3_500_000)

    monkeypatch.setattr(measure_parts, "measure_part", measure_part)
    captured = dense(6)
    lowering = Lowering(captured.graph)
    for _ in range(2):
        profile = profile_of(captured, topology, tmp_path)
        measure_all(profile, lowering, topology, progress=False)
        halves = lowering.operator(1, (2, 1)).outputs[0]
        times = profile.part_times_ns(captured.graph.operators[1], halves, topology.devices[0])
        assert times.backward.tolist() == [2_500_000] * 2
    assert looks[4, 6] == 2
    assert looks[8, 6] == looks[8, 3] == 1


def test_gradients_are_those_of_the_step(tmp_path, topology, stopwatch):
    captured = dense(5, 3)
    measure_all(
        profile_of(captured, topology, tmp_path), Lowering(captured.graph), topology, progress=False
    )
    assert {(name, inputs) for name, _, inputs, _ in stopwatch} == {
        ("dense", ()),
        ("dense_1", (0,)),
        ("loss/mse", (0,)),
    }
    assert all(has_backward for *_, has_backward in stopwatch)


def test_what_was_measured_is_not_measured_again(tmp_path, topology, stopwatch):
    for expected in (True, False):
        captured = dense(5, 3)
        profile = profile_of(captured, topology, tmp_path)
        measure_all(profile, Lowering(captured.graph), topology, progress=False)
        assert bool(profile.num_measured) == expected
    before = len(stopwatch)
    # Trained or not, a layer has one shape, but not one backward pass.
    frozen = dense(5, 3, trainable=False)
    measure_all(
        profile_of(frozen, topology, tmp_path), Lowering(frozen.graph), topology, progress=False
    )
    assert len(stopwatch) > before


def test_an_interrupted_profile_resumes(tmp_path, topology, stopwatch, monkeypatch):
    captured = dense(5, 3)
    lowering = Lowering(captured.graph)

    def stop(name):
        if len(stopwatch) == 4:
            raise KeyboardInterrupt

    profile = profile_of(captured, topology, tmp_path, on_measured=stop)
    everything = len(profile.missing(all_parts(lowering, 2)))
    with pytest.raises(KeyboardInterrupt):
        measure_all(profile, lowering, topology, progress=False)
    resumed = profile_of(captured, topology, tmp_path)
    assert len(resumed.missing(all_parts(lowering, 2))) == everything - 4
    measure_all(resumed, lowering, topology, progress=False)
    assert len(stopwatch) == everything
    assert resumed.missing(all_parts(lowering, 2)) == []


def test_missing_entries_are_measured_on_demand(tmp_path, topology, stopwatch):
    captured = dense(6)
    profile = profile_of(captured, topology, tmp_path)
    regions = Lowering(captured.graph).operator(1, (1, 2)).outputs[0]
    forward, *_ = profile.part_times_ns(captured.graph.operators[1], regions, topology.devices[1])
    assert len(stopwatch) == 1
    key = part_keys(captured.graph.operators[1], regions)[0]
    assert profile.table().entries[key].forward_ns == forward[0]


def test_updates_are_interpolated_between_sizes(tmp_path, topology, stopwatch):
    profile = profile_of(dense(6), topology, tmp_path)
    times = [profile.update_time_ns(n, topology.devices[0]) for n in (8, 1024, 2560, 4096, 8192)]
    assert times == [1024, 1024, 2560, 4096, 8192]
    assert profile.num_measured == 2


def test_other_processes_get_a_table(tmp_path, topology, stopwatch):
    captured = dense(6)
    profile = profile_of(captured, topology, tmp_path)
    measure_all(profile, Lowering(captured.graph), topology, progress=False)
    sent = pickle.loads(pickle.dumps(profile))
    assert isinstance(sent, CostTable)
    assert sent.entries == profile.table().entries


class Own(layers.Layer):
    """Of TensorFlow's own operations, so that it is not opened up."""

    def call(self, x):
        return tf.multiply(x, 2.0)


def test_code_of_users_is_measured_in_each_process(tmp_path, topology, stopwatch):
    model = keras.Sequential([keras.Input((4,)), Own(), layers.Dense(2)])
    captured = capture_with_layers(model, 8, training=True)
    for _ in range(2):
        profile = profile_of(captured, topology, tmp_path)
        measure_all(profile, Lowering(captured.graph), topology, progress=False)
    names = [name for name, *_ in stopwatch]
    own = captured.graph.operators[1].name
    assert names.count(own) == 2 * len(
        {key for op, r in all_parts(Lowering(captured.graph), 2) if op.name == own
         for key in part_keys(op, r)}
    )  # fmt: skip


def test_operators_of_other_models_and_other_devices_are_refused(tmp_path, topology):
    captured, other = dense(6), dense(7)
    profile = profile_of(captured, topology, tmp_path)
    operator = other.graph.operators[1]
    regions = Lowering(other.graph).operator(1, (1, 1)).outputs[0]
    with pytest.raises(CostError, match=r"'dense'.*is not one of model 'sequential"):
        profile.part_times_ns(operator, regions, topology.devices[0])
    with pytest.raises(CostError, match="'GPU:0' is of model 'T4'"):
        profile.part_times_ns(operator, regions, Device("GPU:0", "GPU", "T4"))
    mixed = DeviceTopology("mixed", (Device("GPU:0", model="A"), Device("GPU:1", model="B")))
    with pytest.raises(CostError, match="one model at a time"):
        profile_of(captured, mixed, tmp_path)


@pytest.mark.parametrize(("cores", "rows", "time_ns"), [(0, 1, 9000), (1, 2, 9000), (2, 2, 4500)])
def test_a_part_is_timed_beside_others_and_has_its_share_of_that_time(
    monkeypatch, cores, rows, time_ns
):
    # Two places; whatever runs at once takes 9 µs for each of those one after the other.
    seen = []

    def runner(function, arguments, device, copies=1, beside=1, uncached=False, num_made=0):
        seen.append(beside)
        return lambda: copies

    def timed(runners, *_):
        steps = [9000 * run() for run in runners[1:2]]
        return Timing((*steps, *[0] * (len(runners) - 2)), 0.0, 5)

    monkeypatch.setattr(measure_parts, "num_places", lambda: 2)
    monkeypatch.setattr(measure_parts, "cores_per_place", lambda: 1)
    monkeypatch.setattr(measure_parts, "runner", runner)
    monkeypatch.setattr(measure_parts, "_timed", timed)
    time = measure_parts._part_time([len, len], [], 0, "CPU:0", Precision(), cores)
    assert time.forward_ns == time_ns
    assert seen[-2:] == [rows, rows]


@pytest.mark.parametrize(("cores", "rows"), [(0, 1), (1, 2)])
def test_updates_beside_each_other_are_of_weights_of_their_own(monkeypatch, cores, rows):
    made = []

    def apply(optimizer, gradients, variables):
        made.append([variable.name for variable in variables])

    monkeypatch.setattr(measure_parts, "num_places", lambda: 2)
    monkeypatch.setattr(measure_parts, "cores_per_place", lambda: 1)
    monkeypatch.setattr(keras.optimizers.SGD, "apply", apply)
    measure_parts.measure_update(keras.optimizers.SGD(), 1024, "CPU:0", QUICK, cores)
    assert len(made) == rows
    assert len({name for names in made for name in names}) == sum(map(len, made)) >= 2 * rows


def test_a_backward_pass_begins_when_the_forward_pass_has_ended(tmp_path, topology, monkeypatch):
    _, captured = convolutional()
    traced = []

    def runner(function, arguments, device, copies=1, beside=1, uncached=False, num_made=0):
        @tf.function
        def run(*given):
            return function(given)

        traced.append(run.get_concrete_function(*arguments).graph)
        return lambda: run(*arguments)

    monkeypatch.setattr(measure_parts, "runner", runner)
    profile = profile_of(captured, topology, tmp_path)
    parts = {o.kind: (o, regions) for o, regions in all_parts(Lowering(captured.graph), 1)}
    profile.part_times_ns(*parts["convolution"], topology.devices[0])
    backward = [op for g in traced for op in g.get_operations() if "Conv2DBackprop" in op.type]
    assert backward
    for op in backward:
        before, found = [op], set()
        while before:
            earlier = before.pop()
            found.add(earlier.type)
            before += [tensor.op for tensor in earlier.inputs] + list(earlier.control_inputs)
        assert "Conv2D" in found
