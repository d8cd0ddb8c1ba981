"""Every operation of a traced step, gradients included, is on the device of its task."""

import functools
from collections import Counter

import pytest

from keras_soap.runtime.exchange import FEED
from keras_soap.tasks.build import build
from keras_soap.tasks.task_graph import TaskKind
from keras_soap.tasks.task_names import TaskName, names, scope_of
from tests.runtime.traced import TracedStep, traced

STRATEGIES = ["S", "A, height", "A and P", "O", "O, overlapping", "anything 1", "anything 2"]
OTHERS = [("texts", "S and P"), ("pairs", "O, overlapping"), ("family", "anything 1")]
CASES = [("images", strategy) for strategy in STRATEGIES] + OTHERS

FORWARD_KERNELS = {"convolution": "Conv2D", "dense": "MatMul", "max_pooling": "MaxPool"}
BACKWARD_KERNELS = {
    "convolution": {"Conv2DBackpropFilter": 1, "Conv2DBackpropInput": 1},
    "dense": {"MatMul": 2},
    "max_pooling": {"MaxPoolGrad": 1},
}

UPDATES = {"AssignSubVariableOp", "ResourceScatterSub"}
"""How a weight changes, by a gradient of all of it or of some rows."""


@functools.cache
def by_scope(step: TracedStep) -> dict[str, TaskName]:
    tasks = build(step.costs, step.strategy)
    return {name.scope: name for name in names(tasks, step.costs.lowering.graph)}


def task_of(step: TracedStep, operation: str) -> TaskName | None:
    """Name of the task that an operation works for, by its scope."""
    scope = scope_of(operation)
    return None if scope is None else by_scope(step).get(scope)


def operator_of(step: TracedStep, operation: str) -> int | None:
    """Number of the operator whose part an operation computes, or moves tensors for."""
    task = task_of(step, operation)
    operators = step.costs.lowering.graph.operators
    if task is None or not task.operator or task.kind == TaskKind.ALL_REDUCE:
        return None
    return next(n for n, operator in enumerate(operators) if operator.name == task.operator)


def devices(step: TracedStep, number: int) -> set[int]:
    return set(step.strategy.configs[number].devices)


@pytest.mark.parametrize(("subject", "strategy"), CASES)
def test_only_what_belongs_nowhere_has_no_device(subject, strategy):
    step = traced(subject, strategy)
    homeless = [op for op in step.operations if step.device_of[op] == -1]
    # What is fed, the results that are handed out, and the order between them.
    assert {op.type for op in homeless} == {"Placeholder", "Identity", "NoOp"}
    assert all(op.type != "Placeholder" or op.name.startswith("pieces") for op in homeless)
    assert all(op.type != "Identity" or op.name.startswith("Identity") for op in homeless)
    nested = {"PartitionedCall", "StatefulPartitionedCall", "While", "StatelessWhile", "If"}
    assert not nested & {op.type for op in step.operations}


@pytest.mark.parametrize(("subject", "strategy"), CASES)
def test_tensors_change_devices_in_transfers_only(subject, strategy):
    step = traced(subject, strategy)
    moving = {
        op
        for op in step.operations
        for tensor in op.inputs
        if len({step.device_of[op], step.device_of[tensor.op]} - {-1}) == 2
    }
    assert all(op.type == "Identity" for op in moving)
    for op in moving:
        task = task_of(step, op.name)
        assert op.name.startswith(FEED) or (
            task and (task.kind.is_communication or task.kind == TaskKind.REPORT)
        ), op.name


@pytest.mark.parametrize(("subject", "strategy"), CASES)
def test_operations_run_where_their_operator_does(subject, strategy):
    step = traced(subject, strategy)
    graph = step.costs.lowering.graph
    seen = Counter()
    for op in step.operations:
        number = operator_of(step, op.name)
        if number is None:
            continue
        task = task_of(step, op.name)
        backward = task.kind in (TaskKind.BACKWARD, TaskKind.GRADIENT_COMBINE)
        kind = graph.operators[number].kind
        here, before = devices(step, number), set()
        for ref in graph.operators[number].inputs:
            before |= devices(step, ref.operator)
        device = step.device_of[op]
        if task.kind == TaskKind.GRADIENT_TRANSFER:
            # Cut where it was made, before it moves.
            assert device in here | before, op.name
        elif device not in here:
            # Cut where it was made, before it moves.
            assert device in before, op.name
            assert "Slice" in op.name, op.name
            assert task.kind == TaskKind.TRANSFER, op.name
        elif task.kind in (TaskKind.FORWARD, TaskKind.BACKWARD):
            assert step.strategy.configs[number].devices[task.part] == device, op.name
        seen[kind, "backward" if backward else "forward"] += 1
    for operator in graph.operators:
        if operator.kind != "input":
            assert seen[operator.kind, "forward"] > 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_part_has_its_kernels_on_its_device_forwards_and_backwards(strategy):
    step = traced("images", strategy)
    graph = step.costs.lowering.graph
    forward: dict[int, Counter] = {}
    backward: dict[int, Counter] = {}
    for op in step.operations:
        number = operator_of(step, op.name)
        if number is not None:
            table = backward if op.name.startswith("gradient_tape/") else forward
            table.setdefault(number, Counter())[op.type, step.device_of[op]] += 1
    for number, operator in enumerate(graph.operators):
        if operator.kind not in FORWARD_KERNELS:
            continue
        for device in range(4):
            parts = int(device in devices(step, number))
            kernel = FORWARD_KERNELS[operator.kind]
            assert forward[number][kernel, device] == parts, operator.name
            for kernel, count in BACKWARD_KERNELS[operator.kind].items():
                if kernel == "Conv2DBackpropInput" and operator.name == "first":
                    continue  # Nothing reads the gradient of an image, so it is never run.
                assert backward[number][kernel, device] == count * parts, operator.name
    assert {operator.kind for operator in graph.operators} > set(FORWARD_KERNELS)


@pytest.mark.parametrize(("subject", "strategy"), CASES)
def test_each_shard_is_updated_on_its_device(subject, strategy):
    step = traced(subject, strategy)
    graph = step.costs.lowering.graph
    expected: Counter[int] = Counter()
    for number, operator in enumerate(graph.operators):
        if graph.sharers[number][0] == number:
            trained = sum(spec.trainable for spec in operator.weight_specs)
            expected.update(dict.fromkeys(devices(step, number), trained))
    updates = Counter(
        step.device_of[op]
        for op in step.operations
        if task_of(step, op.name) == TaskName(TaskKind.UPDATE, part=step.device_of[op])
        and op.type in UPDATES
    )
    assert +updates == +expected
