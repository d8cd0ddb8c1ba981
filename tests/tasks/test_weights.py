"""Which gradients are reduced together, worked out by hand."""

import pytest

from keras_soap.graph.builder import Builder
from keras_soap.tasks.all_reduce import DIRECT_BYTES
from keras_soap.tasks.lowering import Lowering
from keras_soap.tasks.weights import GradientReduction

FLOAT = 4
MOST = DIRECT_BYTES // FLOAT
"""Elements that two parts exchange directly."""


def reductions(features: int, degrees: tuple[int, int]) -> tuple[GradientReduction, ...]:
    """Of a dense layer of 8 units, split by sample and by unit."""
    builder = Builder("layer", 8)
    number = builder.dense(builder.input("x", features), 8)
    return Lowering(builder.finish()).operator(number, degrees).reductions


def test_a_small_kernel_and_its_bias_are_reduced_as_one_value():
    assert reductions(10, (2, 1)) == (
        GradientReduction((0, 1), 0, (0, 1), 10 * 8 + 8, FLOAT, False),
    )


def test_a_large_kernel_goes_alone():
    assert reductions(MOST, (2, 1)) == (
        GradientReduction((0,), 0, (0, 1), MOST * 8, FLOAT, False),
        GradientReduction((1,), 0, (0, 1), 8, FLOAT, False),
    )


@pytest.mark.parametrize(("features", "buckets"), [(MOST // 8 - 1, 1), (MOST // 8, 2)])
def test_together_they_are_no_more_than_goes_directly(features, buckets):
    assert len(reductions(features, (2, 1))) == buckets


def test_parts_that_hold_other_units_reduce_them_apart():
    # Parts by sample, then by units: 0 and 2 hold the first units, 1 and 3 the others.
    assert reductions(10, (2, 2)) == (
        GradientReduction((0, 1), 0, (0, 2), 10 * 4 + 4, FLOAT, False),
        GradientReduction((0, 1), 1, (1, 3), 10 * 4 + 4, FLOAT, False),
    )


def test_what_one_part_holds_is_not_reduced():
    assert reductions(10, (1, 4)) == ()


def test_rows_of_a_table_are_gathered_by_themselves():
    builder = Builder("words", 4)
    tokens = builder.input("tokens", 5, dtype="int32")
    number, _ = builder.embed(tokens, 12, 6)
    (found,) = Lowering(builder.finish()).operator(number, (2, 1, 1, 1)).reductions
    # Two samples of five words on each part: a row of six floats, and an int32 index.
    assert found == GradientReduction((0,), 0, (0, 1), 2 * 5, 6 * FLOAT + 4, True)
    assert found.result_bytes == 2 * (2 * 5) * (6 * FLOAT + 4)
