"""Steps that ran, beside simulated ones: on operations that were made up."""

import dataclasses
import itertools

import pytest

from keras_soap.report import breakdown, trace
from keras_soap.report.ran_step import PAUSE_NS, RanOperation, RanStep
from keras_soap.simulator import reference
from keras_soap.tasks.build import build
from keras_soap.tasks.task_graph import TaskKind
from keras_soap.tasks.task_names import TaskName, names, scope_of
from tests.search.toys import diamond, machine, problem


@pytest.fixture(scope="module")
def planned():
    of = problem(diamond(), machine(2))
    tasks = build(of.costs, of.baselines["data_parallel"].strategy)
    return of, tasks


def ran_as_predicted(of, tasks, slower=1):
    """A step of one operation for each task, on a thread of its own, `slower` times as long."""
    timeline = reference.simulate(tasks)
    operations = [
        RanOperation(
            task,
            name.scope + "MatMul",
            "MatMul",
            int(start),
            int(start) + slower * int(tasks.run_time_ns[task]),
        )
        for task, (name, start) in enumerate(
            zip(names(tasks, of.graph), timeline.start_ns, strict=True)
        )
    ]
    return RanStep(operations, timeline.step_time_ns)


def rows_of(of, tasks, step):
    return breakdown.rows(of.graph, of.topology, tasks, reference.simulate(tasks), step)


def test_names_tell_operators_parts_and_kinds_apart(planned):
    of, tasks = planned
    found = names(tasks, of.graph)
    for first, second in itertools.combinations(range(tasks.num_tasks), 2):
        if found[first] == found[second]:
            kinds = {TaskKind(int(tasks.kind[task])) for task in (first, second)}
            assert (
                kinds <= {TaskKind.BACKWARD, TaskKind.WEIGHT_GRADIENT}
                or kinds <= {TaskKind.REPORT, TaskKind.REPORT_TRANSFER}
                or len(kinds) == 1
            )
    assert len({name.scope for name in found}) == len(set(found))


@pytest.mark.parametrize(
    ("operation", "scope"),
    [
        ("conv2d/forward.0/Conv2D", "conv2d/forward.0/"),
        ("block/query/forward.12/add", "block/query/forward.12/"),
        ("gradient_tape/conv2d/forward.0/Conv2DBackpropInput", "conv2d/backward.0/"),
        ("forward/forward.1/while/body/_3/forward/forward.1/while/MatMul", "forward/forward.1/"),
        ("gradient_tape/forward/forward.1/while/gradients", "forward/backward.1/"),
        ("update.1/adam/AssignAddVariableOp", "update.1/"),
        ("feed/Slice", None),
        ("pieces_0", None),
    ],
)
def test_operations_are_told_by_their_names(operation, scope):
    assert scope_of(operation) == scope


def test_scopes_hold_whatever_operators_are_called():
    for name in ("über/α", "a.b", "_x", "loss/mse", "1x1 conv"):
        scope = TaskName(TaskKind.FORWARD, name, 3).scope
        assert scope_of(scope + "MatMul") == scope


def test_a_step_that_runs_as_predicted_has_no_differences(planned):
    of, tasks = planned
    rows = rows_of(of, tasks, ran_as_predicted(of, tasks))
    assert all(row.predicted_ns == row.measured_ns for row in rows)
    assert sum(row.predicted_ns for row in rows) == tasks.run_time_ns.sum()


def test_what_differs_most_comes_first(planned):
    of, tasks = planned
    step = ran_as_predicted(of, tasks, slower=3)
    odd = RanOperation(10**6, "feed/Slice", "Slice", 0, 7)
    rows = rows_of(of, tasks, RanStep([*step.operations, odd], step.time_ns))
    differences = [abs(row.predicted_ns - row.measured_ns) for row in rows]
    assert differences == sorted(differences, reverse=True)
    slowest = max(rows_of(of, tasks, ran_as_predicted(of, tasks)), key=lambda row: row.predicted_ns)
    assert differences[0] == 2 * slowest.predicted_ns
    assert [row.measured_ns for row in rows if row.name is None] == [7]
    totals = breakdown.by_kind(rows)
    assert totals["forward"][1] == 3 * totals["forward"][0] > 0
    assert "no task" in breakdown.render(rows, most=len(rows))


def test_devices_that_share_cores_share_the_time_in_which_several_tasks_run():
    devices = [
        dataclasses.replace(device, pool="cores", pool_utilization=0.5)
        for device in machine(2).devices
    ]
    of = problem(diamond(), dataclasses.replace(machine(2), devices=tuple(devices)))
    tasks = build(of.costs, of.baselines["data_parallel"].strategy)
    step = ran_as_predicted(of, tasks)
    # Each lasts as if it were alone.
    timeline = reference.simulate(tasks)
    ran = [
        dataclasses.replace(operation, end_ns=int(end))
        for operation, end in zip(step.operations, timeline.end_ns, strict=True)
    ]
    assert sum(timeline.end_ns - timeline.start_ns) > 1.05 * timeline.step_time_ns
    rows = rows_of(of, tasks, RanStep(ran, timeline.step_time_ns))
    assert [row.predicted_ns for row in rows] == [row.measured_ns for row in rows]
    assert sum(row.predicted_ns for row in rows) == pytest.approx(timeline.step_time_ns, rel=0.01)
    # Of the first half second one has all, and half of the second.
    first, second = names(tasks, of.graph)[:2]
    both = [
        RanOperation(0, first.scope + "a", "X", 0, 10**9),
        RanOperation(1, second.scope + "a", "X", 5 * 10**8, 10**9),
    ]
    found = {row.name: row.measured_ns for row in rows_of(of, tasks, RanStep(both, 10**9))}
    assert (found[first], found[second]) == (75 * 10**7, 25 * 10**7)


def test_operations_that_follow_each_other_are_one_span():
    ends = [("a/forward.0/x", 0, 10), ("a/forward.0/y", 12, 20), ("b/forward.0/x", 21, 30)]
    late = 30 + PAUSE_NS + 1
    ends.append(("b/forward.0/y", late, late + 5))
    step = RanStep([RanOperation(4, name, "X", a, b) for name, a, b in ends], 0)
    spans = [(span.scope, span.start_ns, span.end_ns) for span in step.spans()]
    assert spans == [
        ("a/forward.0/", 0, 20), ("b/forward.0/", 21, 30), ("b/forward.0/", late, late + 5),
    ]  # fmt: skip


def test_a_trace_has_both_steps_side_by_side(planned):
    of, tasks = planned
    timeline = reference.simulate(tasks)
    step = ran_as_predicted(of, tasks)
    content = trace.trace(of.graph, of.topology, tasks, timeline, step)
    alone = trace.trace(of.graph, of.topology, tasks, timeline)["traceEvents"]
    events = content["traceEvents"]
    assert events[: len(alone)] == alone
    simulated = {(e["name"], e["ts"]) for e in alone if e["ph"] == "X" and e["pid"] == 1}
    real = {(e["name"], e["ts"]) for e in events[len(alone) :] if e["ph"] == "X"}
    told_apart = {e for e in simulated if "weight gradient" not in e[0] and "update" not in e[0]}
    assert {e for e in told_apart if "report" not in e[0]} <= real
    assert content["otherData"]["measured_step_time_us"] == step.time_ns / 1e3
