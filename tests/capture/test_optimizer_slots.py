"""What optimizers keep beside weights, against what they build."""

import keras
import pytest

from keras_soap import planning
from keras_soap.capture.optimizer_slots import num_slots

OPTIMIZERS = {
    "sgd": (lambda: keras.optimizers.SGD(), 0),
    "momentum": (lambda: keras.optimizers.SGD(momentum=0.9), 1),
    "adam": (lambda: keras.optimizers.Adam(), 2),
    "amsgrad": (lambda: keras.optimizers.Adam(amsgrad=True), 3),
    "average": (lambda: keras.optimizers.SGD(use_ema=True), 1),
    "accumulation": (lambda: keras.optimizers.Adam(gradient_accumulation_steps=2), 3),
    "scaled": (lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.RMSprop()), 1),
}


def model(optimizer=None):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8), keras.layers.Dense(4)])
    if optimizer is not None:
        model.compile(optimizer, "mse")
    return model


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_slots_are_those_that_the_optimizer_builds(name):
    make, slots = OPTIMIZERS[name]
    compiled = model(make())
    assert num_slots(compiled) == slots
    compiled.optimizer.build(compiled.trainable_variables)
    shapes = [tuple(variable.shape) for variable in compiled.optimizer.variables]
    assert shapes.count((6, 8)) == slots


def test_plans_count_what_the_optimizer_keeps():
    def peaks(optimizer):
        plan = planning.simulate(model(optimizer), topology="p100:2", batch_size=4)
        return plan.evaluation.peak_memory_bytes

    weights = 4 * sum(v.shape.num_elements() for v in (x.value for x in model().weights))
    plain, adam = peaks(keras.optimizers.SGD()), peaks(keras.optimizers.Adam())
    assert [b - a for a, b in zip(plain, adam, strict=True)] == [2 * weights] * 2
    assert peaks(None) == adam
