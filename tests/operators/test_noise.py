"""Layers that draw random numbers: each part its own, again the same, at the layer's rate."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_soap.capture.draws import Draw
from keras_soap.operators.noise import is_seed
from tests.operators.parts import run_parts, run_whole, subject

SHAPE = (8, 8, 8, 16)
NOISY = {
    "Dropout": lambda: layers.Dropout(0.3, seed=1),
    "AlphaDropout": lambda: layers.AlphaDropout(0.3, seed=1),
    "GaussianNoise": lambda: layers.GaussianNoise(0.5, seed=1),
    "GaussianDropout": lambda: layers.GaussianDropout(0.3, seed=1),
    "SpatialDropout2D": lambda: layers.SpatialDropout2D(0.3, seed=1),
}
ones = np.ones(SHAPE, "float32")


def run(subject, degrees, training=True):
    return run_parts(subject, degrees, [ones], [ones], training)


@pytest.mark.parametrize("name", NOISY)
def test_one_part_draws_what_the_layer_draws(name):
    noise = subject(NOISY[name](), [SHAPE])
    assert is_seed(noise.operator.weight_specs[0])
    expected = run_whole(noise, [ones], [ones])
    found = run(noise, (1, 1, 1, 1))
    np.testing.assert_array_equal(found.outputs[0], expected.outputs[0])
    np.testing.assert_array_equal(found.updates[0], expected.updates[0])


@pytest.mark.parametrize("name", NOISY)
def test_parts_draw_differently_but_leave_the_state_that_the_layer_leaves(name):
    noise = subject(NOISY[name](), [SHAPE])
    found = run(noise, (2, 1, 1, 2))
    (made,) = found.outputs
    quarters = [made[:4, ..., :8], made[:4, ..., 8:], made[4:, ..., :8], made[4:, ..., 8:]]
    for i, a in enumerate(quarters):
        for b in quarters[:i]:
            assert not np.array_equal(a, b)
    expected = run_whole(noise, [ones], [ones])
    np.testing.assert_array_equal(found.updates[0], expected.updates[0])
    np.testing.assert_array_equal(run(noise, (2, 1, 1, 2)).outputs[0], made)


@pytest.mark.parametrize("name", ["Dropout", "SpatialDropout2D"])
def test_the_share_dropped_and_the_gradient_are_the_rates(name):
    found = run(subject(NOISY[name](), [SHAPE]), (2, 2, 2, 2))
    (made,) = found.outputs
    tolerance = 0.02 if name == "Dropout" else 0.15
    assert abs(np.mean(made == 0) - 0.3) < tolerance
    np.testing.assert_allclose(made[made != 0], 1 / 0.7, rtol=1e-6)
    np.testing.assert_allclose(found.input_gradients[0], made, rtol=1e-6)


def test_spatial_dropout_drops_a_channel_in_all_parts_of_the_picture():
    (made,) = run(subject(NOISY["SpatialDropout2D"](), [SHAPE]), (2, 2, 2, 2)).outputs
    assert np.array_equal(made, np.broadcast_to(made[:, :1, :1], SHAPE))


def test_noise_shape_is_kept_across_parts():
    layer = layers.Dropout(0.3, noise_shape=(None, 1, 8, None), seed=1)
    (made,) = run(subject(layer, [SHAPE]), (2, 2, 2, 1)).outputs
    assert np.array_equal(made, np.broadcast_to(made[:, :1], SHAPE))
    assert not np.array_equal(made[:, :, :4], made[:, :, 4:])


@pytest.mark.parametrize("name", NOISY)
def test_in_inference_nothing_is_drawn(name):
    found = run(subject(NOISY[name](), [SHAPE]), (2, 2, 1, 2), training=False)
    np.testing.assert_array_equal(found.outputs[0], ones)
    assert not found.updates


def draw(function="uniform", **options):
    return subject(Draw(function, SHAPE, options, seed=1), [])


@pytest.mark.parametrize("name", ["uniform", "normal", "truncated_normal"])
def test_what_a_call_draws_itself_is_drawn_likewise(name):
    seeds = keras.random.SeedGenerator(1)
    seeds.state.assign(draw(name).variables[0])
    expected = getattr(keras.random, name)(SHAPE, seed=seeds)
    whole = run_parts(draw(name), (1, 1, 1, 1), [], [ones])
    np.testing.assert_array_equal(whole.outputs[0], expected)
    found = run_parts(draw(name), (2, 1, 1, 2), [], [ones])
    (made,) = found.outputs
    quarters = [made[:4, ..., :8], made[:4, ..., 8:], made[4:, ..., :8], made[4:, ..., 8:]]
    assert len({quarter.tobytes() for quarter in quarters}) == 4
    assert abs(made.mean() - np.mean(expected)) < 0.05
    assert abs(made.std() - np.std(expected)) < 0.02
    np.testing.assert_array_equal(found.updates[0], whole.updates[0])


def test_what_a_call_draws_has_the_options_that_it_asks_for():
    (made,) = run_parts(draw(minval=2, maxval=3), (4, 1, 2, 1), [], [ones]).outputs
    assert made.min() >= 2
    assert made.max() < 3
    (made,) = run_parts(draw("randint", minval=5, maxval=7), (4, 1, 2, 1), [], [ones]).outputs
    assert set(made.ravel()) == {5, 6}


def test_parts_of_an_unknown_layer_with_dropout_inside_draw_differently():
    layer = layers.LSTM(4, dropout=0.5, seed=1)
    lstm = subject(layer, [(4, 6, 8)], kind="samplewise")
    same = [np.tile(np.ones((1, 6, 8), "float32"), (4, 1, 1))]
    found = run_parts(lstm, (2,), same, [np.ones((4, 4))])
    assert not np.array_equal(found.outputs[0][:2], found.outputs[0][2:])
    expected = run_whole(lstm, same, [np.ones((4, 4))])
    for position, value in expected.updates.items():
        np.testing.assert_array_equal(found.updates[position], value)
