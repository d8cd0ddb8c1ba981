"""A simulated step as a Chrome trace: open it in https://ui.perfetto.dev or chrome://tracing.

1. Devices are the threads of one process, links those of another.
2. A task is one complete event (`"ph": "X"`) on each resource that it holds, in microseconds.
3. On one row events never overlap: `rows.arrange` sees to that.
"""

import json
import os
from collections.abc import Sequence
from typing import Any

from keras_soap.graph.operator_graph import OperatorGraph
from keras_soap.proto.files import write_atomically
from keras_soap.report.rows import Row, arrange
from keras_soap.simulator.timeline import Timeline
from keras_soap.tasks.task_graph import TaskGraph, TaskKind
from keras_soap.topology.device_topology import DeviceTopology

_DEVICES, _LINKS = 1, 2


def write_trace(
    path: str | os.PathLike[str],
    graph: OperatorGraph,
    topology: DeviceTopology,
    tasks: TaskGraph,
    timeline: Timeline,
) -> None:
    """Writes the trace of a simulated step to a JSON file.

    Args:
        path: Of the file; its folder is made if need be.
        graph: The operators, for their names.
        topology: The machine, for the names of devices and links.
        tasks: What ran.
        timeline: When.
    """
    content = trace(graph, topology, tasks, timeline)
    write_atomically(path, json.dumps(content, separators=(",", ":")).encode())


def trace(
    graph: OperatorGraph, topology: DeviceTopology, tasks: TaskGraph, timeline: Timeline
) -> dict[str, Any]:
    """The trace as the object that the JSON file holds; see `write_trace` for the arguments."""
    rows, row_of = arrange(topology, tasks, timeline)
    events = _names(topology, rows)
    for task in range(tasks.num_tasks):
        first, last = tasks.resource_offsets[task : task + 2]
        event = _event(graph, topology, tasks, timeline, task)
        for row in row_of[first:last].tolist():
            events.append({**event, "pid": _LINKS if rows[row].is_link else _DEVICES, "tid": row})
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "model": graph.name,
            "batch_size": graph.batch_size,
            "topology": topology.name,
            "step_time_us": timeline.step_time_ns / 1e3,
            "source": "simulated",
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
    return {
        "ph": "X",
        "name": name,
        "cat": what,
        "ts": int(timeline.start_ns[task]) / 1e3,
        "dur": (int(timeline.end_ns[task]) - int(timeline.start_ns[task])) / 1e3,
        "args": args,
    }
