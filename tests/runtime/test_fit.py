"""`model.fit` under a strategy does what it does without, with all that users put around it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_soap import SoapStrategy
from tests.runtime.fitting import (
    FIT,
    MORE_X,
    MORE_Y,
    VECTORS,
    Interrupted,
    X,
    Y,
    assert_equal_histories,
    assert_equal_weights,
    both,
    soap,
)
from tests.runtime.strategies import NAMED, split
from tests.runtime.subjects import SUBJECTS, lowering


@pytest.mark.parametrize("size", [29, 26])
def test_the_last_batch_may_be_smaller_and_of_any_size(size):
    # Five samples, which nothing divides, and two.
    both(x=MORE_X[:size], y=MORE_Y[:size], validation_data=(MORE_X[:size], MORE_Y[:size]))


def test_data_sets_with_partial_batches():
    data = tf.data.Dataset.from_tensor_slices((MORE_X, MORE_Y)).batch(8)
    both(x=data, y=None)


def test_data_sets_of_dictionaries_with_weights():
    x, y, weights = SUBJECTS["family"].samples()
    data = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(8).repeat()
    models = [SUBJECTS["family"].model() for _ in range(2)]
    strategy = NAMED["S and P"](lowering("family"))
    arguments = {"steps_per_epoch": 4, "epochs": 2, "verbose": 0}
    plain = models[0].fit(data, **arguments)
    ours = models[1].fit(data, callbacks=[SoapStrategy(strategy=strategy, verbose=0)], **arguments)
    assert_equal_histories(ours, plain)
    assert_equal_weights(models[1], models[0])


def test_validation_evaluate_predict_and_save_give_what_plain_keras_gives(tmp_path):
    plain, ours = both(validation_data=(X[:11], Y[:11]), epochs=3)
    assert ours.evaluate(MORE_X, MORE_Y, verbose=0) == pytest.approx(
        plain.evaluate(MORE_X, MORE_Y, verbose=0)
    )
    np.testing.assert_allclose(
        ours.predict(MORE_X, verbose=0), plain.predict(MORE_X, verbose=0), rtol=1e-5, atol=1e-6
    )
    ours.save(tmp_path / "ours.keras")
    again = keras.models.load_model(tmp_path / "ours.keras")
    assert again.evaluate(MORE_X, MORE_Y, verbose=0) == pytest.approx(
        plain.evaluate(MORE_X, MORE_Y, verbose=0)
    )
    for one, other in zip(again.optimizer.variables, plain.optimizer.variables, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("of", ["training", "validation"])
def test_there_may_be_sample_weights_in_training_alone_or_in_validation_alone(of):
    weights = np.random.default_rng(3).uniform(0.5, 2, len(X)).astype("float32")
    fit = {"validation_data": (X, Y, weights)}
    if of == "training":
        fit = {"validation_data": (X, Y), "sample_weight": weights}
    plain, ours = (VECTORS.model("adam") for _ in range(2))
    soap = SoapStrategy(method="model_parallel", verbose=0)
    histories = [
        model.fit(X, Y, callbacks=callbacks, **fit, **FIT)
        for model, callbacks in ((plain, []), (ours, [soap]))
    ]
    for key, values in histories[0].history.items():
        np.testing.assert_allclose(histories[1].history[key], values, rtol=1e-5)
    assert_equal_weights(ours, plain)


def test_evaluate_and_predict_run_under_the_strategy_when_it_is_passed():
    plain, ours = (VECTORS.model() for _ in range(2))
    ours_soap = soap()
    plain.fit(X, Y, **FIT)
    ours.fit(X, Y, callbacks=[ours_soap], **FIT)
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            seen.append(type(self.model.test_function).__name__)

    scores = ours.evaluate(X, Y, verbose=0, callbacks=[ours_soap, Watch()])
    assert scores == pytest.approx(plain.evaluate(X, Y, verbose=0), rel=1e-5)
    assert set(seen) == {"method"}
    made = ours.predict(X, verbose=0, callbacks=[ours_soap])
    np.testing.assert_allclose(made, plain.predict(X, verbose=0), rtol=1e-5, atol=1e-6)
    assert_equal_weights(ours, plain)


def test_a_saved_model_loads_without_this_package(tmp_path, in_new_process):
    _, ours = both()
    ours.save(tmp_path / "model.keras")
    np.save(tmp_path / "expected.npy", ours.predict(X, verbose=0))
    np.save(tmp_path / "x.npy", X)
    in_new_process(
        f"""
        import sys, keras, numpy as np
        model = keras.models.load_model({str(tmp_path / "model.keras")!r})
        made = model.predict(np.load({str(tmp_path / "x.npy")!r}), verbose=0)
        expected = np.load({str(tmp_path / "expected.npy")!r})
        assert np.allclose(made, expected, rtol=1e-5, atol=1e-6)
        assert not any(name.startswith("keras_soap") for name in sys.modules)
        print("loaded")
        """,
        says="loaded",
    )


def test_learning_rate_schedules_count_the_steps():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.05, 2, 0.5)
    _, ours = both(optimizer=lambda: keras.optimizers.SGD(schedule, momentum=0.9))
    assert int(ours.optimizer.iterations) == 6


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.AdamW(0.001, weight_decay=0.1, clipvalue=0.01),
        lambda: keras.optimizers.RMSprop(0.001, momentum=0.9, centered=True),
        lambda: keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True, use_ema=True),
        lambda: keras.optimizers.SGD(0.01, gradient_accumulation_steps=2),
    ],
    ids=["AdamW", "RMSprop", "average", "accumulation"],
)
def test_other_optimizers_train_as_in_keras(optimizer):
    both(optimizer=optimizer)


def test_plain_keras_continues_as_if_never_interrupted():
    plain, ours = both()
    for model in (plain, ours):
        model.fit(X, Y, **FIT)
    assert_equal_weights(ours, plain)
    assert int(ours.optimizer.iterations) == 12


def test_the_strategy_continues_what_plain_keras_began():
    plain, ours = (VECTORS.model("adam") for _ in range(2))
    plain.fit(X, Y, **FIT)
    ours.fit(X, Y, **FIT)
    plain.fit(X, Y, **FIT)
    ours.fit(X, Y, callbacks=[soap()], **FIT)
    assert_equal_weights(ours, plain)


def test_one_callback_serves_several_fits_with_changes_in_between():
    plain, ours = (VECTORS.model("adam") for _ in range(2))
    callback = soap()
    for model, callbacks in ((plain, []), (ours, [callback])):
        model.fit(X, Y, callbacks=callbacks, **FIT)
        model.set_weights([0.5 * w for w in model.get_weights()])
        model.optimizer.learning_rate = 0.01
        model.fit(X, Y, callbacks=callbacks, **FIT)
    assert_equal_weights(ours, plain)


def test_recompiling_between_fits_takes_effect():
    plain, ours = (VECTORS.model("adam") for _ in range(2))
    callback = soap()
    for model, callbacks in ((plain, []), (ours, [callback])):
        model.fit(X, Y, callbacks=callbacks, **FIT)
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        model.fit(X, Y, callbacks=callbacks, **FIT)
    assert_equal_weights(ours, plain)


def test_several_steps_per_execution():
    def model():
        keras.utils.set_random_seed(1)
        model = VECTORS.build()
        model.compile("adam", **VECTORS.compile(), steps_per_execution=3)
        return model

    plain, ours = model(), model()
    arguments = {**FIT, "validation_data": (X[:18], Y[:18])}
    expected = plain.fit(MORE_X[:28], MORE_Y[:28], **arguments)
    actual = ours.fit(MORE_X[:28], MORE_Y[:28], callbacks=[soap()], **arguments)
    assert_equal_histories(actual, expected)
    assert_equal_weights(ours, plain)


def test_an_exception_in_the_data_leaves_a_usable_model():
    def batches():
        for start in (0, 8, 16):
            yield X[start : start + 8], Y[start : start + 8]
        raise Interrupted

    plain, ours = (VECTORS.model("adam") for _ in range(2))
    plain.fit(X, Y, **{**FIT, "epochs": 1})
    with pytest.raises(Exception, match="Interrupted"):
        ours.fit(batches(), callbacks=[soap()], verbose=0)
    assert_equal_weights(ours, plain)
    for model in (plain, ours):
        model.fit(X, Y, **FIT)
    assert_equal_weights(ours, plain)
    assert ours.evaluate(X, Y, verbose=0) == pytest.approx(plain.evaluate(X, Y, verbose=0))


def test_a_search_finds_a_strategy_prints_it_and_trains(capfd):
    plain, ours = (VECTORS.model("adam") for _ in range(2))
    plain.fit(X, Y, **FIT)
    callback = SoapStrategy(search_budget_s=0.5, seed=3, profile="analytic")
    ours.fit(X, Y, callbacks=[callback], **FIT)
    assert_equal_weights(ours, plain)
    assert callback.result is not None
    assert callback.result.strategy == callback.strategy
    printed = capfd.readouterr().out
    assert "inner" in printed
    assert "data_parallel" in printed.replace(" ", "_")


def test_a_saved_strategy_trains_without_a_search(tmp_path):
    plain, ours = (VECTORS.model("adam") for _ in range(2))
    first = soap()
    plain.fit(X, Y, callbacks=[first], **FIT)
    first.save(tmp_path / "strategy.textproto")
    second = SoapStrategy(strategy=tmp_path / "strategy.textproto", verbose=0)
    ours.fit(X, Y, callbacks=[second], **FIT)
    assert second.strategy == first.strategy
    assert second.result is None
    assert_equal_weights(ours, plain)


def test_the_same_seed_trains_the_same_to_the_last_bit():
    runs = []
    for _ in range(2):
        model = VECTORS.model("adam")
        model.fit(X, Y, callbacks=[soap()], **FIT)
        runs.append(model.get_weights())
    assert all(np.array_equal(one, other) for one, other in zip(*runs, strict=True))


def test_frozen_layers_stay_as_they_are():
    def model():
        keras.utils.set_random_seed(1)
        model = VECTORS.build()
        model.get_layer("inner").trainable = False
        model.compile("adam", **VECTORS.compile())
        return model

    plain, ours = model(), model()
    frozen = plain.get_layer("inner").kernel.numpy()
    plain.fit(X, Y, **FIT)
    callback = SoapStrategy(search_budget_s=0.2, profile="analytic", verbose=0)
    ours.fit(X, Y, callbacks=[callback], **FIT)
    assert_equal_weights(ours, plain)
    assert np.array_equal(ours.get_layer("inner").kernel.numpy(), frozen)


def test_the_same_seed_drops_the_same():
    def model():
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [keras.Input((6,)), layers.Dense(8), layers.Dropout(0.5), layers.Dense(4, "softmax")]
        )
        model.compile("adam", "sparse_categorical_crossentropy")
        return model

    runs = []
    for _ in range(2):
        ours = model()
        ours.fit(X, Y, callbacks=[SoapStrategy(method="data_parallel", verbose=0)], **FIT)
        runs.append(ours.get_weights())
    assert all(np.array_equal(one, other) for one, other in zip(*runs, strict=True))


def test_one_device_says_so_and_trains(in_new_process):
    in_new_process(
        """
        import keras, numpy as np
        from keras_soap import SoapStrategy
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        before = model.get_weights()
        x = np.ones((8, 4), "float32")
        model.fit(x, x[:, :1], verbose=0, callbacks=[SoapStrategy()])
        assert not np.array_equal(before[0], model.get_weights()[0])
        """,
        says="one device (CPU:0): nothing to parallelize",
    )


def test_splitting_everything_on_devices_in_another_order():
    devices = (2, 0, 3, 1)
    strategy = split(lowering("vectors"), {"S": 4}, devices)
    plain, ours = (VECTORS.model("adam") for _ in range(2))
    plain.fit(X, Y, **FIT)
    ours.fit(X, Y, callbacks=[SoapStrategy(strategy=strategy, verbose=0)], **FIT)
    assert_equal_weights(ours, plain)


def test_dropout_drops_in_training_and_not_in_evaluation():
    x = keras.Input((64,))
    dropped = layers.Dropout(0.5, seed=1)(x)
    y = layers.Dense(1, use_bias=False, kernel_initializer="ones", trainable=False)(dropped)
    shift = layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = keras.Model(x, layers.Add()([y, shift(x)]))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    ones, sums = np.ones((32, 64), "float32"), np.full((32, 1), 64, "float32")
    history = model.fit(
        ones,
        sums,
        batch_size=16,
        verbose=0,
        callbacks=[SoapStrategy(search_budget_s=0.2, profile="analytic", verbose=0)],
    )
    # The variance of a sum of 64 terms that are 0 or 2 is 64.
    assert 20 < history.history["loss"][0] < 200
    assert model.evaluate(ones, sums, verbose=0) == 0
