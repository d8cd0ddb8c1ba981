"""Wrong input is refused with words that help, and leaves the model as it was."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_soap import SoapStrategy
from keras_soap.errors import CaptureError, ExecutionError, StrategyError, TopologyError
from keras_soap.runtime.devices import use_logical_cpus
from keras_soap.runtime.functions import StepFunctions
from keras_soap.strategy.strategy import Strategy
from keras_soap.topology.device_topology import Device
from keras_soap.topology.local import local_topology
from tests.runtime.strategies import NAMED, split
from tests.runtime.subjects import SUBJECTS, lowering, train

VECTORS = SUBJECTS["vectors"]
X, Y, _ = VECTORS.samples()


def strategy(name="S and P") -> Strategy:
    return NAMED[name](lowering("vectors"))


def refused(error, match, soap: SoapStrategy, model=None, x=X, y=Y, **fit) -> None:
    """`fit` raises the error, and the model then trains as if nothing had happened."""
    model = model or VECTORS.model()
    if not model.built:
        model(x[:1])
    before = model.get_weights()
    kinds = [type(v._value) for v in model.variables]
    with pytest.raises(error, match=match):
        model.fit(x, y, verbose=0, callbacks=[soap], **{"batch_size": 8, **fit})
    assert [type(v._value) for v in model.variables] == kinds
    for function in (model.train_function, model.test_function, model.predict_function):
        assert not isinstance(getattr(function, "__self__", None), StepFunctions)
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    model.fit(x, y, verbose=0)
    assert not all(map(np.array_equal, model.get_weights(), before))


def quick(**arguments) -> SoapStrategy:
    return SoapStrategy(search_budget_s=0.1, profile="analytic", verbose=0, **arguments)


def test_states_that_are_no_weights():
    x = np.ones((8, 4, 3), "float32")
    model = keras.Sequential(
        [keras.Input(batch_shape=(8, 4, 3)), layers.LSTM(4, stateful=True), layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    refused(CaptureError, "'lstm.*stateful=True.*Use stateful=False", quick(), model, x, np.ones(8))


def test_layers_that_keep_metrics_of_their_own():
    class Endpoint(layers.Layer):
        def __init__(self):
            super().__init__(name="endpoint")
            self.mean = keras.metrics.Mean()

        def call(self, x):
            self.mean.update_state(x)
            return x

    model = keras.Sequential([keras.Input((6,)), layers.Dense(4), Endpoint()])
    model.compile("sgd", "mse")
    y = np.ones((len(X), 4), "float32")
    says = r"'endpoint' of type Endpoint changes variables .*not its weights.*add_weight\(\)"
    refused(CaptureError, says, quick(), model, y=y)


def test_a_batch_size_that_no_degree_divides():
    refused(
        StrategyError,
        r"batch of 7 samples cannot be split.*up to 4 devices.*multiple of 4.*dims='OAP'",
        quick(),
        batch_size=7,
    )


def test_such_a_batch_trains_when_only_the_rest_is_split():
    model = VECTORS.model()
    soap = quick(dims="OAP")
    model.fit(X, Y, batch_size=7, callbacks=[soap], verbose=0)
    dimensions = soap.costs.lowering.dimensions
    split = [degree for config in soap.strategy.configs for degree in config.degrees[:1]]
    assert {of_operator[0].name for of_operator in dimensions if of_operator} == {"sample"}
    assert set(split) == {1}


def test_a_model_that_is_not_compiled():
    with pytest.raises(ValueError, match=r"compile\(\)"):
        VECTORS.build().fit(X, Y, callbacks=[quick()])


def test_a_model_that_is_not_built_is_built_by_its_first_batch():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([layers.Dense(8, "relu"), layers.Dense(4, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(X, Y, batch_size=8, shuffle=False, callbacks=[quick()], verbose=0)
    keras.utils.set_random_seed(1)
    plain = keras.Sequential([layers.Dense(8, "relu"), layers.Dense(4, "softmax")])
    plain.compile("sgd", "sparse_categorical_crossentropy")
    plain.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
    for one, other in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("what", ["strategy", "topology"])
def test_a_file_with_a_typo(tmp_path, what):
    path = tmp_path / "mine.textproto"
    path.write_text('schema_version: 1\nnmae: "mine"\n')
    refused(
        StrategyError if what == "strategy" else TopologyError,
        r"mine\.textproto.*2.*nmae",
        quick(**{what: path}),
    )


@pytest.mark.parametrize("what", ["strategy", "topology"])
def test_a_file_that_is_not_there(tmp_path, what):
    refused(
        (StrategyError, TopologyError),
        "missing.textproto",
        quick(**{what: tmp_path / "missing.textproto"}),
    )


def test_devices_that_do_not_exist():
    topology = dataclasses.replace(
        local_topology(),
        name="theirs",
        devices=(*local_topology().devices[:3], Device("CPU:9")),
        connections=tuple(
            dataclasses.replace(c, ends=tuple("CPU:9" if e == "CPU:3" else e for e in c.ends))
            for c in local_topology().connections
        ),
    )
    refused(TopologyError, r"'CPU:9', which does not exist.*has: CPU:0", quick(topology=topology))


def test_a_strategy_with_a_device_too_many():
    chosen = split(lowering("vectors"), {"S": 2}, (0, 5))
    refused(
        StrategyError,
        r"placed on device 5, but the topology has devices 0 to 3",
        quick(strategy=chosen),
    )


def test_a_strategy_of_another_model():
    refused(
        StrategyError,
        r"has 16 configurations, but model 'vectors' has 6 operators",
        quick(strategy=NAMED["S"](lowering("images"))),
    )


@pytest.fixture
def file(tmp_path):
    soap = train(VECTORS, "sgd", strategy()).soap
    soap.save(tmp_path / "strategy.textproto")
    return tmp_path / "strategy.textproto"


def test_a_strategy_file_of_another_model(file):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((6,), name="x"),
            layers.Dense(12, name="inner"),
            layers.Dense(4, "softmax", name="class"),
        ]
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    refused(
        StrategyError, r"units of 'inner' has size 8 in it, but 12", quick(strategy=file), model
    )
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((6,), name="x"), layers.Dense(4, "softmax", name="other")]
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    refused(StrategyError, r"'(inner|other)'", quick(strategy=file), model)


def test_a_strategy_file_for_another_batch_size(file):
    refused(StrategyError, "batch size 8, not 4", quick(strategy=file), batch_size=4)


def test_a_strategy_file_for_another_machine(file):
    text = file.read_text()
    assert '"CPU:3"' in text
    file.write_text(text.replace('"CPU:3"', '"GPU:3"'))
    refused(StrategyError, r"GPU:3", quick(strategy=file))


def vectors_with(optimizer="sgd", inner=None, cls=keras.Sequential, **compile) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = cls(
        [keras.Input((6,)), inner or layers.Dense(8), layers.Dense(4, "softmax", name="class")],
        name="mine",
    )
    model.compile(optimizer, **{"loss": "sparse_categorical_crossentropy", **compile})
    return model


class OwnStep(keras.Sequential):
    def train_step(self, data):
        return super().train_step(data)


class OwnModel(keras.Model):
    def __init__(self):
        super().__init__(name="mine")
        self.dense = layers.Dense(4)

    def call(self, x):
        return tf.reverse(self.dense(x), [0])


def test_models_that_do_more_than_their_layers():
    refused(ExecutionError, r"'mine' overrides train_step\(\)", quick(), vectors_with(cls=OwnStep))
    refused(ExecutionError, "run_eagerly=True", quick(), vectors_with(run_eagerly=True))
    model = OwnModel()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    refused(CaptureError, r"'mine' is a OwnModel whose call\(\) cannot be captured", quick(), model)


def test_losses_that_cannot_be_split():
    loss = keras.losses.SparseCategoricalCrossentropy(reduction=None)
    model = vectors_with(loss=loss)
    before = model.get_weights()
    with pytest.raises(CaptureError, match="reduction=None, which cannot be summed"):
        model.fit(X, Y, batch_size=8, callbacks=[quick()], verbose=0)
    assert all(map(np.array_equal, model.get_weights(), before))


def test_losses_of_layers_that_cannot_be_split():
    own = layers.Dense(8, name="mine_too", activity_regularizer=lambda x: keras.ops.max(x))
    refused(
        CaptureError, "'mine_too' has the activity_regularizer", quick(), vectors_with(inner=own)
    )
    inner = keras.Sequential(
        [keras.Input((1, 3)), layers.Dense(8, name="mine_too", activity_regularizer="l2")]
    )
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Reshape((2, 1, 3)),
            layers.TimeDistributed(inner),
            layers.Flatten(),
            layers.Dense(4, "softmax"),
        ]
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    refused(CaptureError, "'mine_too' has the .* is part of another layer", quick(), model)


def test_regularizers_of_whole_weights_refuse_split_ones_only():
    regularizer = keras.regularizers.OrthogonalRegularizer(0.1)
    model = vectors_with(inner=layers.Dense(8, kernel_regularizer=regularizer))
    refused(
        ExecutionError,
        r"kernel has the regularizer OrthogonalRegularizer.*dims='SOA'",
        quick(strategy=strategy("P")),
        model,
    )


def test_optimizers_of_whole_weights_refuse_split_ones_only():
    plain = VECTORS.model(keras.optimizers.Lamb(0.01))
    plain.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
    whole = VECTORS.model(keras.optimizers.Lamb(0.01))
    whole.fit(
        X, Y, batch_size=8, shuffle=False, verbose=0, callbacks=[quick(strategy=strategy("S"))]
    )
    for one, other in zip(whole.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    refused(
        ExecutionError,
        "Lamb updates a weight as a whole, but the strategy splits .*dims='SOA'",
        quick(strategy=strategy("P")),
        VECTORS.model(keras.optimizers.Lamb(0.01)),
    )


def test_constraints_refuse_split_weights():
    model = vectors_with(inner=layers.Dense(8, kernel_constraint="max_norm"))
    refused(ExecutionError, "has the constraint", quick(strategy=strategy("P")), model)


class LayerOfLayers(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.LSTM(4)
        self.supports_masking = False

    def call(self, x):
        return tf.reverse(self.inner(x), [1])


def masked(after) -> keras.Model:
    keras.utils.set_random_seed(1)
    words = keras.Input((6,), dtype="int32")
    model = keras.Model(words, after(layers.Embedding(9, 4, mask_zero=True, name="table")(words)))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def test_masks_that_the_graph_does_not_show():
    x = np.random.default_rng(0).integers(0, 9, (16, 6)).astype("int32")
    refused(
        CaptureError,
        "Layer 'mine' .* with a mask.* cannot be opened up",
        quick(),
        masked(lambda e: LayerOfLayers(name="mine")(e)),
        x,
        Y[:16],
    )


def test_masks_that_are_made_in_nested_models():
    x = np.random.default_rng(0).integers(0, 9, (16, 6)).astype("int32")
    inner = keras.Sequential(
        [keras.Input((6,), dtype="int32"), layers.Embedding(9, 4, mask_zero=True)], name="mine"
    )
    words = keras.Input((6,), dtype="int32")
    model = keras.Model(words, layers.GlobalAveragePooling1D()(inner(words)))
    model.compile("sgd", "mse")
    refused(
        CaptureError, "Nested model 'mine' gives its output a mask", quick(), model, x, x[:, :4]
    )


def test_what_is_asked_for_before_training():
    soap = quick()
    for ask in (lambda: soap.layouts, lambda: soap.activations(X), lambda: soap.save("x")):
        with pytest.raises(ExecutionError, match=r"model\.fit first"):
            ask()


def test_logical_devices_are_made_before_tensorflow_starts():
    with pytest.raises(ExecutionError, match=r"num_devices=0 must be 1 or more"):
        use_logical_cpus(0)
    use_logical_cpus(4)
    with pytest.raises(ExecutionError, match="has started with 4 logical CPU devices"):
        use_logical_cpus(3)
