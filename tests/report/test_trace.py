"""Traces and pages of a simulated step."""

import collections
import dataclasses
import itertools
import json
import re

import pytest

from keras_soap.report import html, trace
from keras_soap.simulator import reference
from keras_soap.strategy.baselines import BASELINES
from keras_soap.tasks.build import build
from keras_soap.tasks.task_graph import TaskKind
from tests.search.toys import diamond, machine, problem


def simulated(name="model_parallel", of=None):
    of = of or problem(diamond(), machine(4, num_nodes=2))
    tasks = build(of.costs, of.baselines[name].strategy)
    return of, tasks, reference.simulate(tasks)


def events(path):
    content = json.loads(path.read_text("utf-8"))
    return [event for event in content["traceEvents"] if event["ph"] == "X"], content


def sharing_cores(pool_size, share):
    alone = machine(4, num_nodes=2)
    devices = [
        dataclasses.replace(d, pool="cores", pool_size=pool_size, pool_utilization=share)
        for d in alone.devices
    ]
    return dataclasses.replace(alone, devices=tuple(devices))


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize(("pool_size", "share"), [(0, 1.0), (1, 1.0), (3, 1.0), (1, 0.5)])
def test_the_file_is_json_and_no_two_events_of_a_row_overlap(tmp_path, name, pool_size, share):
    of, tasks, timeline = simulated(
        name, problem(diamond(), sharing_cores(pool_size, share)) if pool_size else None
    )
    path = tmp_path / "trace.json"
    trace.write_trace(path, of.graph, of.topology, tasks, timeline)
    found, content = events(path)
    assert len(found) == len(tasks.resources)
    rows = collections.defaultdict(list)
    for event in found:
        start_ns = round(event["ts"] * 1000)
        rows[event["pid"], event["tid"]].append((start_ns, start_ns + round(event["dur"] * 1000)))
    for spans in rows.values():
        spans.sort()
        for (_, end), (start, _) in itertools.pairwise(spans):
            assert end <= start
    # A task that does not use all of its place is drawn while it holds that, and may end later.
    last = max(end for spans in rows.values() for _, end in spans)
    assert last == timeline.step_time_ns if share == 1 else last <= timeline.step_time_ns
    assert content["otherData"]["step_time_us"] == timeline.step_time_ns / 1e3


def test_events_say_what_when_and_where():
    of, tasks, timeline = simulated()
    found = trace.trace(of.graph, of.topology, tasks, timeline)["traceEvents"]
    transfer = int((tasks.kind == TaskKind.TRANSFER).argmax())
    mine = [event for event in found if event.get("args", {}).get("task") == transfer]
    source, destination = int(tasks.source[transfer]), int(tasks.destination[transfer])
    assert {event["pid"] for event in mine} == {2}
    assert len(mine) == len(of.topology.route(source, destination).links)
    assert mine[0]["args"]["num_bytes"] == tasks.num_bytes[transfer]
    assert mine[0]["args"]["from"] == of.topology.devices[source].name
    assert mine[0]["args"]["to"] == of.topology.devices[destination].name
    assert mine[0]["name"].endswith(" transfer")


def test_rows_are_named():
    of, tasks, timeline = simulated()
    found = trace.trace(of.graph, of.topology, tasks, timeline)["traceEvents"]
    names = {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in found
        if event["name"] == "thread_name"
    }
    assert [names[1, number] for number in range(4)] == ["CPU:0", "CPU:1", "CPU:2", "CPU:3"]
    used = {(event["pid"], event["tid"]) for event in found if event["ph"] == "X"}
    assert used <= set(names)


def test_the_page_has_strategies_operators_and_the_timeline(tmp_path):
    of, tasks, timeline = simulated()
    path = tmp_path / "report.html"
    html.write_report(path, of.costs, of.baselines, tasks, timeline)
    page = path.read_text("utf-8")
    operators = [o.name for o in of.graph.operators if o.kind != "input"]
    for name in (*of.baselines, *operators):
        assert f"<td>{name}</td>" in page
    assert page.count("<rect") == len(tasks.resources)
    right = max(
        float(x) + float(width)
        for x, width in re.findall(r'<rect x="([\d.]+)" y="\d+" width="([\d.]+)"', page)
    )
    assert right == pytest.approx(1000, abs=0.5)
