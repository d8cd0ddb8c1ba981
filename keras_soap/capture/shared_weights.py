"""Operators on the same weights are split alike, so that each weight has one layout."""

import numpy as np

from keras_soap.errors import CaptureError
from keras_soap.graph.operator_graph import Operator, OperatorGraph
from keras_soap.graph.region import whole
from keras_soap.operators import registry


def check_shared_weights(graph: OperatorGraph) -> None:
    """Raises `CaptureError` where operators on the same weights cannot be split alike.

    That is so for a table that is read forwards and backwards: each split of it means another
    thing to the embedding than to the projection.
    """
    for number, sharers in enumerate(graph.sharers):
        operator, first = graph.operators[number], graph.operators[sharers[0]]
        for weight in set(operator.weights) & set(first.weights):
            if _splits(operator, weight) != _splits(first, weight):
                raise CaptureError(
                    f"Operators {first.name} and {operator.name} read the weight "
                    f"{graph.weights[weight].name!r} in different ways: a split of one is none of "
                    "the other, so it cannot have one layout. Give each a weight of its own (for "
                    "a ReversibleEmbedding: tie_weights=False)."
                )


def _splits(operator: Operator, weight: int) -> list[list[int]]:
    """For each dimension of an operator the axes of a weight's view that it splits."""
    rule, position = registry.find(operator.kind), operator.weights.index(weight)
    shape = np.array(rule.weight_shapes(operator)[position])
    splits = []
    for dimension in rule.dimensions(operator):
        regions = whole(1, operator.output.shape)
        regions[0, dimension.axis] = (0, dimension.step)
        held = rule.weight_regions(operator, regions)[position]
        is_split = (held[0, :, 1] - held[0, :, 0] < shape) & (dimension.size > dimension.step)
        splits.append(np.flatnonzero(is_split).tolist())
    return splits
