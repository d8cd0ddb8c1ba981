"""Names of tasks, by which what really ran in a step is told apart.

The runtime opens a scope of this name around whatever a task runs, so TensorFlow's profiler gives
it back. Several tasks have one name where the runtime cannot tell them apart:

1. The two backward tasks of a part, since one call differentiates for inputs and weights.
2. All transfers into a part, or back from it; all reductions of an operator.
3. All updates on a device; all that has to do with the report.
"""

import re
from dataclasses import dataclass

from keras_soap.graph.operator_graph import OperatorGraph
from keras_soap.tasks.task_graph import TaskGraph, TaskKind

_NAMED_AS = {TaskKind.WEIGHT_GRADIENT: TaskKind.BACKWARD, TaskKind.REPORT_TRANSFER: TaskKind.REPORT}
_OF_NO_OPERATOR = (TaskKind.UPDATE, TaskKind.REPORT)
_OF_ALL_PARTS = (
    TaskKind.COMBINE,
    TaskKind.GRADIENT_COMBINE,
    TaskKind.ALL_REDUCE,
    TaskKind.REPORT,
)


@dataclass(frozen=True, slots=True)
class TaskName:
    """Name of one or several tasks.

    Attributes:
        kind: Of the tasks; `BACKWARD` for both kinds of backward tasks.
        operator: Name of the operator; `""` for updates and the report.
        part: Of the operator; the device's number for updates; 0 for reductions and the report.
    """

    kind: TaskKind
    operator: str = ""
    part: int = 0

    @property
    def scope(self) -> str:
        """As a scope of TensorFlow, to be opened again and again: `"conv2d/forward.0/"`."""
        # A dot is what tells the last component from those of the operator's own name.
        own = f"{self.kind.name.lower()}.{self.part}"
        name = re.sub(r"[^A-Za-z0-9/_-]", "_", self.operator).lstrip("/_-")
        return f"{name}/{own}/" if name else f"{own}/"


def names(tasks: TaskGraph, graph: OperatorGraph) -> list[TaskName]:
    """By task its name."""
    result = []
    for task in range(tasks.num_tasks):
        kind = TaskKind(int(tasks.kind[task]))
        kind = _NAMED_AS.get(kind, kind)
        number = -1 if kind in _OF_NO_OPERATOR else int(tasks.operator[task])
        operator = graph.operators[number].name if number >= 0 else ""
        part = 0 if kind in _OF_ALL_PARTS else int(tasks.part[task])
        result.append(TaskName(kind, operator, part))
    return result


_SCOPE = re.compile(r"(?:gradient_tape/)?((?:[^.]*/)?([a-z_]+)\.\d+/)")


def scope_of(operation: str) -> str | None:
    """The `TaskName.scope` in which an operation of TensorFlow ran, by its name.

    Gradients are named after the operation that they are of, so those of a forward task are of the
    backward task.
    """
    found = _SCOPE.match(operation)
    if found is None:
        return None
    scope, kind = found.groups()
    if operation.startswith("gradient_tape/") and kind == "forward":
        return "backward.".join(scope.rsplit("forward.", 1))
    return scope
