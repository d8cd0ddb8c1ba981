"""What nothing in a training step reads runs in none, and costs nothing."""

import keras
import numpy as np
import pytest
import tensorflow as tf  # noqa: F401  # so that conftest makes devices
from keras import layers

from keras_soap import SoapStrategy
from keras_soap.capture.planning import capture_for_planning
from keras_soap.costs.roofline import Roofline
from keras_soap.graph.inference import forward_part
from keras_soap.graph.unread import UNREAD, as_read
from keras_soap.search.problem import Problem
from keras_soap.strategy.strategy import Strategy
from keras_soap.tasks.build import build
from keras_soap.tasks.task_graph import TaskKind
from keras_soap.topology.local import local_topology


def classifier(metrics=()):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = layers.Dense(8, name="class")(inputs)
    x = layers.Softmax(name="softmax")(x)
    model = keras.Model(inputs, layers.Reshape((2, 4), name="shaped")(x))
    wide = keras.Model(inputs, x)
    for each in (model, wide):
        each.compile("sgd", "sparse_categorical_crossentropy", metrics=list(metrics))
    return wide


def graph_of(metrics=(), training=True):
    return capture_for_planning(classifier(metrics), 8, training)


def kinds(graph):
    return {operator.name: operator.kind for operator in graph.operators}


def test_a_softmax_whose_loss_takes_the_logits_is_unread():
    assert kinds(graph_of())["softmax"] == UNREAD
    # Unless a metric needs it, or there is nothing but a prediction.
    assert kinds(graph_of(["top_k_categorical_accuracy"], training=False))["softmax"] != UNREAD


def test_it_is_itself_again_where_the_graph_is_of_inference():
    assert kinds(forward_part(graph_of())) == kinds(graph_of(training=False))
    captured, alone = graph_of(), graph_of(training=False)
    for operator, other in zip(captured.operators, alone.operators, strict=False):
        assert as_read(operator) == other


def test_wherever_it_is_nothing_moves_to_it_and_it_takes_no_time():
    problem = Problem(graph_of(), local_topology(), Roofline())
    graph = problem.graph
    number = graph.index("softmax")
    rng = np.random.default_rng(0)
    times = set()
    base = problem.space.random_strategy(rng)
    for _ in range(8):
        configs = list(base.configs)
        configs[number] = problem.space.random_strategy(rng).configs[number]
        strategy = Strategy(tuple(configs))
        tasks = build(problem.costs, strategy)
        of_it = tasks.operator == number
        assert tasks.run_time_ns[of_it].sum() == 0
        assert not (of_it & (tasks.kind >= TaskKind.TRANSFER)).any()
        evaluation = problem.objective.evaluate(strategy)
        times.add((evaluation.step_time_ns, evaluation.communication_bytes))
    assert len(times) == 1


@pytest.mark.parametrize("method", ["data_parallel", "model_parallel"])
def test_predictions_run_it(method):
    plain, ours = classifier(), classifier()
    x, y = np.random.default_rng(0).normal(size=(16, 6)), np.arange(16) % 8
    plain.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    soap = SoapStrategy(method=method, verbose=0)
    ours.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[soap])
    assert soap.costs.lowering.graph.operators[2].kind == UNREAD
    found = ours.predict(x, batch_size=8, verbose=0, callbacks=[soap])
    np.testing.assert_allclose(found, plain.predict(x, verbose=0), rtol=1e-5)
    assert list(soap.activations(x[:8])) == ["class", "softmax"]
