"""Layers of layers and subclassed models: what they are opened into, and what stays closed."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_soap.capture.functions import learn_inputs
from keras_soap.capture.model import capture
from keras_soap.errors import CaptureError
from keras_soap.operators import registry

STEPS, WIDTH = 6, 8


def of_one(layer, shape=(STEPS, WIDTH), dtype="float32"):
    x = keras.Input(shape, dtype=dtype, name="x")
    return keras.Model(x, layer(x))


def kinds(model, **kwargs) -> dict[str, str]:
    graph = capture(model, 4, **kwargs).graph
    return {operator.name: operator.kind for operator in graph.operators if operator.inputs}


def dimensions(graph, name) -> dict[str, str]:
    operator = graph.operators[graph.index(name)]
    return {d.name: d.kind.letter for d in registry.find(operator.kind).dimensions(operator)}


class Block(layers.Layer):
    """A transformer block."""

    def __init__(self, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(2, 4, dropout=dropout, name="attention")
        self.dense = keras.Sequential(
            [layers.Dense(16, "relu", name="up"), layers.Dense(WIDTH, name="down")], name="dense"
        )
        self.norm = layers.LayerNormalization(name="norm")
        self.dropout = layers.Dropout(dropout, name="dropout")

    def call(self, x, training=None):
        x = x + self.dropout(self.attention(x, x, use_causal_mask=True), training=training)
        return self.norm(x + self.dense(x))


class Scaled(layers.Layer):
    """Reads weights of its own, on either side."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 5), name="kernel")
        self.scale = self.add_weight(shape=(5,), name="scale")
        self.bias = self.add_weight(shape=(5,), trainable=False, name="bias")

    def call(self, x):
        return self.scale * ops.matmul(x, self.kernel) + self.bias


def test_attention_is_split_by_heads_and_by_queries():
    graph = capture(of_one(lambda x: layers.MultiHeadAttention(2, 4, name="mha")(x, x)), 4).graph
    heads = {"sample": "S", "length": "A", "heads": "P", "units": "P"}
    assert dimensions(graph, "mha/query") == heads
    assert dimensions(graph, "mha/value") == heads
    attention = {"sample": "S", "length": "A", "heads": "A"}
    assert dimensions(graph, "mha/dot_product_attention") == attention
    assert dimensions(graph, "mha/attention_output") == {"sample": "S", "length": "A", "units": "P"}


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_layer_of_layers_is_what_it_is_made_of(dropout):
    found = kinds(of_one(Block(dropout, name="block")))
    assert "whole" not in found.values()
    assert "samplewise" not in found.values()
    assert found["block/attention/query"] == "einsum_dense"
    assert found["block/dropout"] == "noise"
    assert found["block/dense/up"] == "dense"
    assert found["block/norm"] == "layer_normalization"
    assert found["block/add"] == "sum"


def test_the_weights_of_an_opened_layer_are_the_same_variables():
    block = Block(name="block")
    captured = capture(of_one(block), 4)
    assert {id(v) for v in captured.variables} == {
        id(v) for v in block.variables if "seed" not in v.path
    } | {id(v) for v in block.dropout.variables}
    assert all(spec.trainable for spec in captured.graph.weights if "seed" not in spec.name)


def test_each_call_of_a_shared_layer_of_layers_is_opened_on_the_same_weights():
    block = Block(name="block")
    graph = capture(of_one(lambda x: block(block(x))), 4).graph
    one, other = graph.index("block/dense/up"), graph.index("block/dense/up_1")
    assert graph.operators[one].weights == graph.operators[other].weights


def test_names_do_not_depend_on_what_was_built_before():
    def build():
        x = keras.Input((STEPS, WIDTH))
        y = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(Block()(Block()(x)))
        return keras.Model(x, Scaled()(y), name="same")

    assert capture(build(), 4).graph.fingerprint == capture(build(), 4).graph.fingerprint


def test_weights_that_an_operation_reads_are_its_own_and_split_it_by_parameter():
    graph = capture(of_one(Scaled(name="own")), 4).graph
    matmul = graph.operators[graph.index("own/matmul")]
    assert [spec.name for spec in matmul.weight_specs] == ["own/kernel"]
    assert dimensions(graph, "own/matmul") == {"sample": "S", "length": "A", "units": "P"}
    multiply = graph.operators[graph.index("own/multiply")]
    assert [spec.name for spec in multiply.weight_specs] == ["own/scale"]
    assert dimensions(graph, "own/multiply") == {"sample": "S", "length": "A", "channel": "P"}
    add = graph.operators[graph.index("own/add")]
    assert [spec.trainable for spec in add.weight_specs] == [False]


def test_inner_models_that_were_built_on_other_batches_are_captured_on_these():
    block = Block(name="block")
    block(np.ones((1, STEPS, WIDTH), "float32"))
    graph = capture(of_one(block), 4).graph
    assert {operator.output.shape[0] for operator in graph.operators} == {4}


class Frozen(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.BatchNormalization(name="norm")
        self.drop = layers.Dropout(0.5, name="drop")

    def call(self, x):
        return self.norm(self.drop(x * 2.0), training=False)


def test_a_training_mode_that_a_call_fixes_reaches_inner_layers():
    graph = capture(of_one(Frozen(name="it")), 4).graph
    assert graph.operators[graph.index("it/norm")].attributes["training"] is False
    assert "training" not in graph.operators[graph.index("it/drop")].attributes


def test_a_bidirectional_layer_is_two_recurrent_ones():
    found = kinds(of_one(layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="both")))
    assert sorted(found.values()) == ["concatenate", "flip", "lstm", "lstm"]
    blocks = kinds(of_one(layers.Bidirectional(layers.GRU(4), name="both")), time_chunk=2)
    assert sum("block_" in name for name in blocks) == 2 * STEPS // 2


def test_steps_are_samples_to_a_layer_that_is_distributed_over_them():
    graph = capture(of_one(layers.TimeDistributed(layers.Dense(3), name="steps")), 4).graph
    dense = graph.operators[graph.index("steps/dense")]
    assert dense.output.shape == (4 * STEPS, 3)
    assert graph.operators[-1].output.shape == (4, STEPS, 3)
    normalized = layers.TimeDistributed(layers.BatchNormalization(), name="steps")
    # Moments of one step are not those of all.
    assert kinds(of_one(normalized)) == {"steps": "whole"}


def test_mixed_precision_is_the_layers_own():
    graph = capture(of_one(Scaled(name="own", dtype="mixed_bfloat16")), 4).graph
    matmul = graph.operators[graph.index("own/matmul")]
    assert matmul.output.dtype == "bfloat16"
    assert matmul.weight_specs[0].dtype == "float32"
    assert matmul.attributes["autocast"] == "bfloat16"


class Closed(layers.Layer):
    """Something that cannot be told from a trace, about a layer that can be."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(WIDTH)

    def build(self, shape):
        self.dense.build(shape)
        self.scale = self.add_weight(shape=(WIDTH,), initializer="ones", name="scale")
        self.count = self.add_weight(shape=(), trainable=False, name="count")

    def call(self, x, training=None):
        return self.more(self.dense(x), training)


class BranchesOnValues(Closed):
    def more(self, x, training):
        return x if ops.sum(x) > 0 else -x


class Counts(Closed):
    def more(self, x, training):
        self.count.assign_add(1.0)
        return x * self.scale


class HidesAWeight(Closed):
    def more(self, x, training):
        return x * self.scale.value + self.count


class UsesTensorFlow(Closed):
    def more(self, x, training):
        import tensorflow as tf

        return tf.cumsum(x, axis=1) * self.scale + self.count


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (Counts, "whole"),
        (HidesAWeight, "samplewise"),
        (UsesTensorFlow, "samplewise"),
    ],
)
def test_what_a_trace_does_not_show_keeps_a_layer_closed(layer, kind):
    assert kinds(of_one(layer(name="it"))) == {"it": kind}


class MeanOfSteps(layers.Layer):
    """Puts steps before samples, so that no rule knows which axis is which."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(WIDTH)

    def call(self, x):
        return ops.mean(ops.transpose(self.dense(x), (1, 0, 2)), axis=0)


def test_opening_never_costs_the_split_by_sample():
    assert kinds(of_one(MeanOfSteps(name="it"))) == {"it": "samplewise"}


def test_opening_changes_nothing():
    block = Block(0.1, name="block")
    model = of_one(block)
    every = [*model._flatten_layers()]
    before = model.get_weights()
    nodes = [(len(x._inbound_nodes), len(x._outbound_nodes)) for x in every]
    attributes = [set(vars(x)) for x in every]
    multiply = keras.Variable.__mul__
    capture(model, 4)
    capture(model, 8)
    assert [(len(x._inbound_nodes), len(x._outbound_nodes)) for x in every] == nodes
    assert [set(vars(x)) for x in every] == attributes
    assert keras.Variable.__mul__ is multiply
    assert all(map(np.array_equal, model.get_weights(), before))


class Translator(keras.Model):
    def __init__(self):
        super().__init__(name="translator")
        self.table = layers.Embedding(9, WIDTH, name="table")
        self.block = Block(name="block")
        self.between = layers.MultiHeadAttention(2, 4, name="between")
        self.words = layers.Dense(9, "softmax", name="words")

    def call(self, inputs, training=None):
        source = self.block(self.table(inputs["source"]), training=training)
        target = self.table(inputs["target"])
        return {"words": self.words(target + self.between(target, source))}


def words(batch_size=4):
    return {name: np.ones((batch_size, STEPS), "int32") for name in ("source", "target")}


def test_a_subclassed_model_is_captured_once_its_inputs_are_known():
    model = Translator()
    model(words())
    learn_inputs(model, words())
    captured = capture(model, 8)
    graph = captured.graph
    names = [graph.operators[number].name for number in captured.inputs]
    assert names == ["source", "target"]
    assert graph.operators[0].output.dtype == "int32"
    assert captured.output_structure == {"words": 0}
    (output,) = captured.outputs
    assert graph.operators[output[0].operator].name == "words/softmax"
    assert {"samplewise", "whole"}.isdisjoint(operator.kind for operator in graph.operators)
    assert capture(model, 8).graph.fingerprint == graph.fingerprint


def test_a_subclassed_model_inside_of_another_is_opened():
    inputs = {name: keras.Input((STEPS,), dtype="int32", name=name) for name in words()}
    outer = keras.Model(inputs, Translator()(inputs))
    assert kinds(outer)["translator/block/dense/up"] == "dense"


def test_a_model_that_overrides_call_does_what_it_says():
    class Negative(keras.Sequential):
        def call(self, inputs, training=None, mask=None):
            return -super().call(inputs, training, mask)

    model = Negative([keras.Input((4,)), layers.Dense(2, name="dense")])
    assert kinds(model) == {"dense": "dense", "negative": "elementwise"}


def test_lengths_that_a_graph_leaves_open_are_learned_from_data():
    x = keras.Input((None, WIDTH), name="series")
    model = keras.Model(x, Block(name="block")(x))
    with pytest.raises(CaptureError, match=r"series has shape .*Only the batch dimension"):
        capture(model, 4)
    for length in (STEPS, 2 * STEPS):
        learn_inputs(model, np.ones((4, length, WIDTH), "float32"))
        graph = capture(model, 4).graph
        assert graph.operators[0].name == "series"
        assert graph.operators[-1].output.shape == (4, length, WIDTH)


class Model(keras.Model):
    def __init__(self, layer):
        super().__init__(name="mine")
        self.layer = layer

    def call(self, x):
        return self.layer(x)


def test_a_model_of_which_nothing_is_known_is_refused_with_a_remedy():
    with pytest.raises(CaptureError, match=r"'mine' is a Model, a subclassed model.*keras\.Input"):
        capture(Model(layers.Dense(2)), 4)


class Undecided(keras.Model):
    def __init__(self):
        super().__init__(name="mine")
        self.dense = layers.Dense(2)

    def call(self, x):
        x = self.dense(x)
        return x if float(ops.sum(x)) > 0 else -x


def test_a_model_that_depends_on_values_is_refused_with_the_reason():
    model = Undecided()
    x = np.ones((4, 3), "float32")
    model(x)
    learn_inputs(model, x)
    with pytest.raises(CaptureError, match=r"'mine' is a Undecided whose call\(\) cannot be cap"):
        capture(model, 4)


def masked(after):
    x = keras.Input((STEPS,), dtype="int32", name="x")
    return keras.Model(x, after(layers.Embedding(9, 4, mask_zero=True, name="table")(x)))


@pytest.mark.parametrize(
    ("after", "reader"),
    [
        (lambda y: layers.MultiHeadAttention(2, 2, name="it")(y, y), "it/expand_dims"),
        (lambda y: layers.Attention(name="it")([y, y]), "it/logical_not"),
        (lambda y: layers.Multiply(name="it")([y, y]), "it/expand_dims"),
        (lambda y: layers.GlobalAveragePooling1D(name="it")(y), "it/expand_dims"),
        (
            lambda y: keras.Sequential([layers.LSTM(4, name="lstm")], name="it")(y),
            "it/lstm",
        ),
    ],
)
def test_masks_are_handed_on_into_opened_layers(after, reader):
    graph = capture(masked(after), 4).graph
    read = graph.operators[graph.index(reader)].inputs
    assert "not_equal" in [graph.operators[ref.operator].name for ref in read]


class Transposing(layers.Layer):
    """Reads a weight of a layer in it once more, turned around by an operation of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(6)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return keras.ops.matmul(self.dense(x), keras.ops.transpose(self.dense.kernel.value))


def test_a_weight_that_a_trace_takes_for_a_constant_keeps_a_layer_closed():
    x = keras.Input((4,))
    model = keras.Model(x, Transposing(name="turned")(x))
    (operator,) = [op for op in capture(model, 8).graph.operators if op.name.startswith("turned")]
    assert operator.kind == "samplewise"
    assert len(operator.weights) == 2
