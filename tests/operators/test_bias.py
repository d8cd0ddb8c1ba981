"""Parts of sums, where `keras.ops.add` would take what is added for a bias along another axis."""

import keras
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from keras import layers
from keras.src import ops

from keras_soap.graph.operator_graph import TensorSpec
from keras_soap.operators import bias, contractions, merging, registry
from tests.operators.cases import of, on_weight
from tests.operators.parts import attributes_of, run_parts, run_whole

SQUARE = (4, 6, 6)

SPLITS = {
    "layer, column of one sample": (of(layers.Add, SQUARE, (4, 6, 1)), (4, 1, 1)),
    "layer, as many samples as channels": (of(layers.Add, SQUARE, (4, 1, 1)), (2, 1, 3)),
    "layer, fewer axes": (of(layers.Add, (4, 6, 2), (4, 1)), (2, 1, 1)),
    "layer, column first": (of(layers.Add, (4, 6, 1), SQUARE, (4, 6, 1)), (4, 3, 3)),
    "mean": (of(layers.Average, SQUARE, (4, 6, 1)), (4, 1, 1)),
    "operation, as many rows as columns": (of(ops.numpy.Add, (4, 4, 8), (4, 1)), (1, 1, 2)),
    "operation, along the middle": (of(ops.numpy.Add, (4, 6, 6, 4), (4, 1, 6, 4)), (4, 1, 1, 4)),
    "operation, as many samples as channels": (of(ops.numpy.Add, (4, 6), (4, 1)), (2, 3)),
    "weight of two axes": (on_weight(ops.numpy.Add, (4, 6), (4, 2, 4, 6)), (1, 1, 2, 6)),
    "weight first": (on_weight(ops.numpy.Add, (12, 4), (4, 12, 4), first=True), (4, 12, 1)),
    "bias of heads": (
        of(lambda: layers.EinsumDense("abc,cde->abde", (None, 4, 6), bias_axes="de"), (4, 2, 4)),
        (1, 1, 2, 6),
    ),
    "bias along the middle": (
        of(lambda: layers.EinsumDense("abc,bd->adc", (6, None), "gelu", bias_axes="d"), (4, 3, 12)),
        (1, 1, 2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPLITS)
def test_parts_of_sums_are_what_they_are_of_the_whole(name, monkeypatch):
    build, degrees = SPLITS[name]
    subject = build()
    rng = np.random.default_rng(0)
    inputs = subject.random_inputs(rng)
    gradients = [rng.normal(size=subject.operator.output.shape).astype("float32")]
    expected = run_whole(subject, inputs, gradients)

    def agree() -> bool:
        found = run_parts(subject, degrees, inputs, gradients)
        pairs = [
            *zip(found.outputs, expected.outputs, strict=True),
            *zip(found.input_gradients, expected.input_gradients, strict=True),
            *zip(found.weight_gradients, expected.weight_gradients, strict=True),
        ]
        return all(np.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in pairs)

    assert agree()
    # Without care for it they are not: this is where it bites.
    for module in (merging, contractions):
        monkeypatch.setattr(module, "is_misread", lambda x, y: False)
    try:
        bitten = not agree()
    except Exception:
        bitten = True
    assert bitten


SIZES = st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=4).map(tuple)


@given(SIZES, SIZES)
def test_a_shape_is_misread_where_keras_does_not_broadcast(x, y):
    try:
        np.broadcast_shapes(x, y)
    except ValueError:
        assume(False)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=x), rng.normal(size=y)
    found = keras.ops.convert_to_numpy(keras.ops.add(a, b))
    broadcasts = found.shape == (a + b).shape and np.allclose(found, a + b)
    assert bias.is_misread(x, y) == (not broadcasts)


@pytest.mark.parametrize(
    ("operation", "x", "y", "refused"),
    [
        ("input", (8, 6, 6), (6, 1), True),
        ("weight", (8, 6, 6), (6, 1), True),
        ("array", (8, 6, 6), (6, 1), True),
        ("weight", (8, 6, 4), (6, 1), False),
        ("weight", (8, 5, 5, 6), (5, 1), True),
        ("input", (8, 6, 6), (8, 6, 1), False),
        ("input", (8, 8), (8, 1), False),
    ],
)
def test_what_keras_adds_elsewhere_as_a_whole_is_refused(operation, x, y, refused):
    second = {"input": ["input", 1], "weight": ["weight", 0, *y], "array": ["array", *y]}[operation]
    attributes = attributes_of(ops.numpy.Add()) | {"operands": [["input", 0], second]}
    inputs = [TensorSpec(x, "float32"), *[TensorSpec(y, "float32")] * (operation == "input")]
    reason = registry.find("sum").refuses(attributes, inputs, inputs[0])
    assert (reason is not None) == refused
