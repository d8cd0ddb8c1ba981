"""Operator graphs of Keras models: which operators there are, of which kinds, how joined."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_soap.capture.model import capture
from keras_soap.capture.trials import treats_samples_alone
from keras_soap.errors import CaptureError
from keras_soap.graph.operator_graph import TensorSpec
from keras_soap.operators import registry


def edges(graph) -> list[tuple[str, str]]:
    """Who reads whom, inputs of the model included."""
    return [
        (graph.operators[ref.operator].name, operator.name)
        for operator in graph.operators
        for ref in operator.inputs
    ]


def kinds(graph) -> dict[str, str]:
    return {operator.name: operator.kind for operator in graph.operators}


def residual() -> keras.Model:
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="conv")(image)
    y = layers.BatchNormalization(name="norm")(x)
    y = layers.ReLU(name="relu")(y)
    x = layers.Add(name="sum")([x, y])
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(image, layers.Dense(5, name="dense")(x), name="residual")


def test_functional_models_are_read_call_by_call():
    captured = capture(residual(), 6)
    graph = captured.graph
    assert graph.name == "residual"
    assert graph.batch_size == 6
    assert kinds(graph) == {
        "image": "input",
        "conv": "convolution",
        "norm": "batch_normalization",
        "relu": "elementwise",
        "sum": "sum",
        "mean": "global_pooling",
        "dense": "dense",
    }
    assert edges(graph) == [
        ("image", "conv"),
        ("conv", "norm"),
        ("norm", "relu"),
        ("conv", "sum"),
        ("relu", "sum"),
        ("sum", "mean"),
        ("mean", "dense"),
    ]
    assert graph.operators[1].output == TensorSpec((6, 8, 8, 4), "float32")
    assert graph.operators[-1].input_specs == (TensorSpec((6, 4), "float32"),)
    assert captured.inputs == (0,)


def test_weights_come_trainable_first_with_their_paths():
    graph = capture(residual(), 6).graph
    norm = graph.operators[graph.index("norm")]
    assert [spec.name for spec in norm.weight_specs] == [
        "norm/gamma",
        "norm/beta",
        "norm/moving_mean",
        "norm/moving_variance",
    ]
    assert [spec.trainable for spec in norm.weight_specs] == [True, True, False, False]
    assert graph.weights[norm.weights[0]] == norm.weight_specs[0]
    assert norm.layer == "norm"


def test_frozen_layers_train_nothing_and_send_no_gradient_back():
    model = residual()
    model.get_layer("conv").trainable = False
    graph = capture(model, 6).graph
    conv = graph.index("conv")
    assert not any(spec.trainable for spec in graph.operators[conv].weight_specs)
    assert graph.operators[conv].attributes["trainable"] is False
    back = {
        (graph.operators[edge.producer.operator].name, graph.operators[edge.consumer].name)
        for edge in graph.edges
        if graph.carries_gradient[edge.index]
    }
    assert ("conv", "norm") not in back
    assert ("relu", "sum") in back


def test_attributes_are_what_rules_need_of_the_config():
    graph = capture(residual(), 6).graph
    attributes = graph.operators[graph.index("conv")].attributes
    assert attributes["padding"] == "same"
    assert attributes["kernel_size"] == [3, 3]
    assert attributes["filters"] == 4
    assert not {"name", "dtype", "kernel_initializer"} & set(attributes)


def test_sequential_models():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, "relu"), layers.Dense(2)])
    graph = capture(model, 2).graph
    assert edges(graph) == [("input", "dense"), ("dense", "dense_1")]
    # An activation that mixes nothing stays in its layer.
    assert graph.operators[1].attributes["activation"] == "relu"


def test_automatic_names_do_not_depend_on_what_was_built_before():
    def build():
        x = keras.Input((4,))
        return keras.Model(x, layers.Dense(2)(layers.Dense(3)(x)), name="same")

    first, second = (capture(build(), 2).graph for _ in range(2))
    assert [operator.name for operator in first.operators] == ["input", "dense", "dense_1"]
    assert first.fingerprint == second.fingerprint


def test_another_batch_size_is_another_graph():
    model = residual()
    assert capture(model, 4).graph.fingerprint != capture(model, 8).graph.fingerprint


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_softmax_or_sigmoid_that_a_layer_ends_with_is_an_operator_of_its_own(activation):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation, name="class")])
    captured = capture(model, 2)
    graph = captured.graph
    assert kinds(graph) == {
        "input": "input",
        "class": "dense",
        f"class/{activation}": "activation",
    }
    assert graph.operators[1].attributes["activation"] == "linear"
    assert graph.operators[2].weights == ()
    assert [ref.operator for refs in captured.outputs for ref in _flat(refs)] == [2]


def _flat(refs):
    return refs if isinstance(refs, tuple) else (refs,)


def test_a_softmax_inside_a_convolution_is_split_off_too():
    model = keras.Sequential([keras.Input((4, 4, 2)), layers.Conv2D(3, 1, activation="softmax")])
    assert list(kinds(capture(model, 2).graph).values()) == ["input", "convolution", "activation"]


def test_each_call_of_a_shared_layer_is_an_operator_on_the_same_weights():
    one, other = keras.Input((4,), name="one"), keras.Input((4,), name="other")
    tower = layers.Dense(3, name="tower")
    model = keras.Model([one, other], layers.Subtract(name="gap")([tower(one), tower(other)]))
    graph = capture(model, 2).graph
    calls = [n for n, operator in enumerate(graph.operators) if operator.layer == "tower"]
    assert [graph.operators[n].name for n in calls] == ["tower", "tower_1"]
    assert graph.operators[calls[0]].weights == graph.operators[calls[1]].weights
    assert graph.sharers[calls[0]] == tuple(calls)
    assert len(graph.weights) == 2
    assert edges(graph)[-2:] == [("tower", "gap"), ("tower_1", "gap")]


def test_nested_models_are_opened_up():
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, name="a"), layers.Dense(4, name="b")], name="inner"
    )
    x = keras.Input((4,), name="x")
    graph = capture(keras.Model(x, inner(inner(x))), 2).graph
    assert edges(graph) == [
        ("x", "inner/a"),
        ("inner/a", "inner/b"),
        ("inner/b", "inner/a_1"),
        ("inner/a_1", "inner/b_1"),
    ]
    assert len(graph.weights) == 4


def test_the_mode_that_a_graph_is_run_in_replaces_what_its_calls_say():
    # As Keras runs it. It records False for a Dropout that nothing is said of.
    inner = keras.Sequential([keras.Input((4,)), layers.Dropout(0.5, name="d")], name="inner")
    x = keras.Input((4,))
    y = layers.Dropout(0.5, name="plain")(inner(x, training=False))
    graph = capture(keras.Model(x, y), 2).graph
    assert all("training" not in operator.attributes for operator in graph.operators)


def test_several_inputs_and_outputs_keep_their_structure():
    left, right = keras.Input((4,), name="left"), keras.Input((2,), name="right", dtype="int32")
    x = layers.Dense(3, name="up")(left)
    y = layers.Embedding(5, 3, name="table")(right)
    model = keras.Model({"l": left, "r": right}, {"b": y, "a": x})
    captured = capture(model, 2)
    names = [operator.name for operator in captured.graph.operators]
    assert [names[number] for number in captured.inputs] == ["left", "right"]
    assert captured.graph.operators[captured.inputs[1]].output.dtype == "int32"
    by_key = {
        key: names[_flat(captured.outputs[position])[0].operator]
        for key, position in captured.output_structure.items()
    }
    assert by_key == {"a": "up", "b": "table"}


def test_calls_that_lead_nowhere_are_left_out():
    x = keras.Input((4,))
    y = layers.Dense(3, name="used")(x)
    layers.Dense(7, name="unused")(y)
    assert "unused" not in kinds(capture(keras.Model(x, y), 2).graph)


def test_operations_are_captured_like_layers():
    x = keras.Input((4, 6))
    graph = capture(keras.Model(x, keras.ops.reshape(x * 2.0, (-1, 3, 8))), 2).graph
    assert graph.operators[1].inputs[0].operator == 0
    assert graph.operators[2].output.shape == (2, 3, 8)
    assert all(operator.weights == () for operator in graph.operators)


@keras.saving.register_keras_serializable()
class Counted(layers.Layer):
    """A layer of the user's own that counts its calls."""

    def build(self, shape):
        self.count = self.add_weight(shape=(), trainable=False, name="count")

    def call(self, x):
        self.count.assign_add(1.0)
        return x * 2.0


@keras.saving.register_keras_serializable()
class Joined(layers.Layer):
    """A layer of the user's own whose output has no batch."""

    def call(self, x):
        return keras.ops.sum(x, axis=0)

    def compute_output_shape(self, shape):
        return shape[1:]


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (Counted, "whole"),
        (lambda: layers.Lambda(lambda x: x[:, ::-1], output_shape=(6,)), "samplewise"),
        (lambda: layers.RNN(layers.LSTMCell(4)), "samplewise"),
    ],
)
def test_a_layer_without_a_rule_is_split_by_sample_if_it_treats_samples_alone(layer, kind):
    layer = layer()
    model = keras.Sequential(
        [keras.Input((3, 6) if isinstance(layer, layers.RNN) else (6,)), layer]
    )
    operator = capture(model, 4).graph.operators[1]
    assert operator.kind == kind
    dimensions = registry.find(kind).dimensions(operator)
    assert [dimension.name for dimension in dimensions] == ["sample"] * (kind == "samplewise")


def test_a_layer_whose_output_has_no_batch_is_whole():
    x = keras.Input((6,))
    specs = [TensorSpec((4, 6), "float32")], [TensorSpec((6,), "float32")]
    assert not treats_samples_alone(Joined(), *specs, lambda inputs: (tuple(inputs), {}))
    del x


def test_samples_that_keras_takes_for_a_bias_do_not_stand_alone():
    def plus_mean(x):
        return keras.ops.add(x, keras.ops.mean(x, axis=-1, keepdims=True))

    def alone(shape):
        layer = layers.Lambda(plus_mean)
        layer(keras.KerasTensor(shape))
        specs = [TensorSpec(shape, "float32")]
        return treats_samples_alone(layer, specs, specs, lambda inputs: (tuple(inputs), {}))

    assert alone((4, 6, 8))
    # Here means of one sample, (1, 6, 1), look like a bias of six channels.
    assert not alone((4, 6, 6))


def test_a_layer_beyond_its_rule_falls_back():
    model = keras.Sequential(
        [keras.Input((3, 4)), layers.BatchNormalization(axis=1), layers.Normalization()]
    )
    assert list(kinds(capture(model, 4).graph).values())[1] == "whole"


def test_a_trial_leaves_the_layer_as_it_was():
    model = keras.Sequential([keras.Input((6,)), Counted(), layers.BatchNormalization(axis=1)])
    before = model.get_weights()
    capture(model, 4)
    assert all(map(np.array_equal, model.get_weights(), before))


def test_capturing_makes_nothing_and_changes_nothing():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(3, "softmax", name="class")])
    before = model.get_weights()
    names = [variable.path for variable in model.variables]
    capture(model, 4)
    capture(model, 8)
    assert [variable.path for variable in model.variables] == names
    assert all(map(np.array_equal, model.get_weights(), before))
    assert model.get_layer("class").activation is keras.activations.softmax


def masked():
    x = keras.Input((6,), dtype="int32", name="x")
    y = layers.Embedding(9, 4, mask_zero=True, name="table")(x)
    return x, y


def test_a_mask_is_a_tensor_like_others():
    x, y = masked()
    y = layers.LSTM(4, name="lstm")(layers.Dropout(0.1, name="drop")(y))
    graph = capture(keras.Model(x, y), 4).graph
    lstm = graph.operators[graph.index("lstm")]
    assert lstm.kind == "samplewise"
    assert [graph.operators[ref.operator].name for ref in lstm.inputs] == ["drop", "not_equal"]
    assert lstm.input_specs[1].dtype == "bool"
    assert graph.operators[graph.index("table")].kind == "embedding"


def test_a_normalization_with_a_mask_is_not_normalized_without():
    x, y = masked()
    y = layers.BatchNormalization(name="norm")(y)
    graph = capture(keras.Model(x, y), 4).graph
    norm = graph.operators[graph.index("norm")]
    assert norm.kind == "whole"
    assert len(norm.inputs) == 2


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (
            lambda: keras.Sequential([layers.Dense(2)], name="mine"),
            r"'mine' is not built.*keras\.Input layer, or call model\.build",
        ),
        (
            lambda: keras.Sequential([keras.Input((None, 4)), layers.Dense(2)]),
            r"shape \(None, None, 4\).*Only the batch dimension may be\s*unknown",
        ),
    ],
    ids=["not built", "unknown shape"],
)
def test_what_cannot_be_captured_is_refused_with_a_remedy(build, match):
    with pytest.raises(CaptureError, match=match):
        capture(build(), 4)


def test_a_batch_has_a_sample_at_least():
    with pytest.raises(CaptureError, match="batch_size=0 must be 1 or more"):
        capture(residual(), 0)


def test_an_unknown_operator_is_named_with_those_there_are():
    with pytest.raises(CaptureError, match=r"'residual' has no operator 'convv'.*image, conv"):
        capture(residual(), 2).graph.index("convv")
