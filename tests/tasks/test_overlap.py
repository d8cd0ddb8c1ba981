"""The closed form against looking at every pair of parts."""

import itertools
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from keras_soap.operators.rule import NOT_AN_AXIS
from keras_soap.tasks import overlap


def brute_force(shape, axes, degrees, regions):
    """For all pairs that share elements, and whose copy it is: their region."""
    found = {}
    of_copies = [d for d, axis in enumerate(axes) if axis == NOT_AN_AXIS]
    num_copies = math.prod(degrees[d] for d in of_copies)
    for consumer, read in enumerate(regions.tolist()):
        cells = itertools.product(*(range(degree) for degree in degrees))
        for producer, cell in enumerate(cells):
            made = [[0, size] for size in shape]
            copy = 0
            for dimension, (axis, degree) in enumerate(zip(axes, degrees, strict=True)):
                if axis == NOT_AN_AXIS:
                    copy = copy * degree + cell[dimension]
                else:
                    size = shape[axis] // degree
                    made[axis] = [cell[dimension] * size, (cell[dimension] + 1) * size]
            both = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(made, read, strict=True)]
            shares = all(start < stop for start, stop in both)
            if shares and copy == consumer * num_copies // len(regions):
                found[consumer, producer] = both
    return found


@st.composite
def edges(draw, any_order=True):
    """A tensor, a producer's grid over it, and what a consumer's parts read: any boxes."""
    rank = draw(st.integers(0, 3))
    degrees, shape = [], []
    for _ in range(rank):
        degrees.append(draw(st.integers(1, 4)))
        shape.append(degrees[-1] * draw(st.integers(1, 3)))
    axes = list(range(rank))
    for _ in range(draw(st.integers(0, 2))):
        position = draw(st.integers(0, len(axes)))
        axes.insert(position, NOT_AN_AXIS)
        degrees.insert(position, draw(st.integers(1, 3)))
    if any_order:
        order = draw(st.permutations(range(len(axes))))
        axes, degrees = [axes[i] for i in order], [degrees[i] for i in order]
    num_consumers = draw(st.integers(1, 6))
    regions = np.zeros((num_consumers, rank, 2), np.int64)
    for part, axis in itertools.product(range(num_consumers), range(rank)):
        ends = draw(st.tuples(*[st.integers(0, shape[axis])] * 2))
        regions[part, axis] = sorted(ends)
    return tuple(shape), tuple(axes), tuple(degrees), regions


def as_dict(found: overlap.Overlaps):
    pairs = zip(found.consumer.tolist(), found.producer.tolist(), strict=True)
    result = dict(zip(pairs, found.regions.tolist(), strict=True))
    assert len(result) == len(found.producer), "a pair twice"
    return {pair: [tuple(axis) for axis in region] for pair, region in result.items()}


@given(edges())
def test_closed_form_equals_brute_force(edge):
    found = overlap.find(*edge)
    assert overlap.count(*edge) == len(found.producer)
    expected = brute_force(*edge)
    assert as_dict(found) == expected
    sizes = [math.prod(stop - start for start, stop in box) for box in as_dict(found).values()]
    assert found.num_elements.tolist() == sizes


@given(edges(any_order=False))
def test_pairs_come_by_consumer_then_by_producer(edge):
    found = overlap.find(*edge)
    pairs = list(zip(found.consumer.tolist(), found.producer.tolist(), strict=True))
    assert pairs == sorted(pairs)


@given(edges())
def test_every_element_that_is_read_comes_once(edge):
    shape, _, _, regions = edge
    found = overlap.find(*edge)
    for consumer, read in enumerate(regions.tolist()):
        times = np.zeros(shape, np.int64)
        for region in found.regions[found.consumer == consumer].tolist():
            times[tuple(slice(*axis) for axis in region)] += 1
        inside = np.zeros(shape, np.int64)
        inside[tuple(slice(*axis) for axis in read)] = 1
        np.testing.assert_array_equal(times, inside)


def test_a_halo_reaches_into_the_neighbours():
    #   makes:  |0 1|2 3|4 5|      reads:  0 . . 2 | 1 . . . 5 | 3 . . 6
    regions = np.array([[[0, 3]], [[1, 5]], [[3, 6]]])
    found = overlap.find((6,), (0,), (3,), regions)
    assert found.consumer.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert found.producer.tolist() == [0, 1, 0, 1, 2, 1, 2]
    assert found.num_elements.tolist() == [2, 1, 1, 2, 1, 1, 2]


def test_copies_are_shared_out_in_order():
    # Two rows by two copies; four consumers read the whole: the first two of one copy.
    regions = np.tile(np.array([[0, 4]]), (4, 1, 1))
    found = overlap.find((4,), (0, NOT_AN_AXIS), (2, 2), regions)
    assert found.producer.tolist() == [0, 2, 0, 2, 1, 3, 1, 3]


def test_like_parts_find_the_copy_of_their_own_number():
    regions = np.array([[[0, 2]], [[2, 4]], [[0, 2]], [[2, 4]]])
    found = overlap.find((4,), (NOT_AN_AXIS, 0), (2, 2), regions)
    assert found.producer.tolist() == found.consumer.tolist() == [0, 1, 2, 3]


def test_what_moves_whole_is_not_copied():
    # Two parts of the rows, read by two parts alike, and the same in one part.
    halves = np.array([[[0, 2], [0, 3]], [[2, 4], [0, 3]]])
    whole = np.array([[[0, 4], [0, 3]]])
    assert overlap.find((4, 3), (0, 1), (2, 1), halves).copied.tolist() == [[0, 0], [0, 0]]
    assert overlap.find((4, 3), (0, 1), (1, 1), whole).copied.tolist() == [[0], [0]]


def test_rows_are_cut_as_views_and_joined_by_copying():
    #   makes: |0 1 2 3|     reads: |0 1|2 3|     and the other way round
    halves = np.array([[[0, 2], [0, 3]], [[2, 4], [0, 3]]])
    whole = np.array([[[0, 4], [0, 3]]])
    assert overlap.find((4, 3), (0, 1), (1, 1), halves).copied.tolist() == [[0, 0], [1, 1]]
    assert overlap.find((4, 3), (0, 1), (2, 1), whole).copied.tolist() == [[1, 1], [0, 0]]


def test_columns_are_cut_and_joined_by_copying():
    # Rows to columns: each of the four pieces is cut by columns and joined by rows, or back.
    columns = np.array([[[0, 4], [0, 1]], [[0, 4], [1, 2]]])
    found = overlap.find((4, 2), (0, 1), (2, 1), columns)
    assert found.copied.tolist() == [[2, 2, 2, 2], [1, 1, 1, 1]]


def test_a_part_that_reads_nothing_has_no_pairs():
    found = overlap.find((4,), (0,), (2,), np.array([[[2, 2]], [[0, 4]]]))
    assert found.consumer.tolist() == [1, 1]


@given(edges(), st.integers(0, 2))
def test_adding_up_reads_all_gradients_and_writes_their_sum(edge, before):
    found = overlap.find(*edge, before)
    size = math.prod(edge[0]) // math.prod(
        degree for axis, degree in zip(edge[1], edge[2], strict=True) if axis != NOT_AN_AXIS
    )
    for part in set(found.producer.tolist()):
        mine = found.producer == part
        times = before + found.num_elements[mine].sum() / size
        # Of whole gradients: none for one; a sum of k reads k and writes one, a copy is half of it.
        expected = max(0, 3 * min(times - 1, 1) + max(times - 2, 0)) - 3 * (before == 2)
        assert found.added[mine].sum() == round(expected * size)
        assert (found.added[mine] >= 0).all()


def test_only_gradients_of_what_is_read_twice_are_added():
    whole, halves = [[0, 4], [0, 3]], [[[0, 2], [0, 3]], [[2, 4], [0, 3]]]
    # Three that read the whole; two that read a half each; the same after another consumer.
    added = [
        overlap.find((4, 3), (0, 1), (1, 1), np.array(regions), before).added.tolist()
        for regions, before in (([whole] * 3, 0), (halves, 0), (halves, 1), (halves, 2))
    ]
    assert added == [[0, 36, 12], [0, 0], [18, 18], [6, 6]]
    # Each half is read by two.
    found = overlap.find((4, 3), (0, 1), (2, 1), np.array([halves[0], halves[1]] * 2))
    assert found.added.tolist() == [0, 0, 18, 18]
