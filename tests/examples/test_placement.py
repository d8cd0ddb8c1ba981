"""Placements of a sharding: what is compared is the same work on other chips."""

import json

import numpy as np
import pytest
from absl import app
from absl.testing import flagsaver

from keras_soap.graph.inference import forward_part
from keras_soap.graph.zoo import dit
from keras_soap.search.problem import Budget
from keras_soap.topology.resolve import resolve
from tests.examples.programs import loaded
from tests.search import toys

SMALL = {"image_size": 8, "units": 32, "num_heads": 4, "num_layers": 1, "classes": 10}


@pytest.fixture(scope="module")
def program():
    with loaded("placement") as modules:
        yield modules["placement"]


@pytest.fixture(scope="module")
def problem():
    graph = forward_part(dit(2, **SMALL))
    return toys.problem(graph, resolve("tpu_v5e_2x4"), training=False)


def test_an_order_moves_parts_and_changes_no_degrees(program, problem):
    strategy = problem.baselines["model_parallel"].strategy
    moved = program.permuted(strategy, [7, 6, 5, 4, 3, 2, 1, 0])
    for before, after in zip(strategy.configs, moved.configs, strict=True):
        assert after.degrees == before.degrees
        assert after.devices == tuple(7 - device for device in before.devices)
    mirrored = problem.objective.evaluate(moved)
    assert mirrored.communication_bytes == problem.objective.evaluate(strategy).communication_bytes


def test_orders_are_permutations_and_a_snake_goes_from_neighbour_to_neighbour(program):
    orders = program.orders(2, 4)
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert orders[2] == [0, 1, 2, 3, 7, 6, 5, 4]
    assert orders[3] == [0, 1, 4, 5, 2, 3, 6, 7]


def test_better_placements_are_never_slower_and_keep_the_sharding(program, problem):
    rng = np.random.default_rng(0)
    start = problem.objective.evaluate(problem.space.random_strategy(rng))
    ordered = program.best_order(problem, start.strategy, program.orders(2, 4))
    placed = program.placed(problem, ordered, Budget(proposals=500))
    assert placed.rank <= ordered.rank <= start.rank
    for one, other in zip(placed.strategy.configs, start.strategy.configs, strict=True):
        assert one.degrees == other.degrees


def test_what_was_found_for_a_slice_lies_in_the_corner_of_a_larger_one(program, problem):
    small = toys.problem(problem.graph, resolve("tpu_v5e_2x2"), training=False)
    strategy = small.baselines["data_parallel"].strategy
    found = program.Found(2, 2, small.baselines["model_parallel"].strategy)
    (placed,) = found.in_corner_of(2, 4)
    used = {device for config in placed.configs for device in config.devices}
    assert used == {0, 1, 4, 5}
    # The corner is a slice of its own: the same links lead from chip to chip.
    latency = [
        of.objective.evaluate(s).step_time_ns
        for of, s in ((small, found.strategy), (problem, placed))
    ]
    assert latency[0] == latency[1]
    assert program.Found(2, 2, strategy).in_corner_of(1, 4) == []


def test_each_row_is_at_least_as_fast_as_what_it_started_from(program, tmp_path, monkeypatch):
    monkeypatch.setattr(
        program, "dit", lambda batch, size, num_layers: dit(batch, **{**SMALL, "image_size": size})
    )
    path = tmp_path / "f.json"
    flags = {"slices": ["2x2"], "image_size": 8, "num_proposals": 100, "json_out": str(path)}
    with flagsaver.flagsaver(**flags):
        program.main(["placement.py"])
    (figures,) = json.loads(path.read_text())
    latency = figures["latency_ms"]
    assert latency["soap"] <= latency["placed"] <= latency["permuted"] <= latency["sharded"]
    assert figures["mode"] == "inference"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"slices": ["4"]}, "--slices has '4'"),
        ({"slices": []}, "--slices is empty"),
        ({"image_size": 7}, "--image_size=7 must be even"),
    ],
)
def test_flags_that_make_no_sense_are_refused(program, values, reason):
    with flagsaver.flagsaver(**values), pytest.raises(app.UsageError, match=reason):
        program.main(["placement.py"])


def test_slices_beyond_a_pod_are_refused(program):
    with flagsaver.flagsaver(slices=["2x17"], num_layers=1), pytest.raises(SystemExit, match="16"):
        program.main(["placement.py"])
