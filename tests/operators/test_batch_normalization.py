"""Moments of the whole batch, whichever way it is split."""

import numpy as np
import pytest
from keras import layers

from tests.operators.parts import run_parts, run_whole, subject

SHAPE = (8, 4, 4, 6)


def compare(bn, inputs, degrees, training=True, rtol=1e-4):
    gradients = [np.random.default_rng(2).normal(size=SHAPE).astype("float32")]
    expected = run_whole(bn, inputs, gradients, training)
    found = run_parts(bn, degrees, inputs, gradients, training)
    np.testing.assert_allclose(found.outputs[0], expected.outputs[0], rtol, atol=1e-4)
    np.testing.assert_allclose(found.input_gradients[0], expected.input_gradients[0], rtol, 1e-4)
    assert found.updates.keys() == expected.updates.keys()
    for position in expected.updates:
        np.testing.assert_allclose(found.updates[position], expected.updates[position], rtol)
    return found


def test_a_mean_far_from_zero_costs_no_digits_once_the_moving_mean_is_near():
    bn = subject(layers.BatchNormalization(momentum=0.0), [SHAPE])
    bn.variables[2].assign(np.full(6, 999.0))
    x = np.random.default_rng(0).normal(1000.0, 1.0, SHAPE).astype("float32")
    found = run_parts(bn, (2, 2, 1, 1), [x], [np.ones(SHAPE)])
    exact = x.astype("float64").reshape(-1, 6)
    np.testing.assert_allclose(found.updates[2], exact.mean(0), rtol=1e-7)
    np.testing.assert_allclose(found.updates[3], exact.var(0), rtol=1e-5)


def test_a_constant_channel_far_from_the_moving_mean_gives_numbers():
    bn = subject(layers.BatchNormalization(), [SHAPE])
    found = run_parts(bn, (4, 1, 1, 1), [np.full(SHAPE, 1234.5, "float32")], [np.ones(SHAPE)])
    assert np.isfinite(found.outputs[0]).all()
    assert np.isfinite(found.input_gradients[0]).all()


def test_channels_alone_need_no_reduction():
    bn = subject(layers.BatchNormalization(), [SHAPE])
    assert bn.block((1, 1, 1, 3)).combines == ()
    (block,) = bn.block((2, 1, 2, 3)).combines
    assert block.combine.elements.tolist() == [2 * 2] * 12
    assert block.group.tolist() == [0, 1, 2] * 4


@pytest.mark.parametrize("degrees", [(1, 1, 1, 1), (2, 1, 1, 1), (2, 2, 2, 3)])
def test_in_inference_the_moving_moments_are_used(degrees):
    bn = subject(layers.BatchNormalization(), [SHAPE])
    x = np.random.default_rng(0).normal(size=SHAPE).astype("float32")
    assert not compare(bn, [x], degrees, training=False).updates


@pytest.mark.parametrize("layer", [{"trainable": False}, {}])
def test_a_layer_frozen_or_called_in_inference_mode_stays_so_in_training(layer):
    call = {} if layer else {"training": False}
    bn = subject(layers.BatchNormalization(**layer), [SHAPE], **call)
    x = np.random.default_rng(0).normal(size=SHAPE).astype("float32")
    assert not compare(bn, [x], (2, 1, 1, 3)).updates
