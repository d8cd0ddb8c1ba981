"""Where a prediction and a real step part: times of tasks, predicted and measured, side by side.

Devices that share cores (`Device.pool`) have their tasks one after the other in a prediction and
beside each other in fact. So there the time in which several run is shared out among them.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from keras_soap.graph.operator_graph import OperatorGraph
from keras_soap.report import table
from keras_soap.report.ran_step import RanStep
from keras_soap.simulator.timeline import Timeline
from keras_soap.tasks.task_graph import TaskGraph
from keras_soap.tasks.task_names import TaskName, names
from keras_soap.topology.device_topology import DeviceTopology

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """Tasks of one name.

    Attributes:
        name: Their name; None for operations of no task, such as those that feed the next batch.
        predicted_ns: Their times together.
        measured_ns: What they really took together.
    """

    name: TaskName | None
    predicted_ns: int
    measured_ns: int

    @property
    def label(self) -> str:
        """For people: `"conv2d/forward.0"`."""
        return self.name.scope.rstrip("/") if self.name else "no task"


def rows(
    graph: OperatorGraph,
    topology: DeviceTopology,
    tasks: TaskGraph,
    timeline: Timeline,
    step: RanStep,
) -> list[Row]:
    """All tasks by name, those that differ most first.

    Args:
        graph: The operators.
        topology: What was planned for.
        tasks: What was predicted.
        timeline: When each was to run.
        step: What ran.
    """
    all_names = names(tasks, graph)
    by_scope = {name.scope: name for name in all_names}
    of_pools: dict[str, list[tuple[TaskName, int, int]]] = {}
    predicted: Counter[TaskName] = Counter()
    for task, name in enumerate(all_names):
        pool = _pool(topology, tasks, task)
        if pool:
            interval = name, int(timeline.start_ns[task]), int(timeline.end_ns[task])
            of_pools.setdefault(pool, []).append(interval)
        else:
            predicted[name] += int(tasks.run_time_ns[task])
    for intervals in of_pools.values():
        predicted += _shared_out(intervals)
    spans = [(by_scope.get(span.scope), span.start_ns, span.end_ns) for span in step.spans()]
    measured: Counter[TaskName | None] = Counter()
    if of_pools:
        measured = _shared_out(spans)
    else:
        for name, start_ns, end_ns in spans:
            measured[name] += end_ns - start_ns
    result = [Row(name, predicted[name], measured[name]) for name in dict.fromkeys(all_names)]
    result.append(Row(None, 0, measured[None]))
    return sorted(result, key=lambda row: -abs(row.predicted_ns - row.measured_ns))


def _pool(topology: DeviceTopology, tasks: TaskGraph, task: int) -> str:
    """What the task computes with; nothing, where its device has its own, or it only moves."""
    held = tasks.resources[tasks.resource_offsets[task] : tasks.resource_offsets[task + 1]]
    pools = [topology.devices[resource].pool for resource in held if resource < tasks.num_devices]
    return next(iter(pools), "")


def _shared_out(intervals: Iterable[tuple[T, int, int]]) -> Counter[T]:
    """The time of each, as `(which, start, end)`, where those that run at once share it."""
    events: dict[int, list[tuple[T, int]]] = {}
    for which, start_ns, end_ns in intervals:
        events.setdefault(start_ns, []).append((which, 1))
        events.setdefault(end_ns, []).append((which, -1))
    times: dict[T, float] = {}
    running: Counter[T] = Counter()
    for before, after in itertools.pairwise(sorted(events)):
        for which, change in events[before]:
            running[which] += change
        running = +running
        for which, count in running.items():
            share = count / running.total() * (after - before)
            times[which] = times.get(which, 0.0) + share
    return Counter({which: round(time_ns) for which, time_ns in times.items()})


def by_kind(found: Sequence[Row]) -> Mapping[str, tuple[int, int]]:
    """By kind of task the predicted and the measured nanoseconds."""
    result: dict[str, tuple[int, int]] = {}
    for row in found:
        kind = row.name.kind.label if row.name else "no task"
        predicted, measured = result.get(kind, (0, 0))
        result[kind] = predicted + row.predicted_ns, measured + row.measured_ns
    return result


def render(found: Sequence[Row], most: int = 20) -> str:
    """Two tables: totals by kind of task, and the tasks that differ most.

    Args:
        found: Of `rows`.
        most: Tasks to list.
    """
    headers = ("task", "predicted µs", "measured µs", "difference")
    lines = [(kind, *_times(*times)) for kind, times in by_kind(found).items()]
    lines.append(
        ("all", *_times(sum(r.predicted_ns for r in found), sum(r.measured_ns for r in found)))
    )
    tasks = [(row.label, *_times(row.predicted_ns, row.measured_ns)) for row in found[:most]]
    return "\n\n".join(table.render(headers, some, headers[1:]) for some in (lines, tasks))


def _times(predicted_ns: int, measured_ns: int) -> tuple[str, str, str]:
    return (
        table.microseconds(predicted_ns),
        table.microseconds(measured_ns),
        f"{(predicted_ns - measured_ns) / 1e3:+,.1f}",
    )
