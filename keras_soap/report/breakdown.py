"""Where a prediction and a real step part: times of tasks, predicted and measured, side by side."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keras_soap.graph.operator_graph import OperatorGraph
from keras_soap.report import table
from keras_soap.report.ran_step import RanStep
from keras_soap.tasks.task_graph import TaskGraph
from keras_soap.tasks.task_names import TaskName, names


@dataclass(frozen=True, slots=True)
class Row:
    """Tasks of one name.

    Attributes:
        name: Their name; None for operations of no task, such as those that feed the next batch.
        predicted_ns: Their run times together.
        measured_ns: What they really took together.
    """

    name: TaskName | None
    predicted_ns: int
    measured_ns: int

    @property
    def label(self) -> str:
        """For people: `"conv2d/forward.0"`."""
        return self.name.scope.rstrip("/") if self.name else "no task"


def rows(graph: OperatorGraph, tasks: TaskGraph, step: RanStep) -> list[Row]:
    """All tasks by name, those that differ most first.

    Args:
        graph: The operators.
        tasks: What was predicted.
        step: What ran.
    """
    predicted: Counter[TaskName] = Counter()
    for task, name in enumerate(names(tasks, graph)):
        predicted[name] += int(tasks.run_time_ns[task])
    by_scope = {name.scope: name for name in predicted}
    measured: Counter[TaskName | None] = Counter()
    for span in step.spans():
        measured[by_scope.get(span.scope)] += span.end_ns - span.start_ns
    result = [Row(name, predicted[name], measured[name]) for name in predicted]
    result.append(Row(None, 0, measured[None]))
    return sorted(result, key=lambda row: -abs(row.predicted_ns - row.measured_ns))


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
