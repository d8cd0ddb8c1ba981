"""A simulated step as a Chrome trace: open it in https://ui.perfetto.dev or chrome://tracing.

A step that really ran can be beside it, from the same beginning.

1. Devices are the threads of one process, links those of another.
2. A task is one complete event (`"ph": "X"`) on each resource that it holds, in microseconds.
3. On one row events never overlap: `rows.arrange` sees to that.
4. Threads that really ran are the threads of a third process. Spans of tasks have the names and
   colours of the simulated ones; inside of them are TensorFlow's operations.
"""

import json
import os
from collections.abc import Sequence
from typing import Any

from keras_soap.graph.operator_graph import OperatorGraph
from keras_soap.proto.files import write_atomically
from keras_soap.report.ran_step import RanOperation, RanStep, Span
from keras_soap.report.rows import Row, arrange
from keras_soap.simulator.timeline import Timeline
from keras_soap.tasks.task_graph import TaskGraph, TaskKind
from keras_soap.tasks.task_names import names
from keras_soap.topology.device_topology import DeviceTopology

_DEVICES, _LINKS, _THREADS = 1, 2, 3


def write_trace(
    path: str | os.PathLike[str],
    graph: OperatorGraph,
    topology: DeviceTopology,
    tasks: TaskGraph,
    timeline: Timeline,
    ran: RanStep | None = None,
) -> None:
    """Writes the trace of a simulated step to a JSON file.

    Args:
        path: Of the file; its folder is made if need be.
        graph: The operators, for their names.
        topology: The machine, for the names of devices and links.
        tasks: What ran.
        timeline: When.
        ran: The step as it really ran.
    """
    content = trace(graph, topology, tasks, timeline, ran)
    write_atomically(path, json.dumps(content, separators=(",", ":")).encode())


def trace(
    graph: OperatorGraph,
    topology: DeviceTopology,
    tasks: TaskGraph,
    timeline: Timeline,
    ran: RanStep | None = None,
) -> dict[str, Any]:
    """The trace as the object that the JSON file holds; see `write_trace` for the arguments."""
    rows, row_of = arrange(topology, tasks, timeline)
    events = _names(topology, rows)
    for task in range(tasks.num_tasks):
        first, last = tasks.resource_offsets[task : task + 2]
        event = _event(graph, topology, tasks, timeline, task)
        for row in row_of[first:last].tolist():
            events.append({**event, "pid": _LINKS if rows[row].is_link else _DEVICES, "tid": row})
    facts: dict[str, Any] = {"source": "simulated"}
    if ran is not None:
        events += _ran_events(graph, tasks, ran)
        facts = {"measured_step_time_us": ran.time_ns / 1e3, "source": "simulated and measured"}
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "model": graph.name,
            "batch_size": graph.batch_size,
            "topology": topology.name,
            "step_time_us": timeline.step_time_ns / 1e3,
            **facts,
        },
    }


def _names(topology: DeviceTopology, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Names of the processes and threads."""
    events = []
    for process, what in ((_DEVICES, "devices"), (_LINKS, "links")):
        name = f"{what} of {topology.name} (simulated)"
        events.append({"ph": "M", "pid": process, "name": "process_name", "args": {"name": name}})
        for number, row in enumerate(rows):
            if row.is_link == (process == _LINKS):
                place = {"ph": "M", "pid": process, "tid": number}
                events.append({**place, "name": "thread_name", "args": {"name": row.name}})
                events.append(
                    {**place, "name": "thread_sort_index", "args": {"sort_index": number}}
                )
    return events


def _ran_events(graph: OperatorGraph, tasks: TaskGraph, ran: RanStep) -> list[dict[str, Any]]:
    """The step as it ran."""
    by_scope = {name.scope: name for name in names(tasks, graph)}
    spans = ran.spans()
    title = "threads of this process (measured)"
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": _THREADS, "name": "process_name", "args": {"name": title}}
    ]
    for thread in sorted({span.thread for span in spans}):
        place = {"ph": "M", "pid": _THREADS, "tid": thread}
        events.append({**place, "name": "thread_name", "args": {"name": f"thread {thread}"}})
    for span in spans:
        task = by_scope.get(span.scope)
        place = {"ph": "X", "pid": _THREADS, "tid": span.thread}
        what = task.kind.label if task else "no task"
        args = {"operator": task.operator, "part": task.part} if task else {}
        name = f"{task.operator} {what}".strip() if task else what
        events.append({**place, "name": name, "cat": what, "args": args, **_times(span)})
        events += [
            {**place, "name": o.kind, "cat": "operation", "args": {"node": o.name}, **_times(o)}
            for o in span.operations
        ]
    return events


def _times(ran: Span | RanOperation) -> dict[str, float]:
    return {"ts": ran.start_ns / 1e3, "dur": (ran.end_ns - ran.start_ns) / 1e3}


def _event(
    graph: OperatorGraph,
    topology: DeviceTopology,
    tasks: TaskGraph,
    timeline: Timeline,
    task: int,
) -> dict[str, Any]:
    kind = TaskKind(int(tasks.kind[task]))
    operator, part = int(tasks.operator[task]), int(tasks.part[task])
    what = kind.label
    args: dict[str, Any] = {"task": task}
    name = what
    if operator >= 0:
        name = f"{graph.operators[operator].name} {what}"
        args |= {"operator": graph.operators[operator].name, "part": part}
        args["operator_kind"] = graph.operators[operator].kind
    if kind.is_communication:
        args["num_bytes"] = int(tasks.num_bytes[task])
    if tasks.source[task] >= 0:
        args["from"] = topology.devices[tasks.source[task]].name
        args["to"] = topology.devices[tasks.destination[task]].name
    args["waited_us"] = (int(timeline.start_ns[task]) - int(timeline.ready_ns[task])) / 1e3
    if timeline.end_ns[task] > timeline.start_ns[task] + tasks.run_time_ns[task]:
        # It does not use all of its place, and goes on while others do.
        args["ended_us"] = int(timeline.end_ns[task]) / 1e3
    return {
        "ph": "X",
        "name": name,
        "cat": what,
        "ts": int(timeline.start_ns[task]) / 1e3,
        "dur": int(tasks.run_time_ns[task]) / 1e3,
        "args": args,
    }
