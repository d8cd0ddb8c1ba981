"""A step as it really ran: operations of TensorFlow, and the tasks that they were run for.

1. An operation is of the task whose scope its name begins with; see `tasks.task_names`.
2. Operations of one task that follow each other on a thread, with no longer pause than it takes to
   find the next one, are one span of that task.
3. What a task took is the length of its spans together. Threads that help an operation (other than
   by running operations) are not seen.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from keras_soap.tasks.task_names import scope_of

PAUSE_NS = 20_000
"""Longest pause within a span: TensorFlow's executor needs some microseconds from one operation to
the next, and more where another thread takes it."""


@dataclass(frozen=True, slots=True)
class RanOperation:
    """One operation, once.

    Attributes:
        thread: Number of the thread that ran it.
        name: Of its node in the graph.
        kind: Its type, as `"MatMul"`.
        start_ns: When it began, from when the step did.
        end_ns: When it ended.
    """

    thread: int
    name: str
    kind: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Span:
    """Operations of one task that followed each other on a thread.

    Attributes:
        scope: Of the task, or `""` for operations of none.
        operations: In the order in which they began.
    """

    scope: str
    operations: tuple[RanOperation, ...]

    @property
    def thread(self) -> int:
        return self.operations[0].thread

    @property
    def start_ns(self) -> int:
        return self.operations[0].start_ns

    @property
    def end_ns(self) -> int:
        return max(operation.end_ns for operation in self.operations)


@dataclass(frozen=True)
class RanStep:
    """A step.

    Attributes:
        operations: All that ran.
        time_ns: From the call of the step to its return.
    """

    operations: Sequence[RanOperation]
    time_ns: int

    def spans(self) -> list[Span]:
        """The operations by task, by thread and time."""
        result = []
        for _, on_thread in itertools.groupby(
            sorted(self.operations, key=lambda o: (o.thread, o.start_ns, -o.end_ns)),
            key=lambda operation: operation.thread,
        ):
            result += _spans(on_thread)
        return result


def _spans(operations: Iterable[RanOperation]) -> list[Span]:
    result: list[Span] = []
    scope, found, end_ns = "", [], 0
    for operation in operations:
        own = scope_of(operation.name) or ""
        if found and (own != scope or operation.start_ns - end_ns > PAUSE_NS):
            result.append(Span(scope, tuple(found)))
            found = []
        scope = own
        found.append(operation)
        end_ns = max(end_ns, operation.end_ns)
    return [*result, Span(scope, tuple(found))] if found else result
