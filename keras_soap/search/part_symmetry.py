"""Which renumberings of the parts of operators change nothing.

Where every part of a layer reads all that the layer before it made, it does not matter which of its
devices has which part. With the degrees of all families given, permutations of the parts of
families are a symmetry if

1. parts that they exchange compute, read, hold and reduce as much;
2. on every edge they take pairs of parts to pairs that exchange as much.

Then they take the task graph of a strategy to that of another, task by task, on the same devices.
Only tasks of one block get other numbers, so ties among these are broken otherwise. That changes
nothing as long as they share no link: where every link is on the way of one pair of devices only.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from keras_soap.graph.operator_graph import Edge
from keras_soap.search.problem import Problem
from keras_soap.search.symmetry import Permutation
from keras_soap.tasks import memory
from keras_soap.topology.device_topology import DeviceTopology

Degrees = tuple[int, ...]
MOST_PARTS = 6
"""Of operators with more only the identity is looked for."""


class PartSymmetries:
    """Symmetries of the parts of families, for all devices that these may be on.

    Devices must not share what they compute with: the bytes that copies on one device take are not
    compared.
    """

    def __init__(self, problem: Problem):
        self.problem = problem
        self.graph = problem.graph
        self.families = problem.space.families
        self.family_of = problem.space.family_of
        self._has_own_links = has_own_links(problem.topology)
        self._alike = functools.cache(self._find_alike)
        self._keeps_edge = functools.cache(self._find_keeps_edge)
        self._elements = functools.cache(self._find_elements)

    def groups(
        self, degrees: Mapping[int, Degrees], order: Sequence[int]
    ) -> list[tuple[Permutation, ...]]:
        """For each family of `order`: what symmetries do to it that leave those before as they are.

        Args:
            degrees: By family its degrees.
            order: All families whose parts have devices to choose.
        """
        found = []
        for depth, family in enumerate(order):
            before = {other: tuple(range(_num_parts(degrees[other]))) for other in order[:depth]}
            found.append(
                tuple(
                    image
                    for image in self._alike(family, degrees[family])
                    if self._fits(family, image, before, degrees)
                    and self._extends({**before, family: image}, order[depth + 1 :], degrees)
                )
            )
        return found

    def _extends(
        self,
        images: Mapping[int, Permutation],
        others: Sequence[int],
        degrees: Mapping[int, Degrees],
    ) -> bool:
        """Whether some permutations of the other families make a symmetry of `images`."""
        if not others:
            return True
        family, *rest = others
        return any(
            self._fits(family, image, images, degrees)
            and self._extends({**images, family: image}, rest, degrees)
            for image in self._alike(family, degrees[family])
        )

    def _fits(
        self,
        family: int,
        image: Permutation,
        images: Mapping[int, Permutation],
        degrees: Mapping[int, Degrees],
    ) -> bool:
        """Whether a permutation of a family keeps its edges, given those of some others."""
        images = {**images, family: image}
        for number in self.families[family]:
            for edge in (*self.graph.in_edges[number], *self.graph.out_edges[number]):
                ends = self.family_of[edge.producer.operator], self.family_of[edge.consumer]
                if all(end in images for end in ends) and not self._keeps_edge(
                    edge.index, *(degrees[end] for end in ends), *(images[end] for end in ends)
                ):
                    return False
        return True

    def _find_alike(self, family: int, degrees: Degrees) -> tuple[Permutation, ...]:
        """What satisfies the first rule, the identity first."""
        unchanged = tuple(range(_num_parts(degrees)))
        if not self._has_own_links or len(unchanged) > MOST_PARTS:
            return (unchanged,)
        facts = [self._facts(number, degrees) for number in self.families[family]]
        return tuple(
            image
            for image in itertools.permutations(unchanged)
            if all(
                (rows[list(image)] == rows).all() and all(_permutes(sets, image) for sets in groups)
                for rows, groups in facts
            )
        )

    def _facts(self, number: int, degrees: Degrees) -> tuple[np.ndarray, list[frozenset]]:
        """Of each part what it has, in rows; and sets of parts that reduce something together.

        Each of the latter is what one weight has, or one combine: none of its sets overlap.
        """
        problem, operator = self.problem, self.graph.operators[number]
        block = problem.lowering.operator(number, degrees)
        columns = [
            *(
                times
                for device in range(problem.topology.num_devices)
                for times in problem.costs.part_times_ns(number, degrees, device)
            ),
            *(weight.num_elements for weight in block.weights),
            memory.output_bytes(operator, block.outputs),
            memory.fed_bytes(self.graph, number, block.inputs),
            *(each.combine.elements for each in block.combines),
        ]
        groups = [
            frozenset(
                (r.members, r.num_elements, r.element_bytes, r.gathers)
                for r in block.reductions
                if r.weights == weights
            )
            for weights in dict.fromkeys(r.weights for r in block.reductions)
        ]
        groups += [
            frozenset((tuple(np.flatnonzero(each.group == n).tolist()),) for n in each.group)
            for each in block.combines
        ]
        rows = [np.broadcast_to(column, block.num_parts) for column in columns]
        return np.stack(rows, axis=1), groups

    def _find_keeps_edge(
        self,
        edge: int,
        producer: Degrees,
        consumer: Degrees,
        of_producer: Permutation,
        of_consumer: Permutation,
    ) -> bool:
        elements = self._elements(edge, producer, consumer)
        return bool((elements[np.ix_(of_producer, of_consumer)] == elements).all())

    def _find_elements(self, edge: int, producer: Degrees, consumer: Degrees) -> np.ndarray:
        """int64 (producer parts, consumer parts): what pairs of parts exchange."""
        read: Edge = self.graph.edges[edge]
        found = self.problem.lowering.edge(read, producer, consumer)
        elements = np.zeros((_num_parts(producer), _num_parts(consumer)), np.int64)
        elements[found.producer, found.consumer] = found.num_elements
        return elements


def _num_parts(degrees: Degrees) -> int:
    return int(np.prod(degrees))


def _permutes(sets: frozenset, image: Permutation) -> bool:
    """Whether sets of parts, which come first in what is said of each, stay among themselves."""
    moved = {(tuple(sorted(image[part] for part in parts)), *rest) for parts, *rest in sets}
    return moved == sets


def has_own_links(topology: DeviceTopology) -> bool:
    """Whether no link is on the ways of two pairs of devices (to and fro are two)."""
    links = [
        link
        for source, target in itertools.permutations(range(topology.num_devices), 2)
        for link in topology.route(source, target).links
    ]
    return len(links) == len(set(links))
