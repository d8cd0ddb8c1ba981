"""Runs functions on one device, as tasks of a step run, while the others compute.

Logical CPUs share memory, its bandwidth and cores. So while one of them is timed the others do what
a step is made of: they multiply matrices, and go through memory. And it computes in one thread
only, since that threads of idle devices would help is for the simulator to say (`Device.pool`).
Where one task at a time has all cores, it is timed alone, in all threads. GPUs have memory and
cores of their own.
"""

import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_soap.topology.local import sync_devices

LOAD_SIZE = 512
"""Rows and columns of the matrices that others multiply: they stay in a core's own cache."""

LOAD_BYTES = 2**24
"""Of the tensor that they go through, which does not stay there. One product and two passes over it
took about the same time."""

LOAD_ROUNDS = 4
"""In one call, which is some milliseconds: Python's threads seldom wait for each other."""


def runner(
    function: Callable[[Sequence[tf.Tensor]], list[Any]],
    arguments: Sequence[tf.Tensor],
    device: str,
    copies: int = 1,
    in_one_thread: bool = False,
) -> Callable[[], list[tf.Tensor]]:
    """Runs `function` on the arguments, which are on `device`; has run once.

    Args:
        function: What to run. All that it makes is returned, so that nothing is pruned.
        arguments: Of the function.
        device: Where.
        copies: How often, one after the other.
        in_one_thread: Whether in the thread that calls, where that can be done.
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

    def call_in_one_thread() -> list[tf.Tensor]:
        with tf.experimental.function_executor_type("SINGLE_THREADED_EXECUTOR"):
            return concrete(*arguments)

    if in_one_thread:
        try:
            call_in_one_thread()
            return call_in_one_thread
        except tf.errors.OpError:  # It cannot run everything; the usual executor can.
            pass
    call()
    return call


@contextlib.contextmanager
def busy(devices: Sequence[str]) -> Iterator[None]:
    """Keeps `devices` computing."""
    if not devices:
        yield
        return
    stop = threading.Event()
    calls = [_load(device) for device in devices]

    def work(call: Callable[[], object]) -> None:
        while not stop.is_set():
            call()

    with concurrent.futures.ThreadPoolExecutor(len(devices)) as threads:
        try:
            working = [threads.submit(work, call) for call in calls]
            yield
        finally:
            stop.set()
        for of_device in working:
            of_device.result()


def _load(device: str) -> Callable[[], object]:
    def rounds(given: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        matrix, large = given
        product = matrix
        for _ in range(LOAD_ROUNDS):
            product = tf.matmul(product, matrix)
            # One after the other, so that it is half of the time and not of the threads.
            with tf.control_dependencies([product]):
                large = tf.negative(tf.negative(large))
            with tf.control_dependencies([large]):
                product = tf.identity(product)
        return [product[:1, :1], large[:1]]

    # Powers of the identity neither overflow nor vanish.
    values = [np.eye(LOAD_SIZE, dtype="float32"), np.ones(LOAD_BYTES // 4, "float32")]
    return runner(rounds, on_device(values, device), device, in_one_thread=True)


def on_device(values: Sequence[Any], device: str) -> list[tf.Tensor]:
    """Copies of the values on a device, in memory of their own."""
    with tf.device(device):
        return [tf.constant(np.array(value)) for value in values]
