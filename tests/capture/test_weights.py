"""Weights that are operators of their own: read in different ways, or computed with alone."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_soap.capture.functions import learn_inputs
from keras_soap.capture.model import capture
from keras_soap.errors import CaptureError
from keras_soap.operators import registry
from tests.adapted import Adapted
from tests.capture.test_opening import dimensions

WORDS, WIDTH, STEPS = 12, 8, 6


def language_model() -> keras.Model:
    words = keras.Input((STEPS,), dtype="int32", name="words")
    table = layers.ReversibleEmbedding(WORDS, WIDTH, name="table")
    x = layers.Dense(WIDTH, name="inner")(table(words))
    return keras.Model(words, table(x, reverse=True))


def read_by(graph, name) -> dict[str, str]:
    """Kinds of the operators that read what another makes, by name."""
    edges = graph.out_edges[graph.index(name)]
    return {graph.operators[e.consumer].name: graph.operators[e.consumer].kind for e in edges}


def test_a_table_that_is_read_both_ways_is_an_operator_that_both_read():
    captured = capture(language_model(), 4)
    graph = captured.graph
    assert read_by(graph, "table/embeddings") == {
        "table/take": "table_lookup_handed",
        "table/transpose": "permute_of_weights",
    }
    table = graph.operators[graph.index("table/embeddings")]
    assert table.output_specs[1].shape == (WORDS, WIDTH)
    # One weight, and one owner: so the optimizer has one slot for it.
    assert [spec.name for spec in graph.weights].count("table/embeddings") == 1
    assert [o.name for o in graph.operators if 0 in o.weights] == ["table/embeddings"]
    edges = graph.out_edges[graph.index("table/embeddings")]
    assert all(graph.carries_gradient[edge.index] for edge in edges)


def test_a_table_is_split_along_its_axes_and_there_are_copies_of_it_for_samples():
    graph = capture(language_model(), 4).graph
    assert dimensions(graph, "table/embeddings") == {"sample": "S", "axis_0": "P", "axis_1": "P"}
    assert dimensions(graph, "table/transpose") == {"sample": "S", "axis_0": "P", "channel": "P"}
    lookup = dimensions(graph, "table/take")
    assert lookup == {"sample": "S", "length": "A", "embedding": "P", "vocabulary": "P"}
    # The axis of the logits that is the table's is a parameter.
    assert list(dimensions(graph, "table/matmul").values()) == ["S", "A", "P"]


def test_a_frozen_table_gets_no_gradient():
    model = language_model()
    model.get_layer("table").trainable = False
    graph = capture(model, 4).graph
    number = graph.index("table/embeddings")
    assert not any(graph.carries_gradient[edge.index] for edge in graph.out_edges[number])


def test_names_of_weights_do_not_depend_on_what_was_built_before():
    def build():
        words = keras.Input((STEPS,), dtype="int32", name="words")
        table = layers.ReversibleEmbedding(WORDS, WIDTH)
        return keras.Model(words, table(table(words), reverse=True))

    assert capture(build(), 4).graph.fingerprint == capture(build(), 4).graph.fingerprint


def test_weights_that_all_read_alike_stay_with_their_readers():
    x = keras.Input((4,))
    dense = layers.Dense(4, name="dense")
    graph = capture(keras.Model(x, dense(dense(x))), 4).graph
    assert [operator.kind for operator in graph.operators] == ["input", "dense", "dense"]


def test_a_layer_that_is_called_on_tensors_of_different_ranks_is_handed_its_weights():
    vector, series = keras.Input((4,), name="vector"), keras.Input((3, 4), name="series")
    dense = layers.Dense(6, name="dense")
    graph = capture(keras.Model([vector, series], [dense(vector), dense(series)]), 4).graph
    for name in ("dense/kernel", "dense/bias"):
        assert read_by(graph, name) == {"dense": "dense_handed", "dense_1": "dense_handed"}
    split = [list(dimensions(graph, name).values()) for name in ("dense", "dense_1")]
    assert sorted(split) == [["S", "A", "P"], ["S", "P"]]


def test_operations_on_weights_alone_are_operators():
    x = keras.Input((STEPS, WIDTH))
    graph = capture(keras.Model(x, Adapted(name="adapted")(x)), 4).graph
    kinds = {operator.name: operator.kind for operator in graph.operators[1:]}
    assert kinds == {
        **dict.fromkeys(
            (f"adapted/{w}" for w in ("first", "kernel", "down", "up", "gain")), "weight"
        ),
        "adapted/broadcast_to": "broadcast",
        "adapted/concatenate": "concatenate",
        "adapted/matmul": "matmul_of_weights",
        "adapted/add": "sum_of_weights",
        "adapted/matmul_1": "matmul",
        "adapted/add_1": "sum_of_weights",
        "adapted/multiply": "merging",
    }
    # What is made for every sample is split by samples, as the rest.
    assert dimensions(graph, "adapted/broadcast_to")["sample"] == "S"
    assert graph.operators[graph.index("adapted/broadcast_to")].output.shape == (4, 1, WIDTH)


def test_what_is_computed_of_weights_has_the_precision_of_the_layer():
    x = keras.Input((STEPS, WIDTH))
    layer = Adapted(name="adapted", dtype="mixed_bfloat16")
    graph = capture(keras.Model(x, layer(x)), 4).graph
    assert graph.operators[graph.index("adapted/gain")].output_specs[1].dtype == "float32"
    assert graph.operators[graph.index("adapted/gain/bfloat16")].output_specs[1].dtype == "bfloat16"
    assert graph.operators[graph.index("adapted/add_1")].output_specs[1].dtype == "bfloat16"


class Closed(layers.Layer):
    """Projects onto the table of an embedding, out of sight."""

    def __init__(self, table, **kwargs):
        super().__init__(**kwargs)
        self.table = table

    def call(self, x):
        import tensorflow as tf

        return tf.matmul(x, self.table.embeddings.value, transpose_b=True)


def test_a_layer_that_cannot_be_opened_is_handed_a_table_too():
    words = keras.Input((STEPS,), dtype="int32", name="words")
    table = layers.Embedding(WORDS, WIDTH, name="table")
    model = keras.Model(words, Closed(table, name="closed")(table(words)))
    graph = capture(model, 4).graph
    assert read_by(graph, "table/embeddings") == {
        "table": "embedding_handed",
        "closed": "samplewise_handed",
    }


def test_blocks_of_steps_hand_on_what_the_first_of_them_is_handed():
    words = keras.Input((STEPS,), dtype="int32", name="words")
    table = layers.Embedding(WORDS, WIDTH, name="table")
    x = layers.LSTM(WIDTH, return_sequences=True, name="lstm")(table(words))
    dense = layers.Dense(WIDTH, use_bias=False, name="dense")
    x = layers.Add()([dense(x), dense(layers.GlobalAveragePooling1D()(x))[:, None]])
    graph = capture(keras.Model(words, x), 4, time_chunk=3).graph
    kernel = "dense/block_0/kernel"
    assert read_by(graph, kernel) == {"dense/block_0": "dense_block", "dense": "dense_handed"}
    handed_on = read_by(graph, "dense/block_0")
    assert handed_on.pop("dense/block_1") == "dense_block"
    assert graph.operators[graph.index("dense/block_1")].weights == ()


def test_states_of_a_layer_cannot_be_handed_to_calls_that_change_them():
    vector, series = keras.Input((4,), name="vector"), keras.Input((3, 4), name="series")
    drop = layers.Dropout(0.5, name="drop")
    model = keras.Model([vector, series], [drop(vector), drop(series)])
    with pytest.raises(CaptureError, match=r"drop and drop_1 read .* and change it.*own for each"):
        capture(model, 4)


def test_a_layer_that_is_handed_a_weight_keeps_its_layer_closed():
    class Normalizes(layers.Layer):
        def build(self, shape):
            self.latent = self.add_weight(shape=shape[1:], name="latent")
            self.norm = layers.LayerNormalization(name="norm")
            self.norm.build(self.latent.shape)

        def call(self, x):
            return x + self.norm(self.latent)

    x = keras.Input((STEPS, WIDTH))
    graph = capture(keras.Model(x, Normalizes(name="own")(x)), 4).graph
    assert graph.operators[-1].kind == "samplewise"


def test_capturing_leaves_keras_as_it_was():
    model = language_model()
    learn_inputs(model, np.zeros((4, STEPS), "int32"))
    capture(model, 4)
    weight = keras.Variable(np.ones((2, 3)))
    assert not isinstance(ops.transpose(weight), keras.KerasTensor)
    assert not isinstance(1.0 + weight, keras.KerasTensor)
    assert registry.find("weight").kind == "weight"
