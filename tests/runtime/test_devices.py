"""Logical CPU devices, on a TensorFlow that has not started: its configuration is played."""

import pytest
import tensorflow as tf

from keras_soap.runtime import devices


@pytest.fixture
def threads(monkeypatch):
    """What TensorFlow is told, by name; 0 is what it says of what it was not."""
    told = {"intra_op": 0, "inter_op": 0}
    monkeypatch.delenv(devices.LOGICAL_CPUS, raising=False)
    monkeypatch.setattr(tf.config, "set_logical_device_configuration", lambda cpu, each: None)
    for name in told:
        getter, setter = f"get_{name}_parallelism_threads", f"set_{name}_parallelism_threads"
        monkeypatch.setattr(tf.config.threading, getter, lambda name=name: told[name])
        monkeypatch.setattr(
            tf.config.threading, setter, lambda count, name=name: told.__setitem__(name, count)
        )
    return told


@pytest.mark.parametrize(
    ("num_devices", "num_cores", "expected"), [(4, 8, 4), (8, 4, 4), (1, 8, 2), (4, 1, 2)]
)
def test_devices_have_a_thread_each_but_no_more_than_there_are_cores_for(
    threads, monkeypatch, num_devices, num_cores, expected
):
    monkeypatch.setattr(devices, "num_cores", lambda: num_cores)
    devices.use_logical_cpus(num_devices)
    assert threads == {"intra_op": 1, "inter_op": expected}


def test_numbers_of_threads_that_were_given_before_are_left_alone(threads):
    threads.update(intra_op=3, inter_op=7)
    devices.use_logical_cpus(2)
    assert threads == {"intra_op": 3, "inter_op": 7}
