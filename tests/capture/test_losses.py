"""Losses, targets and metrics as operators."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_soap.capture.losses import capture_step
from keras_soap.errors import CaptureError
from keras_soap.graph.operator_graph import TensorSpec
from keras_soap.operators import registry
from tests.runtime.subjects import SUBJECTS, first_batch

BATCH = 4


def step(model, y, sample_weight=None):
    x = keras.tree.map_structure(lambda t: tf.zeros((BATCH, *t.shape[1:]), t.dtype), model.inputs)
    model._symbolic_build(data_batch=(x[0] if len(x) == 1 else x, y, sample_weight))
    return capture_step(model, BATCH, y, sample_weight)


def single(output, loss, y, sample_weight=None, **compile):
    x = keras.Input((6,), name="x")
    model = keras.Model(x, output(x), name="mine")
    model.compile("sgd", loss, **compile)
    return step(model, y, sample_weight)


def classes(activation="softmax", **arguments):
    return lambda x: layers.Dense(3, activation, name="class", **arguments)(x)


def loss_of(captured, number=0):
    return captured.model.graph.operators[_first(captured.losses[number])]


def _first(number):
    return number[0] if isinstance(number, tuple) else number


def reads(captured, operator) -> list[str]:
    return [captured.model.graph.operators[ref.operator].name for ref in operator.inputs]


LABELS = np.zeros(BATCH, "int64")
ONE_HOT = np.eye(3, dtype="float32")[LABELS]


def test_a_loss_reads_prediction_and_target_and_gives_a_value_for_each_sample():
    captured = single(classes(None), "mse", ONE_HOT)
    loss = loss_of(captured)
    assert loss.kind == "loss"
    assert loss.output == TensorSpec((BATCH,), "float32")
    assert reads(captured, loss) == ["class", "target"]
    assert loss.attributes["loss"] == "mean_squared_error"
    assert captured.model.graph.has_backward[captured.model.graph.index("class")]


@pytest.mark.parametrize(
    ("activation", "loss", "y", "inputs"),
    [
        ("softmax", "sparse_categorical_crossentropy", LABELS, ["class", "target"]),
        ("softmax", "categorical_crossentropy", ONE_HOT, ["class", "target"]),
        # Its metrics want the prediction.
        ("sigmoid", "binary_crossentropy", ONE_HOT, ["class/sigmoid", "target", "class"]),
    ],
)
def test_a_cross_entropy_works_on_the_logits_as_keras_does(activation, loss, y, inputs):
    captured = single(classes(activation), loss, y)
    operator = loss_of(captured)
    assert reads(captured, operator) == inputs
    graph = captured.model.graph
    back = {
        graph.operators[edge.producer.operator].name
        for edge in graph.in_edges[graph.index(operator.name)]
        if graph.carries_gradient[edge.index]
    }
    assert back == {"class"}
    assert not graph.has_backward[graph.index(f"class/{activation}")]


def test_a_layer_of_softmax_gives_its_input_as_logits():
    captured = single(
        lambda x: layers.Softmax(name="p")(layers.Dense(3, name="class")(x)),
        "sparse_categorical_crossentropy",
        LABELS,
    )
    assert reads(captured, loss_of(captured)) == ["class", "target"]


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        ("sparse_categorical_crossentropy", LABELS),
        ("sparse_categorical_crossentropy", LABELS[:, None]),
        ("categorical_crossentropy", ONE_HOT),
        (keras.losses.CategoricalCrossentropy(label_smoothing=0.1), ONE_HOT),
    ],
)
def test_a_cross_entropy_can_be_split_along_the_classes(loss, y):
    captured = single(classes(), loss, y, metrics=["accuracy"])
    operator = loss_of(captured)
    (_, dimension) = registry.find(operator.kind).dimensions(operator)
    assert (dimension.name, dimension.size) == ("classes", 3)
    assert not captured.metrics


@pytest.mark.parametrize(
    ("output", "loss"),
    [
        # Keras works on the clipped prediction, since the logits are not at hand.
        (classes("sigmoid"), keras.losses.CategoricalCrossentropy()),
        (classes(), keras.losses.CategoricalFocalCrossentropy()),
        (classes(), lambda t, p: keras.losses.categorical_crossentropy(t, p)),
    ],
)
def test_other_losses_keep_their_classes_whole(output, loss):
    operator = loss_of(single(output, loss, ONE_HOT))
    assert [d.name for d in registry.find(operator.kind).dimensions(operator)] == ["sample"]


def test_metrics_that_need_whole_predictions_are_operators_that_read_them():
    metrics = ["accuracy", keras.metrics.TopKCategoricalAccuracy(2)]
    captured = single(classes(), "categorical_crossentropy", ONE_HOT, metrics=metrics)
    ((number,),) = captured.metrics
    graph = captured.model.graph
    assert graph.operators[number].attributes["metrics"] == ["top_k_categorical_accuracy"]
    assert reads(captured, graph.operators[number]) == ["class/softmax", "target"]
    assert graph.operators[number].attributes["report_bytes"] == 8
    assert not graph.has_backward[number]
    # The loss has the other one.
    assert loss_of(captured).attributes["report_bytes"] == 4 + 8


@pytest.mark.parametrize(
    ("output", "loss"),
    [
        (classes("sigmoid"), "mse"),
        (classes(None), keras.losses.CategoricalCrossentropy(from_logits=True)),
        (lambda x: layers.Softmax(axis=1)(layers.Dense(3)(x)), "mse"),
    ],
)
def test_other_losses_read_the_prediction_alone(output, loss):
    captured = single(output, loss, ONE_HOT)
    assert len(loss_of(captured).inputs) == 2


def test_sample_weights_are_an_input_of_their_loss():
    weights = np.ones(BATCH, "float32")
    captured = single(classes(None), "mse", ONE_HOT, weights)
    assert reads(captured, loss_of(captured)) == ["class", "target", "sample_weight"]
    assert len(captured.sample_weights) == 1


def test_metrics_add_to_what_is_reported():
    bare = loss_of(single(classes(), "sparse_categorical_crossentropy", LABELS))
    rich = loss_of(
        single(classes(), "sparse_categorical_crossentropy", LABELS, metrics=["accuracy"])
    )
    assert bare.attributes["report_bytes"] == 4
    # The sum and the count of the accuracy.
    assert rich.attributes["report_bytes"] == 4 + 8


def test_each_output_has_its_loss_weight_target_and_metrics():
    subject = SUBJECTS["family"]
    model = subject.model()
    batch = first_batch(subject)
    model._symbolic_build(data_batch=batch)
    captured = capture_step(model, 8, *batch[1:])
    found = {}
    for number in captured.losses:
        operator = captured.model.graph.operators[_first(number)]
        term = captured.term(_first(number))
        found[operator.attributes["loss"]] = (
            reads(captured, operator),
            term.weight,
            len(term.metrics),
        )
    assert found == {
        # Targets and weights by name, kind before price.
        "mean_squared_error": (["price", "target_1", "sample_weight_1"], 0.3, 2),
        "categorical_crossentropy": (["kind", "target_0", "sample_weight_0"], 2.0, 1),
    }


def test_parts_of_a_loss_add_up_to_it():
    captured = single(classes(None), keras.losses.Huber(), ONE_HOT)
    term = captured.term(_first(captured.losses[0]))
    rng = np.random.default_rng(0)
    y_pred = tf.constant(rng.normal(size=(BATCH, 3)).astype("float32"))
    whole = keras.losses.Huber()(ONE_HOT, y_pred)
    parts = [
        term.result([y_pred[a : a + 2], tf.constant(ONE_HOT[a : a + 2])], None)[0] for a in (0, 2)
    ]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-6)


def test_a_model_without_a_loss():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(3)], name="mine")
    with pytest.raises(CaptureError, match=r"'mine' has no loss to train with. Compile it"):
        capture_step(model, BATCH, tf.constant(ONE_HOT))


def test_regularizers_of_activities_are_losses_without_targets():
    captured = single(classes(activity_regularizer="l2"), "categorical_crossentropy", ONE_HOT)
    assert len(captured.losses) == 2
    penalty = loss_of(captured, 1)
    assert penalty.kind == "loss"
    # Of what comes out of the layer, which is after its activation.
    assert reads(captured, penalty) == ["class/softmax"]
    assert penalty.output.shape == (BATCH, 3)


def test_regularizers_of_weights_are_no_operators():
    plain = single(classes(None), "mse", ONE_HOT)
    regularized = single(classes(None, kernel_regularizer="l2"), "mse", ONE_HOT)
    assert len(regularized.model.graph.operators) == len(plain.model.graph.operators)


def test_activity_regularizers_that_may_not_add_up():
    with pytest.raises(CaptureError, match=r"'class' has the activity_regularizer.*Use L1, L2"):
        single(classes(None, activity_regularizer=lambda x: keras.ops.max(x)), "mse", ONE_HOT)


class AddsLoss(layers.Layer):
    def __init__(self, loss, **kwargs):
        super().__init__(**kwargs)
        self.loss = loss

    def call(self, x):
        self.add_loss(self.loss(x))
        return x


@pytest.mark.parametrize(
    ("loss", "kind"),
    [(keras.ops.mean, "samplewise"), (keras.ops.sum, "samplewise"), (keras.ops.std, "whole")],
)
def test_losses_that_layers_add_are_outputs_of_theirs(loss, kind):
    added = AddsLoss(loss, name="mine_too")
    captured = single(lambda x: added(classes(None)(x)), "mse", ONE_HOT)
    graph = captured.model.graph
    adding = graph.operators[graph.index("mine_too")]
    assert adding.kind == kind
    assert adding.output_specs[1:] == (TensorSpec((BATCH,), "float32"),)
    of_layer = loss_of(captured, 1)
    assert [ref.output for ref in of_layer.inputs] == [1]
    assert reads(captured, of_layer) == ["mine_too"]
    assert not added._loss_ids


def tagging(loss):
    words = keras.Input((6,), dtype="int32", name="words")
    x = layers.Embedding(9, 4, mask_zero=True, name="table")(words)
    model = keras.Model(words, layers.Dense(3, name="tags")(x), name="mine")
    model.compile("sgd", loss)
    return step(model, np.zeros((BATCH, 6), "int64"))


def test_the_mask_of_an_output_is_an_input_of_its_loss():
    captured = tagging(keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    loss = loss_of(captured)
    *others, mask = reads(captured, loss)
    assert others == ["tags", "target"]
    assert captured.model.graph.operators[captured.model.graph.index(mask)].output == TensorSpec(
        (BATCH, 6), "bool"
    )
    assert loss.attributes["is_normalized"]


def test_a_mask_that_does_not_fit_the_values_of_the_loss():
    with pytest.raises(CaptureError, match=r"'tags' has a mask of shape \(4, 6\).*\(4,\)"):
        tagging(lambda t, p: keras.ops.mean(p, (1, 2)))


def test_a_loss_that_is_not_reduced():
    with pytest.raises(CaptureError, match=r"reduction=.*cannot be summed over parts"):
        single(classes(None), keras.losses.MeanSquaredError(reduction="none"), ONE_HOT)


@pytest.mark.parametrize(
    ("loss", "split"),
    [
        (lambda t, p: keras.ops.mean(t - p), ["sample"]),
        (lambda t, p: keras.ops.max(t - p), []),
        (lambda t, p: keras.ops.mean(t - p, -1) * keras.ops.mean(p), []),
        (lambda t, p: keras.ops.mean(t - p, -1), ["sample"]),
    ],
)
def test_losses_are_split_by_samples_if_a_trial_shows_that_parts_add_up(loss, split):
    operator = loss_of(single(classes(None), loss, ONE_HOT))
    dimensions = registry.find(operator.kind).dimensions(operator)
    assert [dimension.name for dimension in dimensions] == split


def test_a_function_that_has_the_name_of_one_of_kerass_is_not_taken_for_it():
    def binary_crossentropy(y_true, y_pred):
        return keras.ops.mean(y_true - y_pred, -1)

    captured = single(classes("sigmoid"), binary_crossentropy, ONE_HOT)
    assert reads(captured, loss_of(captured)) == ["class/sigmoid", "target"]
