"""How the weights of an operator are spread over its parts, and how their gradients are reduced.

1. The gradient of a weight is reduced among the parts that hold the same region of it. Operators
   on the same weights are split alike, so the parts of the first of them stand for those of all.
2. A sparse gradient is gathered: its rows, and their indices.
3. *Buckets*: what is small goes directly to all others (`all_reduce.is_direct`) and costs little
   but latencies and dispatch. So gradients of one operator that are of one dtype, and are reduced
   among the same parts, are reduced as one value, as many as go directly together.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_soap.graph.operator_graph import Operator, dtype_bytes
from keras_soap.graph.region import Regions
from keras_soap.tasks.all_reduce import is_direct


@dataclass(frozen=True)
class WeightBlock:
    """How one weight of an operator is spread over its parts.

    Attributes:
        regions: int64 (parts, rank, 2). What each part holds, of the weight's view.
        group: int32 (parts,). Parts that hold the same region have the same number; numbers count
            from 0 in order of appearance.
        num_elements: int64 (parts,). Elements of each part's region.
        element_bytes: Bytes of one element.
        sparse_rows: int64 (parts,) rows of a sparse gradient, of all operators on the weight
            together, or None for a dense one.
    """

    regions: Regions
    group: np.ndarray
    num_elements: np.ndarray
    element_bytes: int
    sparse_rows: np.ndarray | None

    @functools.cached_property
    def holders(self) -> tuple[tuple[int, ...], ...]:
        """By group its parts, ascending."""
        found: list[list[int]] = []
        for part, number in enumerate(self.group.tolist()):
            if number == len(found):
                found.append([])
            found[number].append(part)
        return tuple(map(tuple, found))


@dataclass(frozen=True, slots=True)
class GradientReduction:
    """A reduction of gradients of weights, among the parts that hold the same of them.

    Attributes:
        weights: Positions among the operator's weights; several are a bucket.
        group: Number of the parts' group, as in `WeightBlock`.
        members: The parts, ascending.
        num_elements: Of what each part has: elements of the gradients, or rows to gather.
        element_bytes: Of one of them.
        gathers: Whether values are gathered, not reduced.
    """

    weights: tuple[int, ...]
    group: int
    members: tuple[int, ...]
    num_elements: int
    element_bytes: int
    gathers: bool

    @property
    def result_bytes(self) -> int:
        """Bytes of what every member has in the end, beside what it gave."""
        return self.num_elements * self.element_bytes * (len(self.members) if self.gathers else 1)


def gradient_reductions(
    operator: Operator, weights: Sequence[WeightBlock]
) -> tuple[GradientReduction, ...]:
    """All reductions of gradients, in the order of weights, then of groups.

    Args:
        operator: Whose weights.
        weights: How each of them is spread.
    """
    result = []
    for bucket in _buckets(operator, weights):
        for group, members in enumerate(weights[bucket[0]].holders):
            if len(members) > 1:
                value = _value(operator, [weights[at] for at in bucket], members[0])
                result.append(GradientReduction(tuple(bucket), group, members, *value))
    return tuple(result)


def _buckets(operator: Operator, weights: Sequence[WeightBlock]) -> list[list[int]]:
    """Positions of trainable weights; of those in one list gradients are reduced together."""
    buckets: list[list[int]] = []
    # By what a bucket has in common: the last that was begun, and its bytes.
    begun: dict[tuple[str, bytes], tuple[list[int], int]] = {}
    for at, (spec, weight) in enumerate(zip(operator.weight_specs, weights, strict=True)):
        if not spec.trainable:
            continue
        num_bytes = int(weight.num_elements.max()) * weight.element_bytes
        most = max(map(len, weight.holders))
        if weight.sparse_rows is not None or not is_direct(most, num_bytes):
            buckets.append([at])
            continue
        key = spec.dtype, weight.group.tobytes()
        bucket, together = begun.get(key, ([], 0))
        if not bucket or not is_direct(most, together + num_bytes):
            bucket, together = [], 0
            buckets.append(bucket)
        bucket.append(at)
        begun[key] = bucket, together + num_bytes
    return buckets


def _value(operator: Operator, weights: Sequence[WeightBlock], part: int) -> tuple[int, int, bool]:
    """Elements of what a part has of a bucket, bytes of one, and whether they are gathered."""
    first = weights[0]
    if first.sparse_rows is None:
        count = sum(int(weight.num_elements[part]) for weight in weights)
        return count, first.element_bytes, False
    start, stop = first.regions[part, 0].tolist()
    width = int(first.num_elements[part]) // (stop - start)
    index_bytes = dtype_bytes(operator.input_specs[0].dtype)
    return int(first.sparse_rows[part]), width * first.element_bytes + index_bytes, True
