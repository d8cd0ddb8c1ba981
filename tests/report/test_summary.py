"""The tables that people read."""

import dataclasses

import pytest

from keras_soap.costs.cost_table import CostTable, PartTime
from keras_soap.costs.roofline import Roofline
from keras_soap.operators.rule import DimensionKind
from keras_soap.report import describe, summary
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.strategy.saved_strategy import Figures, make_saved
from keras_soap.topology.resolve import presets, resolve
from tests.search.toys import chain, machine, problem

DIMENSIONS = [
    ("sample", DimensionKind.SAMPLE),
    ("height", DimensionKind.ATTRIBUTE),
    ("filters", DimensionKind.PARAMETER),
]


@pytest.mark.parametrize(
    ("degrees", "words"),
    [
        ((1, 1, 1), "whole"),
        ((2, 1, 1), "S2"),
        ((1, 2, 4), "height A2 filters P4"),
        ((2, 2, 2), "S2 height A2 filters P2"),
    ],
)
def test_splits_have_their_letters(degrees, words):
    parts = degrees[0] * degrees[1] * degrees[2]
    config = ParallelConfig(degrees, tuple(range(parts)))
    assert summary.describe_split(DIMENSIONS, config) == words


def test_times_are_those_of_the_slowest_part():
    of = problem()
    strategy = of.baselines["data_parallel"].strategy
    rows = summary.operator_rows(of.costs, strategy)
    dense = rows[0]
    forward, *backward = of.costs.part_times_ns(1, strategy.configs[1].degrees, 0)
    assert (dense.name, dense.split, dense.devices) == ("dense_1", "S4", (0, 1, 2, 3))
    assert (dense.forward_ns, dense.backward_ns) == (max(forward), max(sum(backward)))
    assert all(row.backward_ns == 0 for row in summary.operator_rows(of.costs, strategy, False))


def test_the_summary_has_a_row_for_each_strategy_and_each_operator_that_is_no_input():
    of = problem()
    text = summary.summarize(of.costs, {"soap": of.baselines["expert"], **of.baselines})
    lines = text.splitlines()
    for operator in of.graph.operators:
        count = sum(line.startswith(f"{operator.name} ") for line in lines)
        assert count == (operator.kind != "input")
    for name, evaluation in of.baselines.items():
        (line,) = (line for line in lines if line.startswith(f"{name} "))
        assert summary.table.milliseconds(evaluation.step_time_ns) in line
        assert summary.table.size(evaluation.communication_bytes) in line
    assert "simulated from analytic costs" in text
    assert "data_parallel forward µs" in text


def test_what_does_not_fit_into_memory_says_so():
    of = problem(topology=machine(4, memory_bytes=1000))
    text = summary.totals(of.baselines, 1)
    assert text.count("(does not fit)") == len(of.baselines)


def test_memory_of_many_devices_is_a_range():
    assert summary.memory([1024] * 9) == "1.000 KiB each"
    assert summary.memory([1024, 2048]) == "1.000 KiB, 2.000 KiB"
    assert summary.memory([1024 * (n + 1) for n in range(9)]) == "1.000 KiB to 9.000 KiB"


def test_a_saved_strategy_shows_what_it_was_made_for():
    of = problem()
    evaluation = of.baselines["data_parallel"]
    figures = Figures(
        evaluation.step_time_ns,
        evaluation.communication_bytes,
        evaluation.peak_memory_bytes,
        of.profile.source,
        "mcmc",
    )
    saved = make_saved(evaluation.strategy, of.graph, of.lowering.dimensions, of.topology, figures)
    text = summary.describe_saved(saved)
    assert "model toy, batch size 32, on toy_4: 4 devices" in text
    assert "Step time (simulated from analytic costs)" in text
    assert "dense_1   S4     0–3" in text
    bare = dataclasses.replace(saved, figures=Figures(), created="")
    assert "Step time" not in summary.describe_saved(bare)


@pytest.mark.parametrize("name", presets())
def test_topologies_are_described(name):
    topology = resolve(name)
    text = describe.describe_topology(topology)
    assert text.startswith(f"Topology {name}: {topology.num_devices} devices")
    pairs = topology.num_devices * (topology.num_devices - 1) // 2
    routes = text[text.index("routes such as") :].splitlines()[2:]
    assert sum(int(line.split()[0]) for line in routes) == pairs


def test_graphs_and_profiles_are_described():
    text = describe.describe_graph(chain())
    assert "Model toy, batch size 32: 5 operators, 4 weights" in text
    assert "float32[32, 256]" in text
    assert "70% of peak" in describe.describe_profile(Roofline())
    table = CostTable("K80", {"a part": PartTime(1_500, 3_000, 0.05, 7, 500)})
    (line,) = [x for x in describe.describe_profile(table).splitlines() if "a part" in x]
    assert line.split() == ["a", "part", "1.5", "3.0", "0.5", "5.0%", "7"]
