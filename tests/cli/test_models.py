"""From names to operator graphs."""

import sys

import keras
import pytest

from keras_soap.cli.models import load_graph
from keras_soap.errors import CaptureError
from keras_soap.graph import zoo
from keras_soap.graph.operator_graph import LOSS_KINDS

MODELS = """
import keras

def classifier():
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, activation="softmax")])

def regression(batch_size):
    assert batch_size == 16
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])

def compiled():
    inputs = keras.Input((8,))
    a = keras.layers.Dense(4, name="a")(inputs)
    b = keras.layers.Dense(2, name="b")(inputs)
    model = keras.Model(inputs, {"a": a, "b": b})
    losses = {"a": "sparse_categorical_crossentropy", "b": "mse"}
    model.compile(loss=losses, metrics={"a": "accuracy"})
    return model
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "models_of_mine.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    yield "models_of_mine"
    sys.modules.pop("models_of_mine", None)


def inputs_of_loss(graph, name):
    loss = graph.operators[graph.index(name)]
    return [(spec.shape, spec.dtype) for spec in loss.input_specs]


def loss_names(graph):
    return [operator.name for operator in graph.operators if operator.kind in LOSS_KINDS]


def test_a_classifier_trains_on_class_numbers(module):
    graph = load_graph(f"{module}:classifier", 16, training=True)
    (loss,) = loss_names(graph)
    assert inputs_of_loss(graph, loss)[:2] == [((16, 4), "float32"), ((16,), "int32")]
    assert graph.has_backward[graph.index(loss)]


def test_a_regression_trains_on_numbers_like_its_outputs(module):
    graph = load_graph(f"{module}:regression", 16, training=True)
    (loss,) = loss_names(graph)
    assert inputs_of_loss(graph, loss) == [((16, 4), "float32"), ((16, 4), "float32")]


def test_a_compiled_model_keeps_its_losses(module):
    graph = load_graph(f"{module}:compiled", 16, training=True)
    targets = {inputs_of_loss(graph, loss)[1] for loss in loss_names(graph)}
    assert targets == {((16,), "int32"), ((16, 2), "float32")}


def test_inference_has_no_losses(module):
    graph = load_graph(f"{module}:classifier", 16, training=False)
    kinds = [operator.kind for operator in graph.operators]
    assert kinds.count("input") == 1
    assert "loss" not in kinds


def test_a_saved_model_is_loaded(tmp_path):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    model.save(tmp_path / "m.keras")
    graph = load_graph(str(tmp_path / "m.keras"), 4, training=False)
    assert graph.operators[1].output.shape == (4, 4)


@pytest.mark.parametrize("name", zoo.MODELS)
def test_benchmarks_are_operator_graphs(name):
    assert load_graph(name, 64, training=True) == zoo.MODELS[name](batch_size=64)


def test_benchmarks_are_cut_in_time_as_asked():
    blocks = [op for op in load_graph("rnnlm", 64, True, 20).operators if op.layer == "lstm_0"]
    assert [block.output.shape[1] for block in blocks] == [20, 20]


def test_benchmarks_run_forward_without_losses():
    kinds = {operator.kind for operator in load_graph("nmt", 64, training=False).operators}
    assert "loss" not in kinds


RECURRENT = """
import keras

def recurrent():
    return keras.Sequential([keras.Input((12, 3)), keras.layers.LSTM(4, return_sequences=True)])
"""


def test_layers_of_a_keras_model_are_cut_in_time_as_asked(tmp_path, monkeypatch):
    (tmp_path / "recurrent_of_mine.py").write_text(RECURRENT)
    monkeypatch.chdir(tmp_path)
    kinds = [op.kind for op in load_graph("recurrent_of_mine:recurrent", 2, True, 4).operators]
    assert kinds.count("lstm_block") == 3
    with pytest.raises(CaptureError, match=r"time_chunk=5\. Use a divisor of 12, such as 4"):
        load_graph("recurrent_of_mine:recurrent", 2, True, 5)


@pytest.mark.parametrize(
    ("name", "chunk", "reason"),
    [
        ("nmt", 7, "Cannot cut 40 steps into blocks of 7. Use a divisor of the steps, such as 5"),
        ("alexnet", 8, "time_chunk=8 cuts recurrent layers, and 'alexnet' has none"),
    ],
)
def test_blocks_that_make_no_sense_are_refused(name, chunk, reason):
    with pytest.raises(CaptureError, match=reason):
        load_graph(name, 64, True, chunk)


def test_a_benchmark_is_spelled_exactly_and_all_else_is_an_application(monkeypatch):
    monkeypatch.setattr(keras.applications, "ResNet101", lambda weights: tiny_resnet())
    kinds = {operator.kind for operator in load_graph("ResNet101", 2, False).operators}
    assert kinds == {"input", "dense"}
    assert "convolution" in {op.kind for op in load_graph("resnet101", 2, False).operators}


def tiny_resnet():
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])


@pytest.mark.parametrize("name", ["mobilenet_v2", "MobileNetV3-Small"])
def test_applications_are_found_in_any_spelling(name):
    graph = load_graph(name, 2, training=False)
    assert graph.operators[0].output.shape == (2, 224, 224, 3)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("resnet5", "no model 'resnet5'.*resnet50,"),
        ("gone.keras", "no file gone.keras"),
        ("gone.textproto", "Cannot read gone.textproto"),
    ],
)
def test_what_does_not_exist_is_refused(name, reason):
    with pytest.raises(CaptureError, match=reason):
        load_graph(name, 2, training=True)
