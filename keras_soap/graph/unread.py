"""Operators that a step does not run, since nothing in it reads what they make.

1. A softmax at the end of a model is one in training: Keras's cross-entropies take the logits
   before it. A prediction runs it.
2. What only a branch on `training` needs is one in the other mode. An operator of kind `BY_MODE`
   says where branches meet: it reads its first input in training, its second in inference.

They stay in the graph, as operators of kind `UNREAD`, which cost nothing.
"""

import dataclasses
from collections.abc import Collection

from keras_soap.graph.operator_graph import INPUT, LOSS_KINDS, Edge, Operator, OperatorGraph

UNREAD = "unread"
"""Their kind."""
BY_MODE = "by_mode"
"""Kind of an operator that reads another input in training than in inference."""
READS = "reads"
"""Its attribute that holds the number of that input, in the graph of a step."""

_KIND = "kind_if_read"
"""Attribute that holds what they are otherwise."""


def mark_unread(
    graph: OperatorGraph, training: bool = True, outputs: Collection[int] | None = None
) -> OperatorGraph:
    """The graph of a step, with its unread operators told apart.

    Args:
        graph: Of any step.
        training: Whether the step trains.
        outputs: Numbers of operators whose outputs a prediction hands out; None for steps that
            report losses and metrics instead.
    """
    operators = [as_read(operator) for operator in graph.operators]
    skipped: set[int] = set()
    for number in reversed(range(len(operators))):
        operator = operators[number]
        if operator.kind == BY_MODE:
            read, other = (0, 1) if training else (1, 0)
            attributes = {**operator.attributes, READS: read, "constant_inputs": [other]}
            operators[number] = operator = dataclasses.replace(operator, attributes=attributes)
        edges = graph.out_edges[number]
        if operator.kind == INPUT or number in (outputs or ()):
            continue
        if edges and all(e.consumer in skipped or _is_other_mode(operators, e) for e in edges):
            skipped.add(number)
            operators[number] = _unread(operator)
            continue
        # What has weights may change them, whether anything reads what it makes or not.
        is_end = operator.kind in (*LOSS_KINDS, "metrics") or operator.weights
        if outputs is not None or is_end or operator.attributes.get("report_bytes"):
            continue
        if all(operators[edge.consumer].kind == UNREAD for edge in edges):
            operators[number] = _unread(operator)
    return dataclasses.replace(graph, operators=tuple(operators))


def _is_other_mode(operators: list[Operator], edge: Edge) -> bool:
    """Whether only the other mode reads along an edge."""
    reads = operators[edge.consumer].attributes.get(READS, edge.input)
    return operators[edge.consumer].kind == BY_MODE and reads != edge.input


def _unread(operator: Operator) -> Operator:
    attributes = {**operator.attributes, _KIND: operator.kind}
    return dataclasses.replace(operator, kind=UNREAD, attributes=attributes)


def as_read(operator: Operator) -> Operator:
    """The operator as it is where it is read."""
    attributes = dict(operator.attributes)
    kind = operator.kind
    if kind == UNREAD:
        kind = attributes.pop(_KIND)
    if kind == BY_MODE:
        attributes.pop(READS, None)
        attributes.pop("constant_inputs", None)
    return dataclasses.replace(operator, kind=kind, attributes=attributes)
