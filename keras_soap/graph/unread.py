"""Operators that run in no step of training, since nothing reads what they make.

A softmax at the end of a model is one: Keras's cross-entropies take the logits before it. It stays
in the graph, as a prediction runs it, but as an operator of kind `UNREAD`, which costs nothing.
"""

import dataclasses

from keras_soap.graph.operator_graph import LOSS_KINDS, Operator, OperatorGraph

UNREAD = "unread"
"""Their kind."""

_KIND = "kind_if_read"
"""Attribute that holds what they are otherwise."""


def mark_unread(graph: OperatorGraph) -> OperatorGraph:
    """The graph of a training step, with its unread operators told apart.

    Losses, metrics, inputs and what has weights stay as they are.
    """
    operators = list(graph.operators)
    for number in reversed(range(len(operators))):
        operator = operators[number]
        is_end = operator.kind in (*LOSS_KINDS, "metrics", "input")
        if is_end or operator.weights or operator.attributes.get("report_bytes"):
            continue
        if all(operators[edge.consumer].kind == UNREAD for edge in graph.out_edges[number]):
            attributes = {**operator.attributes, _KIND: operator.kind}
            operators[number] = dataclasses.replace(operator, kind=UNREAD, attributes=attributes)
    return dataclasses.replace(graph, operators=tuple(operators))


def as_read(operator: Operator) -> Operator:
    """The operator as it is where it is read."""
    if operator.kind != UNREAD:
        return operator
    attributes = dict(operator.attributes)
    return dataclasses.replace(operator, kind=attributes.pop(_KIND), attributes=attributes)
