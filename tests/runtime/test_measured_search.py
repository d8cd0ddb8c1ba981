"""Searches on measured times look twice at what they find."""

from collections import Counter

import keras
import pytest
from keras import layers

from keras_soap.capture.planning import capture_with_layers
from keras_soap.costs import measure, measure_parts
from keras_soap.costs.cost_table import PartTime
from keras_soap.costs.measure import MeasuredProfile
from keras_soap.costs.roofline import Roofline
from keras_soap.runtime.measured_search import measured_search
from keras_soap.tasks.lowering import Lowering
from keras_soap.topology.local import local_topology


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(measure, "UPDATE_BYTES", (1024,))
    monkeypatch.setattr(measure_parts, "measure_update", lambda *a: PartTime(1_000, 0))


@pytest.fixture
def looks(monkeypatch, request):
    """How often each part was measured, by operator and shape.

    A part takes 8 ms, whatever its shape; but half of the samples seem to take next to nothing when
    they are measured for the first time. Tests may say what else they seem to take then, in ns by
    their number.
    """
    at_first_ns = getattr(request, "param", {4: 1_000})
    count: Counter[tuple[str, tuple[int, ...]]] = Counter()

    def measure_part(captured, number, part, *more):
        shape = tuple(stop - start for start, stop in part.output)
        key = captured.graph.operators[number].name, shape
        count[key] += 1
        usual_ns = 8_000_000
        return PartTime(at_first_ns.get(shape[0], usual_ns) if count[key] == 1 else usual_ns, 0)

    monkeypatch.setattr(measure_parts, "measure_part", measure_part)
    return count


@pytest.fixture(scope="module")
def captured():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8, "relu"), layers.Dense(2)])
    model.compile("sgd", "mse")
    return capture_with_layers(model, 8, training=True)


def search_with(profile, captured, **options):
    return measured_search(
        Lowering(captured.graph), local_topology().subset(2), profile, 0.3, False, **options
    )


def test_what_was_measured_too_fast_by_chance_is_found_out(looks, captured):
    profile = MeasuredProfile(captured, local_topology().subset(2))
    result = search_with(profile, captured, dims="S")
    assert looks["dense", (4, 8)] == looks["dense_1", (4, 2)] == 2
    # Nothing gains by being split, so nothing is.
    assert {config.num_parts for config in result.strategy.configs} == {1}


@pytest.mark.parametrize("looks", [{8: 8_500_000}], indirect=True)
def test_what_was_measured_too_slow_by_chance_is_not_passed_over(looks, captured):
    profile = MeasuredProfile(captured, local_topology().subset(2))
    result = search_with(profile, captured, dims="S")
    # Halves were faster at first; a baseline that splits nothing was near.
    assert looks["dense", (8, 8)] == looks["dense_1", (8, 2)] == 2
    assert {config.num_parts for config in result.strategy.configs} == {1}


@pytest.mark.parametrize("looks", [{8: 12_000_000}], indirect=True)
def test_what_is_far_behind_is_not_measured_again(looks, captured):
    profile = MeasuredProfile(captured, local_topology().subset(2))
    search_with(profile, captured, dims="S")
    assert looks["dense", (4, 8)] == 2
    assert looks["dense", (8, 8)] == 1


def test_nothing_is_measured_a_third_time(looks, captured):
    for _ in range(2):
        search_with(MeasuredProfile(captured, local_topology().subset(2)), captured)
    assert max(looks.values()) == 2


@pytest.mark.parametrize("method", ["data_parallel", "expert"])
def test_where_nothing_is_chosen_nothing_is_measured_again(looks, captured, method):
    search_with(MeasuredProfile(captured, local_topology().subset(2)), captured, method=method)
    assert max(looks.values()) == 1


def test_other_times_are_taken_as_they_are(looks, captured):
    result = search_with(Roofline(), captured)
    assert result.cost_source == "analytic"
    assert not looks
