"""What rules leave to the fallbacks, and that names they cover exist."""

import keras
import numpy as np
import pytest
from keras import layers
from keras.src import ops

from keras_soap.capture import draws, modes
from keras_soap.graph.operator_graph import TensorSpec
from keras_soap.operators import registry
from keras_soap.operators.rule import Rule
from tests.operators.parts import attributes_of, run_parts, run_whole, subject

IMAGE = TensorSpec((4, 8, 8, 4), "float32")


def share_of_first(x):
    return x / x[:1]


REFUSED = {
    "channels first": layers.Conv2D(4, 3, data_format="channels_first"),
    "channels first, pooling": layers.MaxPooling2D(data_format="channels_first"),
    "channels first, flatten": layers.Flatten(data_format="channels_first"),
    "activation of the user's": layers.Conv2D(4, 3, activation=share_of_first),
    "activation of the user's, dense": layers.Dense(4, activation=share_of_first),
    "gated activation": layers.Activation("glu"),
    "LoRA": layers.Dense(4, lora_rank=2),
    "bias that Keras adds elsewhere": layers.EinsumDense("abcd,cx->abxd", (8, 8, 4), bias_axes="x"),
    "output padding": layers.Conv2DTranspose(4, 3, strides=2, output_padding=1),
    "dilated transposed convolution": layers.Conv2DTranspose(4, 3, dilation_rate=2),
    "batch normalization of another axis": layers.BatchNormalization(axis=1),
    "synchronized batch normalization": layers.BatchNormalization(synchronized=True),
    "renormalization": layers.BatchNormalization(renorm=True),
    "group normalization of another axis": layers.GroupNormalization(2, axis=1),
    "RMS normalization of other axes than its scale's": layers.RMSNormalization(axis=(1, 2)),
    "scale that is an array": layers.Rescaling(np.ones(4)),
    "softmax over everything": ops.nn.Softmax(axis=None),
    "average along an axis": ops.numpy.Average(axis=1),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_beyond_a_rule_is_refused_with_a_reason(name):
    layer = REFUSED[name]
    rule = registry.find(registry.kind_of_layer(type(layer).__name__))
    assert rule.refuses(attributes_of(layer), [IMAGE], IMAGE)


def test_every_name_that_a_rule_covers_is_a_layer_or_operation():
    places = [layers, ops.numpy, ops.nn, ops.math, ops.core, draws, modes]
    for kind, rule in registry.rules().items():
        for name in rule.layers:
            assert any(isinstance(getattr(place, name, None), type) for place in places), (
                f"{kind} covers {name}"
            )


@pytest.mark.parametrize("kind", registry.rules())
def test_a_rule_that_announces_combines_or_rows_also_makes_them(kind):
    rule = type(registry.find(kind))
    if rule.combines is not Rule.combines:
        assert rule.contribute is not Rule.contribute
    if rule.sparse_weights:
        assert rule.sparse_rows is not Rule.sparse_rows


def test_no_layer_has_two_rules():
    names = [name for rule in registry.rules().values() for name in rule.layers]
    assert len(names) == len(set(names))


def test_an_activation_that_is_an_elementwise_layer_is_split():
    layer = layers.Conv2D(4, 3, activation=layers.LeakyReLU(0.1))
    conv = subject(layer, [(2, 6, 6, 2)])
    assert conv.rule.refuses(conv.operator.attributes, [IMAGE], IMAGE) is None
    assert [d.name for d in conv.dimensions] == ["sample", "height", "width", "channel"]


def test_array_constants_of_an_operation_are_cut_as_its_inputs_are():
    constant = keras.ops.convert_to_tensor(np.arange(6, dtype="float32"))
    add = subject(ops.numpy.Add(), [(4, 3, 6)], x2=constant)
    x = [np.random.default_rng(0).normal(size=(4, 3, 6)).astype("float32")]
    expected = run_whole(add, x, x)
    for degrees in [(1, 1, 1), (2, 1, 3), (1, 3, 6)]:
        np.testing.assert_array_equal(run_parts(add, degrees, x, x).outputs[0], expected.outputs[0])


@pytest.mark.parametrize(
    ("make", "shape", "degrees"),
    [
        (layers.Dense, (4, 6), (2, 2)),
        (lambda n, **k: layers.Conv2D(n, 3, padding="same", **k), (2, 4, 4, 2), (1, 2, 1, 2)),
        (lambda n, **k: layers.BatchNormalization(**k), (8, 4), (2, 2)),
        (lambda n, **k: layers.LayerNormalization(**k), (4, 4, 4), (2, 2)),
        (lambda n, **k: layers.PReLU(**k), (4, 4), (2, 2)),
        (lambda n, **k: layers.AveragePooling1D(3, 1, "same", **k), (2, 4, 2), (1, 2, 1)),
    ],
)
def test_mixed_precision_is_the_layers_own(make, shape, degrees):
    mixed = subject(make(4, dtype="mixed_bfloat16"), [shape])
    assert mixed.operator.output.dtype == "bfloat16"
    x = [np.random.default_rng(0).normal(size=shape).astype("float32")]
    gradients = [np.ones(mixed.operator.output.shape, "float32")]
    expected = run_whole(mixed, x, gradients)
    found = run_parts(mixed, degrees, x, gradients)
    np.testing.assert_allclose(
        found.outputs[0], expected.outputs[0].astype("float64"), rtol=2e-2, atol=2e-2
    )
    for a, b in zip(found.weight_gradients, expected.weight_gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=3e-2, atol=3e-2)
