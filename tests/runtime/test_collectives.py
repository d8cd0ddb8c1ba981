"""Reductions among logical CPUs, as if they were of several nodes, against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from keras_soap.runtime.collectives import REDUCTIONS, Reductions
from keras_soap.tasks.all_reduce import Rings, plan
from tests.runtime.traced import DEVICES, machine

NODES = [(0, 0, 0, 0), (0, 1, 2, 3), (0, 0, 1, 1), (1, 0, 1, 0), (0, 0, 0, 1), (0, 1, 1, 2)]


def on_each(values):
    tensors = []
    for device, value in zip(DEVICES, values, strict=True):
        with tf.device(device):
            tensors.append(tf.constant(value))
    return tensors


@pytest.mark.parametrize("nodes", NODES)
@pytest.mark.parametrize("shape", [(), (7,), (30_001,), (3, 5_000)])
@pytest.mark.parametrize("reduction", list(REDUCTIONS))
def test_every_device_ends_with_the_same_bits_of_the_whole(nodes, shape, reduction):
    topology = machine(nodes)
    values = np.random.default_rng(0).normal(size=(4, *shape)).astype("float32")
    large = len(shape) and max(shape) > 10**4
    if large and len(set(nodes)) > 1:
        phases = plan(topology, range(4), shape[0], 4).phases
        assert any(isinstance(phase, Rings) for phase in phases), "too small for a ring"

    @tf.function(autograph=False)
    def run(*tensors):
        result = Reductions(topology, DEVICES).reduce(tensors, DEVICES, reduction)
        assert [tensor.device for tensor in result] == DEVICES
        return result

    found = run(*on_each(values))
    for tensor in found:
        np.testing.assert_array_equal(tensor, found[0])
    whole = values.astype("float64").sum(0) if reduction == "sum" else values.max(0)
    np.testing.assert_allclose(found[0], whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("nodes", NODES)
def test_rows_of_sparse_gradients_arrive_in_the_order_of_devices(nodes):
    values = np.arange(4 * 3 * 2, dtype="float32").reshape(4, 3, 2)
    indices = np.arange(12).reshape(4, 3)
    shape = on_each([(20, 2)] * 4)

    def gather(values, indices, shape):
        slices = [tf.IndexedSlices(*each) for each in zip(values, indices, shape, strict=True)]
        result = Reductions(machine(nodes), DEVICES).gather_slices(slices, DEVICES)
        assert [each.values.device for each in result] == DEVICES
        return result

    found = tf.function(gather, autograph=False)(on_each(values), on_each(indices), shape)
    for each in found:
        np.testing.assert_array_equal(each.values, values.reshape(12, 2))
        np.testing.assert_array_equal(each.indices, indices.ravel())


@pytest.mark.parametrize("devices", [DEVICES, DEVICES[:1]])
def test_tensors_that_are_reduced_together_keep_their_shapes(devices):
    random = np.random.default_rng(0)
    values = [random.normal(size=(len(devices), *s)).astype("float32") for s in ((3, 2), (), (5,))]

    @tf.function(autograph=False)
    def run(*tensors):
        own = list(zip(*tensors, strict=True))
        return Reductions(machine((0, 0, 1, 1)), DEVICES).reduce_together(own, devices)

    found = run(*([value[rank] for rank in range(len(devices))] for value in values))
    for of_device in found:
        for tensor, value in zip(of_device, values, strict=True):
            assert tensor.shape == value.shape[1:]
            np.testing.assert_allclose(tensor, value.sum(0), rtol=1e-6)
