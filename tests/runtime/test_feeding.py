"""Batches are taken in order, each once, and are on their devices before their step."""

import logging
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.python.eager import context

from keras_soap import SoapStrategy
from keras_soap.runtime import feeding
from keras_soap.runtime.feeding import Feeder
from tests.runtime.strategies import NAMED
from tests.runtime.subjects import KNOWN, lowering


@pytest.fixture
def feeder():
    made = Feeder(lambda batch: batch * 10)
    yield made
    made.close()


def test_batches_come_in_order_and_end(feeder):
    iterator = iter([1, 2, 3])
    assert [feeder.next(iterator) for _ in range(3)] == [10, 20, 30]
    with pytest.raises(StopIteration):
        feeder.next(iterator)
    assert feeder.next(iter([4])) == 40


def test_a_thread_that_takes_batches_keeps_its_executor(feeder, monkeypatch):
    # The end of an epoch waits for the executors of all threads; none may end meanwhile.
    monkeypatch.setattr(context.Context, "executor", property(lambda _: pytest.fail("swapped")))
    iterator = iter(tf.data.Dataset.range(3))
    assert [int(feeder.next(iterator)) for _ in range(3)] == [0, 10, 20]
    with pytest.raises(StopIteration):
        feeder.next(iterator)
    with pytest.raises(pytest.fail.Exception, match="swapped"):
        next(iter(tf.data.Dataset.range(3)))


def test_the_next_batch_is_taken_while_the_step_runs():
    taken = [threading.Event() for _ in range(3)]

    def batches():
        for number, event in enumerate(taken):
            event.set()
            yield number

    feeder = Feeder(lambda batch: batch)
    iterator = batches()
    feeder.next(iterator)
    assert not taken[1].is_set(), "the first batch is placed before"
    feeder.take_ahead()
    assert taken[1].wait(10), "the second batch is taken before it is asked for"
    assert not taken[2].is_set(), "and no more than that"
    feeder.close()


def test_a_batch_that_was_taken_ahead_is_for_the_next_epoch(feeder):
    endless = iter(range(100))

    def epoch():
        for _ in range(2):
            yield feeder.next(endless)
            feeder.take_ahead()

    assert list(epoch()) == [0, 10]
    # Nothing is asked for between epochs.
    assert list(epoch()) == [20, 30]


def test_what_goes_wrong_with_the_data_is_raised_at_its_step(feeder):
    def batches():
        yield 1
        raise ValueError("no more disk")

    iterator = batches()
    assert feeder.next(iterator) == 10
    with pytest.raises(ValueError, match="no more disk"):
        feeder.next(iterator)
    assert feeder.next(iter([5])) == 50


def test_closing_leaves_no_thread_behind():
    feeder = Feeder(lambda batch: batch)
    feeder.next(iter([1, 2]))
    feeder.take_ahead()
    feeder.close()
    names = [thread.name for thread in threading.enumerate()]
    assert not any(name.startswith("keras_soap_feed") for name in names)


def test_pieces_are_on_the_devices_that_read_them(monkeypatch):
    places: list[list[str]] = []
    trace = feeding.trace

    def noting(name, place, run):
        step = trace(name, place, run)

        def run_noted(*pieces):
            places.append(
                [tf.DeviceSpec.from_string(x.backing_device).device_index for x in pieces]
            )
            return step.run(*pieces)

        return feeding.FedStep(step.place, run_noted, step.tracing_seconds)

    monkeypatch.setattr("keras_soap.runtime.functions.trace", noting)
    facts = lowering("vectors")
    strategy = NAMED["S"](facts)
    model = KNOWN["vectors"].model()
    x, y, _ = KNOWN["vectors"].samples()
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[SoapStrategy(strategy=strategy, verbose=0)])
    # Each input by each part of its reader, and no other: the targets are read by the loss.
    readers = [
        feed.consumer for feed in sorted(facts.graph.feeds, key=lambda f: f.producer.operator)
    ]
    expected = [device for n in readers for device in strategy.configs[n].devices]
    assert places == [expected] * 5
    assert len(set(expected)) == 4


class Recorder(layers.Layer):
    """Remembers the batches that pass."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seen = self.add_weight(shape=(16,), initializer="zeros", trainable=False)

    def call(self, x):
        self.seen.assign(self.seen + keras.ops.one_hot(keras.ops.cast(x[0, 0], "int32"), 16))
        return x


def test_a_generator_loses_no_batch_between_epochs():
    def batches():
        for number in range(100):
            yield np.full((8, 6), number % 16, "float32"), np.zeros((8, 4), "float32")

    inputs = keras.Input((6,))
    recorder = Recorder(name="recorder")
    model = keras.Model(inputs, layers.Dense(4)(recorder(inputs)))
    model.compile("sgd", "mse")
    soap = SoapStrategy(method="data_parallel", verbose=0)
    model.fit(batches(), steps_per_epoch=4, epochs=3, verbose=0, callbacks=[soap])
    np.testing.assert_array_equal(recorder.seen.numpy(), [1] * 12 + [0] * 4)


def test_the_log_says_how_long_tracing_took(caplog):
    caplog.set_level(logging.INFO, logger="absl")
    model = KNOWN["vectors"].model()
    x, y, _ = KNOWN["vectors"].samples()
    soap = SoapStrategy(method="data_parallel", verbose=0)
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[soap], validation_split=0.2)
    messages = [record.getMessage() for record in caplog.records]
    for kind in ("training", "evaluation"):
        assert any(f"Traced a step of {kind} in" in message for message in messages)


class ByMode(layers.Layer):
    """Reads its first input in training, its second otherwise."""

    def call(self, inputs, training=False):
        return inputs[0] if training else inputs[1]


@pytest.mark.parametrize("method", ["data_parallel", "model_parallel"])
def test_what_training_reads_of_a_batch_need_not_be_what_evaluation_and_prediction_read(method):
    def build():
        keras.utils.set_random_seed(1)
        first, second = keras.Input((6,), name="first"), keras.Input((6,), name="second")
        chosen = ByMode(name="chosen")([first, second])
        # An input that is an output as well is handed out as a whole.
        outputs = {"scores": layers.Dense(4, name="scores")(chosen), "first": first}
        model = keras.Model([first, second], outputs)
        model.compile("sgd", {"scores": "mse"})
        return model

    rng = np.random.default_rng(0)
    x = [rng.normal(size=(24, 6)).astype("float32") for _ in range(2)]
    data = {"x": x, "y": {"scores": rng.normal(size=(24, 4)).astype("float32")}}
    said = []
    for soap in (None, SoapStrategy(method=method, verbose=0)):
        model = build()
        callbacks = [] if soap is None else [soap]
        fitted = model.fit(
            **data,
            batch_size=8,
            shuffle=False,
            verbose=0,
            callbacks=callbacks,
            validation_data=tuple(data.values()),
        )
        said.append((fitted.history, model.predict(x, verbose=0), model.get_weights()))
    (plain, outputs, weights), (ours, our_outputs, our_weights) = said
    assert plain.keys() == ours.keys()
    for key in plain:
        np.testing.assert_allclose(ours[key], plain[key], rtol=1e-5)
    for key in outputs:
        np.testing.assert_allclose(our_outputs[key], outputs[key], rtol=1e-4, atol=1e-5)
    for one, other in zip(our_weights, weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
