"""A simulated step as a Chrome trace: open it in https://ui.perfetto.dev or chrome://tracing.

1. Devices are the threads of one process, links those of another.
2. A task is one complete event (`"ph": "X"`) on each resource that it holds, in microseconds.
3. On one row events never overlap, since a resource runs one task at a time.
"""

import json
import os
from typing import Any

from keras_soap.graph.operator_graph import OperatorGraph
from keras_soap.proto.files import write_atomically
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
    events = _rows(topology, tasks)
    for task in range(tasks.num_tasks):
        first, last = tasks.resource_offsets[task : task + 2]
        event = _event(graph, topology, tasks, timeline, task)
        for resource in tasks.resources[first:last].tolist():
            is_link = resource >= tasks.num_devices
            events.append(
                {
                    **event,
                    "pid": _LINKS if is_link else _DEVICES,
                    "tid": resource - tasks.num_devices if is_link else resource,
                }
            )
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


def _rows(topology: DeviceTopology, tasks: TaskGraph) -> list[dict[str, Any]]:
    """Names of the processes and threads; links that carry nothing have no row."""
    used = {resource - tasks.num_devices for resource in set(tasks.resources.tolist())}
    devices = [(number, device.name) for number, device in enumerate(topology.devices)]
    links = [(number, link.name) for number, link in enumerate(topology.links) if number in used]
    rows = []
    for process, what, threads in ((_DEVICES, "devices", devices), (_LINKS, "links", links)):
        name = f"{what} of {topology.name} (simulated)"
        rows.append({"ph": "M", "pid": process, "name": "process_name", "args": {"name": name}})
        for number, thread in threads:
            place = {"ph": "M", "pid": process, "tid": number}
            rows.append({**place, "name": "thread_name", "args": {"name": thread}})
            rows.append({**place, "name": "thread_sort_index", "args": {"sort_index": number}})
    return rows


def _event(
    graph: OperatorGraph,
    topology: DeviceTopology,
    tasks: TaskGraph,
    timeline: Timeline,
    task: int,
) -> dict[str, Any]:
    kind = TaskKind(int(tasks.kind[task]))
    operator, part = int(tasks.operator[task]), int(tasks.part[task])
    what = kind.name.lower().replace("_", " ")
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
