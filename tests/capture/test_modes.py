"""Branches on `training`, and random numbers that a `call` draws."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.src import backend

from keras_soap.capture.functions import learn_inputs
from keras_soap.capture.model import capture
from keras_soap.capture.planning import capture_for_planning
from keras_soap.errors import CaptureError
from keras_soap.graph.unread import BY_MODE, UNREAD
from tests import branching

STEPS, WIDTH, BATCH = 6, 8, 8


def of_one(layer, shape=(STEPS, WIDTH)):
    x = keras.Input(shape, name="x")
    return keras.Model(x, layer(x))


def built(model, shape=(WIDTH,)):
    x = np.ones((BATCH, *shape), "float32")
    model(x)
    learn_inputs(model, x)
    return model


def kinds(graph):
    return {operator.name: operator.kind for operator in graph.operators}


def read_by(graph, name):
    operator = graph.operators[graph.index(name)]
    return [graph.operators[ref.operator].name for ref in operator.inputs]


@pytest.mark.parametrize(
    "make",
    [
        lambda: branching.StochasticDepth(0.3, name="it"),
        lambda: branching.DropPath(0.3, name="it"),
        lambda: branching.Noisy(5, name="it"),
        lambda: branching.Dropped(name="it"),
        lambda: branching.Block(WIDTH, name="it"),
    ],
)
def test_a_layer_that_branches_is_what_its_branches_are_made_of(make):
    found = kinds(capture(of_one(make()), BATCH).graph)
    assert {"samplewise", "whole"}.isdisjoint(found.values())
    assert BY_MODE in found.values()
    assert "draw" in found.values()


def test_what_branches_have_in_common_is_there_once():
    graph = capture(built(branching.Classifier()), BATCH).graph
    assert kinds(graph) == {
        "input": "input",
        "hidden": "dense",
        "norm": "batch_normalization",
        "dropout": "noise",
        "by_mode": BY_MODE,
        "classes": "dense",
        "clip": "elementwise",
        "by_mode_1": BY_MODE,
    }
    assert read_by(graph, "by_mode") == ["dropout", "norm"]
    assert read_by(graph, "by_mode_1") == ["classes", "clip"]
    assert "training" not in graph.operators[graph.index("norm")].attributes


def two_heads():
    heads = branching.TwoHeads()
    x = keras.Input((WIDTH,))
    heads(x, training=True)
    model = keras.Model(x, heads(x))
    model.compile("sgd", "mse")
    return model


def test_a_step_does_not_run_the_other_modes_branch():
    model = two_heads()
    in_training = kinds(capture_for_planning(model, BATCH, training=True))
    in_inference = kinds(capture_for_planning(model, BATCH, training=False))
    names = [f"two_heads/{name}" for name in ("hidden", "taught", "fixed", "by_mode")]
    assert [in_training[name] for name in names] == ["dense", "dense", UNREAD, BY_MODE]
    assert [in_inference[name] for name in names] == ["dense", UNREAD, "dense", BY_MODE]


def test_no_gradient_goes_to_the_other_modes_branch():
    graph = capture_for_planning(two_heads(), BATCH, training=True)
    number = graph.index("two_heads/by_mode")
    assert [graph.carries_gradient[edge.index] for edge in graph.in_edges[number]] == [True, False]
    assert not graph.has_backward[graph.index("two_heads/fixed")]


class ReturnsMore(keras.Model):
    def __init__(self):
        super().__init__(name="returns_more")
        self.dense = layers.Dense(4)

    def call(self, x, training=False):
        x = self.dense(x)
        return (x, ops.exp(x)) if training else x


def test_a_model_that_returns_something_else_in_training_is_refused_with_both():
    with pytest.raises(CaptureError, match=r"returns.*in training and.*in inference.*same struct"):
        capture(built(ReturnsMore()), BATCH)


class Inner(layers.Layer):
    """Fixes the mode of what is in it."""

    def __init__(self, training, **kwargs):
        super().__init__(**kwargs)
        self.noisy = branching.Noisy(5, name="noisy")
        self.training = training

    def call(self, x):
        return self.noisy(x, training=self.training)


@pytest.mark.parametrize(("training", "draws"), [(True, True), (False, False)])
def test_a_mode_that_a_call_fixes_decides_the_branch(training, draws):
    found = kinds(capture(of_one(Inner(training, name="it")), BATCH).graph)
    assert BY_MODE not in found.values()
    # As training=False is the default of its call(), Keras records it as if nothing were fixed.
    assert ("draw" in found.values()) == draws


class DrawsTwice(layers.Layer):
    """Of which the second is the same for all samples, and the third is always the same."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, x):
        one = keras.random.normal(ops.shape(x), seed=self.seeds)
        two = keras.random.uniform((WIDTH,), seed=self.seeds)
        return x + one * two + keras.random.normal((WIDTH,), seed=7)


def test_each_draw_has_a_state_of_its_own():
    layer = DrawsTwice(name="it")
    captured = capture(of_one(layer), BATCH)
    draws = [operator for operator in captured.graph.operators if operator.kind == "draw"]
    assert [draw.output.shape for draw in draws] == [(BATCH, STEPS, WIDTH), (WIDTH,)]
    states = [captured.variables[draw.weights[0]] for draw in draws]
    assert len({id(state) for state in states}) == 2
    assert any(state is layer.seeds.state for state in states)
    again = capture(of_one(layer), 2 * BATCH)
    assert {id(state) for state in states} <= {id(variable) for variable in again.variables}


def test_capturing_draws_nothing_and_leaves_keras_as_it_is():
    layer = branching.Noisy(5)
    model = of_one(layer)
    functions = {name: getattr(backend.random, name) for name in ("normal", "dropout", "draw_seed")}
    before = layer.seed_generator.state.numpy()
    capture(model, BATCH)
    np.testing.assert_array_equal(layer.seed_generator.state.numpy(), before)
    assert functions == {name: getattr(backend.random, name) for name in functions}


class Closed(layers.Layer):
    """Something that cannot be told from a trace, and noise."""

    def __init__(self, shape, **kwargs):
        super().__init__(**kwargs)
        self.shape = shape
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, x, training=None):
        import tensorflow as tf

        x = tf.cumsum(x, axis=1)
        shape = (ops.shape(x)[0], *self.shape) if self.shape else (WIDTH,)
        return x + keras.random.normal(shape, seed=self.seeds) if training else x


@pytest.mark.parametrize(
    ("shape", "kind"), [((STEPS, WIDTH), "samplewise"), ((1, 1), "samplewise"), ((), "whole")]
)
def test_a_closed_layer_is_split_by_sample_where_it_draws_for_each(shape, kind):
    assert kinds(capture(of_one(Closed(shape, name="it")), BATCH).graph)["it"] == kind


def test_a_closed_layer_is_what_it_was_after_it_has_drawn():
    layer = Closed((1, 1), name="it")
    model = of_one(layer)
    for _ in range(4):
        assert kinds(capture(model, BATCH).graph)["it"] == "samplewise"
        layer.seeds.next()


class ClosedToo(layers.Layer):
    def call(self, x):
        import tensorflow as tf

        return tf.cumsum(x, axis=1) + keras.random.normal(ops.shape(x))


def test_a_closed_layer_that_draws_from_the_global_seed_is_refused_with_a_remedy():
    with pytest.raises(CaptureError, match=r"'it' of type ClosedToo draws.*SeedGenerator in its"):
        capture(of_one(ClosedToo(name="it")), BATCH)
