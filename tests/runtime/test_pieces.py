"""Regions of tensors, put together, against numpy."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_soap.runtime.pieces import accumulate, assemble, cut


def random_region(rng, whole):
    region = []
    for first, last in whole:
        start, stop = sorted(rng.choice(np.arange(first, last + 1), 2, replace=False).tolist())
        region.append((start, stop))
    return tuple(region)


def at(region, whole):
    return tuple(
        slice(start - first, stop - first)
        for (start, stop), (first, _) in zip(region, whole, strict=True)
    )


@pytest.mark.parametrize("seed", range(60))
def test_pieces_that_overlap_or_leave_gaps_add_up(seed):
    rng = np.random.default_rng(seed)
    firsts = rng.integers(0, 4, rng.integers(1, 4)).tolist()
    whole = tuple((first, first + int(rng.integers(1, 6))) for first in firsts)
    expected = np.zeros([stop - start for start, stop in whole])
    pieces = []
    for _ in range(rng.integers(1, 5)):
        region = whole if rng.random() < 0.2 else random_region(rng, whole)
        # Small whole numbers: sums are exact in any order.
        value = rng.integers(-9, 9, [stop - start for start, stop in region]).astype("float64")
        pieces.append((region, tf.constant(value)))
        expected[at(region, whole)] += value
    np.testing.assert_array_equal(accumulate(pieces, whole), expected)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_cut_as_a_grid_is_assembled_again(seed):
    rng = np.random.default_rng(seed)
    value = tf.constant(rng.normal(size=(4, 6, 2)))
    whole = ((0, 4), (0, 6), (0, 2))
    rows, columns = sorted({0, int(rng.integers(1, 4)), 4}), sorted({0, int(rng.integers(1, 6)), 6})
    cells = [
        ((a, b), (c, d), (0, 2))
        for a, b in itertools.pairwise(rows)
        for c, d in itertools.pairwise(columns)
    ]
    pieces = [(cell, cut(value, whole, cell)) for cell in cells]
    np.testing.assert_array_equal(assemble([pieces[i] for i in rng.permutation(len(cells))]), value)


def test_halos_are_added_where_they_overlap_alone():
    """Two halves that share two rows: nothing but these rows is added."""
    halves = [((0, 5), (0, 3)), ((3, 8), (0, 3))]

    @tf.function
    def add_up(first, second):
        return accumulate([(halves[0], first), (halves[1], second)], ((0, 8), (0, 3)))

    graph = add_up.get_concrete_function(*[tf.TensorSpec((5, 3))] * 2).graph
    kinds = [operation.type for operation in graph.get_operations()]
    assert "Pad" not in kinds
    added = [o.outputs[0].shape.as_list() for o in graph.get_operations() if o.type == "AddN"]
    assert added == [[2, 3]]
