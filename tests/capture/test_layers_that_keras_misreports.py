"""Layers that Keras cannot serialize, or whose shapes it announces wrongly."""

import keras
import pytest
from keras import layers, ops

from keras_soap.capture.model import capture
from tests.capture.test_opening import WIDTH, kinds, of_one


class Slope:
    """An activation that Keras cannot serialize: it has no `get_config`."""

    def __call__(self, x):
        return 2.0 * x


class Tenths:
    """An initializer likewise."""

    def __call__(self, shape, dtype=None):
        return ops.full(shape, 0.1, dtype)


@pytest.mark.parametrize(
    ("layer", "made_of"),
    [
        (layers.Dense(WIDTH, activation=Slope(), name="it"), ["matmul", "add", "multiply"]),
        (
            layers.Dense(WIDTH, "softmax", kernel_initializer=Tenths(), name="it"),
            ["matmul", "add", "softmax"],
        ),
    ],
)
def test_a_layer_that_cannot_be_made_again_smaller_is_opened_up(layer, made_of):
    assert list(kinds(of_one(layer))) == [f"it/{operation}" for operation in made_of]


def test_or_else_is_split_by_sample_alone():
    layer = layers.Conv1D(WIDTH, 2, strides=2, activation=Slope(), name="it")
    found = kinds(of_one(layer))
    assert "convolution" not in found.values()
    assert found["it/conv"] == "samplewise"


def test_a_layer_whose_operations_announce_other_shapes_than_they_make_stays_closed():
    x = keras.Input((9, 9, 3))
    pooled = layers.AdaptiveMaxPooling2D((3, 2))(layers.AdaptiveAveragePooling2D((4, 2))(x))
    graph = capture(keras.Model(x, pooled), 6).graph
    shapes = [operator.output.shape for operator in graph.operators]
    assert shapes == [(6, 9, 9, 3), (6, 4, 2, 3), (6, 3, 2, 3)]
