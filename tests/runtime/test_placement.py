"""Every operation of a traced step, gradients included, is on the device of its task."""

from collections import Counter

import pytest

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


def operator_of(step: TracedStep, name: str) -> int | None:
    """Number of the operator that an operation works for, by its scope."""
    path = name.removeprefix("gradient_tape/") + "/"
    graph = step.costs.lowering.graph
    found = [
        (len(operator.name), number)
        for number, operator in enumerate(graph.operators)
        if path.startswith(f"{operator.name}/")
    ]
    return max(found)[1] if found else None


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
    scopes = ("feed", "transfer", "combine", "all_reduce", "report")
    assert all(any(scope in op.name for scope in scopes) for op in moving)


@pytest.mark.parametrize(("subject", "strategy"), CASES)
def test_operations_run_where_their_operator_does(subject, strategy):
    step = traced(subject, strategy)
    graph = step.costs.lowering.graph
    seen = Counter()
    for op in step.operations:
        number = operator_of(step, op.name)
        if number is None or "/feed" in op.name:
            continue
        kind = graph.operators[number].kind
        here, before = devices(step, number), set()
        for ref in graph.operators[number].inputs:
            before |= devices(step, ref.operator)
        device = step.device_of[op]
        if "/gradient_transfer" in op.name:
            assert device in before, op.name
        elif device not in here:
            # Cut where it was made, before it moves.
            assert device in before, op.name
            assert "Slice" in op.name, op.name
            assert "backward" not in op.name, op.name
        seen[kind, "forward" if "backward" not in op.name else "backward"] += 1
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
        if op.name.startswith("adam") and op.type == "AssignSubVariableOp"
    )
    assert +updates == +expected
