"""Operator graphs as inference runs them."""

import dataclasses

from keras_soap.graph.operator_graph import LOSS_KINDS, OperatorGraph, TensorRef
from keras_soap.graph.unread import as_read


def forward_part(graph: OperatorGraph) -> OperatorGraph:
    """A graph without its losses, and without inputs that only they read, such as targets."""
    kept = [
        number
        for number, operator in enumerate(graph.operators)
        if operator.kind not in LOSS_KINDS
        and not (
            operator.kind == "input"
            and graph.out_edges[number]
            and all(
                graph.operators[edge.consumer].kind in LOSS_KINDS
                for edge in graph.out_edges[number]
            )
        )
    ]
    if len(kept) == len(graph.operators):
        return graph
    renumbered = {number: position for position, number in enumerate(kept)}
    operators = tuple(
        dataclasses.replace(
            as_read(graph.operators[number]),
            inputs=tuple(
                TensorRef(renumbered[ref.operator], ref.output)
                for ref in graph.operators[number].inputs
            ),
        )
        for number in kept
    )
    return dataclasses.replace(graph, operators=operators)
