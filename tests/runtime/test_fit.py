"""`model.fit` under a strategy does what it does without, with all that users put around it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_soap import SoapStrategy
from tests.runtime.strategies import NAMED, split
from tests.runtime.subjects import SUBJECTS, lowering, weights_of

VECTORS = SUBJECTS["vectors"]
MORE_X = np.random.default_rng(0).normal(size=(29, 6)).astype("float32")
MORE_Y = np.random.default_rng(1).integers(0, 4, 29)
X, Y = MORE_X[:24], MORE_Y[:24]
FIT = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0}


def soap(name="S and P", **arguments):
    strategy = NAMED[name](lowering("vectors"))
    return SoapStrategy(strategy=strategy, verbose=0, **arguments)


def assert_equal_weights(actual: keras.Model, expected: keras.Model) -> None:
    for path, value in weights_of(expected).items():
        np.testing.assert_allclose(weights_of(actual)[path], value, rtol=1e-5, atol=2e-6)
    for one, other in zip(actual.optimizer.variables, expected.optimizer.variables, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-4, atol=1e-6)


def assert_equal_histories(actual, expected) -> None:
    assert actual.history.keys() == expected.history.keys()
    for key, values in expected.history.items():
        np.testing.assert_allclose(actual.history[key], values, rtol=1e-5, atol=1e-6)


def both(optimizer="adam", make_callbacks=lambda: [], x=X, y=Y, name="S and P", **fit):
    """Trains with and without a strategy; checks that all is equal; gives both models."""
    models = [VECTORS.model(optimizer() if callable(optimizer) else optimizer) for _ in range(2)]
    fit = {**FIT, **fit}
    if isinstance(x, tf.data.Dataset):
        fit.pop("batch_size")
    plain = models[0].fit(x, y, callbacks=make_callbacks(), **fit)
    ours = models[1].fit(x, y, callbacks=[soap(name), *make_callbacks()], **fit)
    assert_equal_histories(ours, plain)
    assert_equal_weights(models[1], models[0])
    return models


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


class Meddler(keras.callbacks.Callback):
    """Looks at the weights in every step, and sets some of them now and then."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append([w.copy() for w in self.model.get_weights()])
        if batch == 1:
            self.model.set_weights([0.5 * w for w in self.model.get_weights()])
        if batch == 2:
            self.model.get_layer("inner").kernel.assign_add(np.full((6, 8), 0.01, "float32"))
            self.seen.append([self.model.get_layer("inner").kernel.numpy()])


def test_callbacks_see_and_set_the_weights_in_the_middle_of_an_epoch():
    meddlers = []

    def make():
        meddlers.append(Meddler())
        return [meddlers[-1]]

    both(make_callbacks=make)
    plain, ours = meddlers
    assert len(plain.seen) == len(ours.seen) > 6
    for step, (expected, actual) in enumerate(zip(plain.seen, ours.seen, strict=True)):
        for one, other in zip(actual, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-6, err_msg=f"step {step}")


class Looker(keras.callbacks.Callback):
    """Calls, evaluates and predicts in the middle of an epoch, in all ways there are."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        model, x = self.model, X[:8]
        if batch == 0:
            self.traced = tf.function(lambda x: self.model(x, training=False))
        if batch in (1, 2):
            self.seen += [
                self.traced(x).numpy(),
                model.predict_on_batch(x),
                model(x, training=False).numpy(),
                model.predict(x, verbose=0),
                keras.Model(model.inputs, model.layers[0].output)(x).numpy(),
            ]


def test_callbacks_can_call_and_predict_in_the_middle_of_an_epoch():
    lookers = []

    def make():
        lookers.append(Looker())
        return [lookers[-1]]

    both(optimizer=lambda: keras.optimizers.SGD(0.5), make_callbacks=make)
    plain, ours = lookers
    assert len(plain.seen) == 20
    for number, (expected, actual) in enumerate(zip(plain.seen, ours.seen, strict=True)):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5, err_msg=f"{number}")


def test_schedules_of_callbacks_take_effect():
    _, ours = both(
        make_callbacks=lambda: [
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.3),
            keras.callbacks.ReduceLROnPlateau("loss", factor=0.1, patience=0, min_delta=10),
        ],
        epochs=3,
    )
    assert float(ours.optimizer.learning_rate) < 1e-5


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


def test_early_stopping_restores_the_best_weights():
    _, ours = both(
        optimizer=lambda: keras.optimizers.SGD(3.0),
        make_callbacks=lambda: [
            keras.callbacks.EarlyStopping(
                "val_loss", patience=1, restore_best_weights=True, mode="max"
            )
        ],
        validation_data=(X[:10], Y[:10]),
        epochs=5,
    )
    assert int(ours.optimizer.iterations) < 5 * 3


def test_checkpoints_hold_the_weights_of_their_moment(tmp_path):
    which = iter(["plain", "ours"])

    def make():
        folder = tmp_path / next(which)
        folder.mkdir()
        return [
            keras.callbacks.ModelCheckpoint(f"{folder}/{{epoch}}.keras", save_freq="epoch"),
            keras.callbacks.ModelCheckpoint(
                f"{folder}/{{epoch}}-{{batch}}.weights.h5", save_freq=2, save_weights_only=True
            ),
            keras.callbacks.BackupAndRestore(f"{folder}/backup", delete_checkpoint=False),
        ]

    both(make_callbacks=make)
    names = sorted(path.name for path in (tmp_path / "plain").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "ours").iterdir())
    assert len(names) >= 5
    for name in names:
        if name.endswith(".keras"):
            models = [keras.models.load_model(tmp_path / who / name) for who in ("plain", "ours")]
        elif name.endswith(".h5"):
            models = [VECTORS.model("adam") for _ in range(2)]
            for model, who in zip(models, ("plain", "ours"), strict=True):
                model.load_weights(tmp_path / who / name)
        else:
            continue
        for one, other in zip(*(model.get_weights() for model in models), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-6)


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


class Interrupted(Exception):
    """Raised in the middle of training."""


class Interrupt(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            raise Interrupted


def test_an_exception_in_a_callback_leaves_a_usable_model():
    plain, ours = (VECTORS.model("adam") for _ in range(2))
    plain.fit(X[:16], Y[:16], **{**FIT, "epochs": 1})
    with pytest.raises(Interrupted):
        ours.fit(X, Y, callbacks=[soap(), Interrupt()], **FIT)
    assert ours.evaluate(X, Y, verbose=0) == pytest.approx(plain.evaluate(X, Y, verbose=0))
    assert_equal_weights(ours, plain)
    for model in (plain, ours):
        model.fit(X, Y, **FIT)
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
    callback = SoapStrategy(search_budget_s=0.5, seed=3)
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
    callback = SoapStrategy(search_budget_s=0.2, verbose=0)
    ours.fit(X, Y, callbacks=[callback], **FIT)
    assert_equal_weights(ours, plain)
    assert np.array_equal(ours.get_layer("inner").kernel.numpy(), frozen)


def test_dropout_trains_and_evaluation_drops_nothing():
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
    assert ours.evaluate(X, Y, verbose=0) == ours.evaluate(X, Y, verbose=0)


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
        callbacks=[SoapStrategy(search_budget_s=0.2, verbose=0)],
    )
    # The variance of a sum of 64 terms that are 0 or 2 is 64.
    assert 20 < history.history["loss"][0] < 200
    assert model.evaluate(ones, sums, verbose=0) == 0
