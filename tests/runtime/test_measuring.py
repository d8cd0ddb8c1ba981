"""`SoapStrategy` with measured costs."""

import dataclasses
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_soap import SoapStrategy
from keras_soap.capture.planning import capture_with_layers
from keras_soap.costs import measure, measure_parts, proto_io
from keras_soap.costs.cost_table import CostTable, PartTime
from keras_soap.costs.measure import MeasuredProfile
from keras_soap.costs.roofline import Roofline
from keras_soap.errors import CostError
from keras_soap.runtime import measured_topology, measuring
from keras_soap.runtime.measured_topology import LinkTime, fit, predict
from keras_soap.runtime.measuring import with_measured_pool
from keras_soap.tasks.lowering import Lowering
from keras_soap.topology.local import local_topology


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(measure, "UPDATE_BYTES", (1024,))


@pytest.fixture
def measured(monkeypatch):
    """Counts measurements, and makes them take no time."""
    count = []
    monkeypatch.setattr(
        measure_parts, "measure_part", lambda *a: count.append(a) or PartTime(9_000, 9_000)
    )
    monkeypatch.setattr(measure_parts, "measure_update", lambda *a: PartTime(1_000, 0))
    monkeypatch.setattr(measured_topology, "measure_task_overhead", lambda *a: PartTime(2_000, 0))
    for name in ("measure_copy", "measure_all_reduce"):
        monkeypatch.setattr(
            measured_topology,
            name,
            lambda topology, num_bytes, *a: count.append(num_bytes) or PartTime(num_bytes, 0),
        )
    return count


@pytest.mark.parametrize(
    ("cores", "intra", "inter", "shared"),
    [(8, 1, 6, 6), (8, 2, 6, 8), (8, 0, 0, 0), (2, 1, 6, 2), (8, 1, 0, 8), (1, 4, 4, 0)],
)
def test_a_task_has_the_cores_of_as_many_as_run_at_once(monkeypatch, cores, intra, inter, shared):
    threads = tf.config.threading
    monkeypatch.setattr(measure, "num_cores", lambda: cores)
    monkeypatch.setattr(threads, "get_intra_op_parallelism_threads", lambda: intra)
    monkeypatch.setattr(threads, "get_inter_op_parallelism_threads", lambda: inter)
    topology = local_topology().subset(2)
    found = measured_topology.with_pool(topology)
    assert found.compute == (0, 0)
    assert found.capacity[:2].tolist() == [1, 1]
    assert measure.cores_of_task(found) == shared
    assert measure.cores_of_task(topology) == 0
    whole, one = found.devices[0], topology.devices[0]
    assert whole.peak_flops_per_s == 2 * one.peak_flops_per_s
    assert measured_topology.with_pool(found) == found


@pytest.mark.parametrize(
    ("cores", "used", "utilization"),
    [(2, 0.9, 0.5), (2, 1.5, 0.75), (2, 2.1, 1.0), (8, 1.1, 0.138), (8, 2.0, 0.25)],
)
def test_how_many_cores_a_task_uses_that_is_alone_is_measured(
    monkeypatch, cores, used, utilization
):
    def measure_part(captured, number, part, differentiated, has_backward, device, _, shared):
        # 8 ms of processor time, in `used` threads.
        return PartTime(int(8_000_000 / (shared or used)), 0, 0.0, 1)

    monkeypatch.setattr(measure_parts, "measure_part", measure_part)
    monkeypatch.setattr(measure, "num_cores", lambda: cores)
    threads = tf.config.threading
    monkeypatch.setattr(threads, "get_intra_op_parallelism_threads", lambda: 1)
    monkeypatch.setattr(threads, "get_inter_op_parallelism_threads", lambda: cores)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8, "relu"), layers.Dense(2)])
    model.compile("sgd", "mse")
    captured = capture_with_layers(model, 8, training=True)

    def profile_on(topology):
        return MeasuredProfile(captured, topology)

    topology = local_topology().subset(2)
    found = with_measured_pool(Lowering(captured.graph), topology, profile_on)
    expected = measured_topology.with_pool(topology)
    same = [dataclasses.replace(d, pool_utilization=utilization) for d in expected.devices]
    assert found == dataclasses.replace(expected, devices=tuple(same))
    assert with_measured_pool(Lowering(captured.graph), found, profile_on) == found
    monkeypatch.setattr(measure, "num_cores", lambda: 1)
    assert with_measured_pool(Lowering(captured.graph), topology, profile_on) == expected


def test_cores_are_measured_by_the_heaviest_parts(monkeypatch):
    monkeypatch.setattr(measuring, "MOST_HEAVIEST", 3)
    assert measuring._heaviest("abcde", [5, 60, 30, 4, 1]) == ["b", "c"]
    assert measuring._heaviest("abcde", [1, 1, 1, 1, 1]) == ["e", "d", "c"]


def fit_with(**arguments) -> SoapStrategy:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8, "relu"), layers.Dense(2)])
    model.compile("sgd", "mse")
    arguments = {"search_budget_s": 0.2, "topology": "local:2", "verbose": 0} | arguments
    soap = SoapStrategy(**arguments)
    model.fit(np.ones((8, 4)), np.ones((8, 2)), batch_size=8, verbose=0, callbacks=[soap])
    return soap


def test_a_search_measures_costs_before_it_begins_and_keeps_them(measured):
    soap = fit_with()
    assert soap.plan.evaluation.step_time_ns > 0
    assert soap.costs.profile.source == "measured"
    assert soap.topology.devices[0].task_overhead_ns == 2_000
    first = len(measured)
    sizes = [asked for asked in measured if isinstance(asked, int)]
    assert sizes == [size for size in measured_topology.COPY_BYTES for _ in range(2)]
    keys = [(part.operator.kind, part.output, *clock) for part, *clock in parts_of(measured)]
    keys = [(part.operator.kind, part.output, *clock) for part, *clock in parts_of(measured)]
    # What was found was looked at twice.
    assert set(Counter(keys).values()) == {1, 2}
    again = fit_with(profile="measured")
    assert len(measured) == first
    assert again.topology == soap.topology


def test_a_strategy_that_is_given_or_named_needs_no_measurements(measured):
    named = fit_with(method="data_parallel")
    assert named.costs.profile == fit_with(strategy=named.strategy).costs.profile == Roofline()
    soap = fit_with(profile="measured", strategy=named.strategy)
    assert measured == []
    assert soap.plan.evaluation.step_time_ns > 0  # Asks for what it needs.
    assert measured


def test_nothing_is_measured_where_other_costs_are_asked_for(measured):
    assert fit_with(profile="analytic").costs.profile == Roofline()
    mine = Roofline(0.5, 0.5)
    assert fit_with(profile=mine).costs.profile is mine
    assert measured == []


def test_a_file_that_does_not_fit_is_used_with_a_warning(tmp_path, caplog):
    table = CostTable("CPU", {}, versions={"tensorflow": "1.15.0"})
    proto_io.save(tmp_path / "p.pb", table)
    assert fit_with(profile=str(tmp_path / "p.pb")).costs.profile == table
    assert "was made elsewhere: tensorflow '1.15.0' there" in caplog.text
    assert "has no times of 3 of 5 operators" in caplog.text
    with pytest.raises(CostError, match=r"Cannot read .*missing\.pb"):
        fit_with(profile=tmp_path / "missing.pb")


def test_a_file_of_this_machine_is_used_as_it_was_measured(measured, tmp_path, caplog):
    soap = fit_with()
    proto_io.save(tmp_path / "p.pb", soap.costs.profile.table())
    again = fit_with(profile=tmp_path / "p.pb")
    assert "made elsewhere" not in caplog.text
    devices = soap.topology.devices
    as_of_a_file = measured_topology.with_pool(local_topology().subset(2)).devices
    assert [d.pool for d in again.topology.devices] == [d.pool for d in devices] == ["cores"] * 2
    assert again.topology.devices == as_of_a_file


def parts_of(measured):
    """Parts that were measured, and among how many cores their time was shared out."""
    return [(asked[2], asked[7]) for asked in measured if isinstance(asked, tuple)]


def test_connections_that_predict_measurements_are_found():
    topology = local_topology().subset(2)
    true = measured_topology._with_links(topology, 20_000, 5e9)
    found = [
        LinkTime(kind, size, predict(true, LinkTime(kind, size, 0, 0.0)), 0.0)
        for kind in ("copy", "all_reduce")
        for size in measured_topology.COPY_BYTES
    ]
    fitted = fit(topology, found)
    for one in found:
        assert predict(fitted, one) == pytest.approx(one.time_ns, rel=0.2)
