"""Operator graphs as inference runs them."""

import dataclasses
from collections.abc import Sequence

from keras_soap.graph.operator_graph import LOSS_KINDS, OperatorGraph, TensorRef
from keras_soap.graph.unread import BY_MODE, as_read, mark_unread


def forward_part(graph: OperatorGraph) -> OperatorGraph:
    """A graph without its losses, and without inputs that only they read, such as targets.

    What only training needs, as after a branch on `training`, is unread.
    """
    readers: dict[int, list[str]] = {}
    for feed in graph.feeds:
        readers.setdefault(feed.producer.operator, []).append(graph.operators[feed.consumer].kind)
    kept = [
        number
        for number, operator in enumerate(graph.operators)
        if operator.kind not in LOSS_KINDS
        and not (number in readers and all(kind in LOSS_KINDS for kind in readers[number]))
    ]
    if len(kept) < len(graph.operators):
        graph = _with_operators(graph, kept)
    if all(operator.kind != BY_MODE for operator in graph.operators):
        return graph
    ends = [number for number, edges in enumerate(graph.out_edges) if not edges]
    return mark_unread(graph, training=False, outputs=ends)


def _with_operators(graph: OperatorGraph, kept: Sequence[int]) -> OperatorGraph:
    """The graph with those operators alone, as they are where they are read."""
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
