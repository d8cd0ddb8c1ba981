"""Functions on one device while others compute."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from keras_soap.costs import running


def test_copies_run_one_after_the_other_and_all_that_they_make_is_there():
    counter = tf.Variable(0)

    def count(flat):
        return [flat[0] + 1, tf.identity(counter.assign_add(1))]

    made = running.runner(count, running.on_device([np.float32(2)], "CPU:0"), "CPU:0", copies=3)()
    # It has run once before.
    assert [float(x) for x in made[::2]] == [3, 3, 3]
    assert [int(x) for x in made[1::2]] == [4, 5, 6]


def test_what_one_thread_cannot_run_is_run_by_several(monkeypatch):
    def refuse(executor):
        raise tf.errors.UnimplementedError(None, None, executor)

    monkeypatch.setattr(tf.experimental, "function_executor_type", refuse)
    arguments = running.on_device([4.0], "CPU:0")
    call = running.runner(lambda flat: [flat[0] * 2], arguments, "CPU:0", in_one_thread=True)
    assert float(call()[0]) == 8


def test_others_compute_until_the_end_even_of_an_error(monkeypatch):
    calls = {"CPU:0": 0, "CPU:1": 0}
    both = threading.Event()

    def load(device):
        def call():
            calls[device] += 1
            if all(calls.values()):
                both.set()

        return call

    monkeypatch.setattr(running, "_load", load)

    def time_something():
        with running.busy(list(calls)):
            assert both.wait(30)
            raise ValueError("timing failed")

    with pytest.raises(ValueError, match="timing failed"):
        time_something()
    ended = dict(calls)
    assert not any(t.name.startswith("ThreadPoolExecutor") for t in threading.enumerate())
    assert calls == ended


def test_the_load_neither_overflows_nor_vanishes():
    product, large = running._load("CPU:0")()
    assert float(product[0, 0]) == 1
    assert float(large[0]) == 1
