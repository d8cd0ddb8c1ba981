"""Runs functions on one device, as tasks of a step run."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_soap.topology.local import sync_devices


def runner(
    function: Callable[[Sequence[tf.Tensor]], list[Any]],
    arguments: Sequence[tf.Tensor],
    device: str,
    copies: int = 1,
) -> Callable[[], list[tf.Tensor]]:
    """Runs `function` on the arguments, which are on `device`; has run once.

    Args:
        function: What to run. All that it makes is returned, so that nothing is pruned.
        arguments: Of the function.
        device: Where.
        copies: How often, one after the other.
    """

    @tf.function(
        autograph=False, input_signature=[tf.TensorSpec(x.shape, x.dtype) for x in arguments]
    )
    def run(*given: tf.Tensor) -> list[Any]:
        made: list[Any] = []
        before: list[Any] = []
        for _ in range(copies):
            with tf.device(device):
                if before:
                    # Only arguments wait: constants that did would be merged, into a cycle.
                    with tf.control_dependencies(before):
                        given = tuple(tf.identity(tensor) for tensor in given)
                before = function(given)
            made += before
        return made

    concrete = run.get_concrete_function()

    def call() -> list[tf.Tensor]:
        made = concrete(*arguments)
        sync_devices()
        return made

    call()
    return call


def on_device(values: Sequence[Any], device: str) -> list[tf.Tensor]:
    """Copies of the values on a device, in memory of their own."""
    with tf.device(device):
        return [tf.constant(np.array(value)) for value in values]
