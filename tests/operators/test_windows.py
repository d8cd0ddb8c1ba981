"""Padding by TensorFlow's own account, and halos by hand."""

import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_soap.operators.windows import Window


def same(inputs, size, stride, dilation):
    span = (size - 1) * dilation + 1
    before = max((-(-inputs // stride) - 1) * stride + span - inputs, 0) // 2
    return Window(size, stride, dilation, before, inputs)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 4))
def test_counts_of_taps_are_what_tensorflow_sums(inputs, size, stride):
    window = same(inputs, size, stride, 1)
    ones = tf.ones((1, inputs, 1))
    summed = tf.nn.conv1d(ones, tf.ones((size, 1, 1)), stride, "SAME")[0, :, 0].numpy()
    assert window.counts(0, -(-inputs // stride)).tolist() == summed.tolist()


def test_two_halves_of_a_convolution_of_three_share_two_rows():
    #   outputs   0 1 2 3 | 4 5 6 7
    #   inputs  - 0 1 2 3 4
    #                   3 4 5 6 7 -
    window = same(8, 3, 1, 1)
    assert window.seen(np.array([[0, 4], [4, 8]])).tolist() == [[-1, 5], [3, 9]]
    assert window.padding(0, 4) == (1, 0)
    assert window.padding(4, 8) == (0, 1)
    assert window.padding(2, 4) == (0, 0)
