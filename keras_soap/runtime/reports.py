"""Adds up what parts report of losses and metrics, into the states of Keras's metrics."""

import math
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf

from keras_soap.runtime.exchange import move, on
from keras_soap.runtime.step import StepTracer


def summed(numbers: Sequence[int], tracer: StepTracer, device: str) -> tf.Tensor:
    """What all parts of some operators report, on `device`."""
    arrived = []
    for number in numbers:
        for trace, source in zip(tracer.traces[number], tracer.devices(number), strict=True):
            assert trace.report is not None
            arrived.append(trace.report if source == device else move(trace.report, source, device))
    with on(device):
        return tf.add_n(arrived)


def add_states(added: tf.Tensor, variables: Sequence[keras.Variable]) -> None:
    """Adds to Keras's metrics what all parts have for their variables, flat."""
    for variable, value in _of_variables(added, variables):
        variable.assign_add(value)


def set_states(states: tf.Tensor, variables: Sequence[keras.Variable]) -> None:
    """Sets the variables of Keras's metrics to what one part has for them, flat."""
    for variable, value in _of_variables(states, variables):
        variable.assign(value)


def _of_variables(
    values: tf.Tensor, variables: Sequence[keras.Variable]
) -> Iterator[tuple[keras.Variable, tf.Tensor]]:
    start = 0
    for variable in variables:
        size = math.prod(variable.shape)
        value = tf.reshape(values[start : start + size], variable.shape)
        yield variable, tf.cast(value, variable.dtype)
        start += size
