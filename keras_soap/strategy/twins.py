"""Which families are alike: the same operators, with the same operators around them.

Models are made of blocks that are repeated. What is best for a layer in one of them mostly is for
its twins in the others, too, and while blocks differ, data moves between them; so a search gains by
changing twins together, see `proposals`.
"""

from collections.abc import Hashable, Mapping, Sequence

from keras_soap.graph.operator_graph import OperatorGraph

RADIUS = 2
"""How many operators away two families must still look the same."""


def twins(
    graph: OperatorGraph,
    families: Sequence[Sequence[int]],
    by_parts: Sequence[Mapping[int, Sequence[tuple[int, ...]]]],
) -> tuple[int, ...]:
    """A number for each family, the same for families that are alike.

    Alike are families whose operators are of the same kinds, make tensors and have weights of the
    same shapes, and allow the same degrees, if the same holds for what is up to `RADIUS` edges away
    (by colour refinement, so as far as the counts of neighbours tell).

    Args:
        graph: The operators.
        families: Operators that change together, by family.
        by_parts: Degrees that they allow, by family and number of parts.
    """
    family_of = {number: family for family, members in enumerate(families) for number in members}
    colours = _numbered(
        [
            (tuple(_looks(graph, number) for number in members), tuple(allowed.items()))
            for members, allowed in zip(families, by_parts, strict=True)
        ]
    )
    for _ in range(RADIUS):
        around: list[list[tuple[int, str, int, int]]] = [[] for _ in families]
        for edges in graph.in_edges:
            for edge in edges:
                producer, consumer = edge.producer.operator, edge.consumer
                source, target = family_of[producer], family_of[consumer]
                around[source].append(
                    (families[source].index(producer), "to", edge.input, colours[target])
                )
                around[target].append(
                    (families[target].index(consumer), "from", edge.input, colours[source])
                )
        colours = _numbered(
            [(own, tuple(sorted(near))) for own, near in zip(colours, around, strict=True)]
        )
    return tuple(colours)


def _looks(graph: OperatorGraph, number: int) -> Hashable:
    operator = graph.operators[number]
    weights = tuple((spec.shape, spec.dtype, spec.trainable) for spec in operator.weight_specs)
    return operator.kind, operator.output_specs, weights


def _numbered(keys: Sequence[Hashable]) -> list[int]:
    """Equal numbers for equal keys, in order of the first."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]
