"""Logical devices, to develop and test with several on a machine without GPUs."""

import os

import tensorflow as tf
from absl import logging

from keras_soap.errors import ExecutionError
from keras_soap.topology.local import num_cores

LOGICAL_CPUS = "KERAS_SOAP_LOGICAL_CPUS"
"""Set by `keras_soap.launch`: how many logical CPU devices each client has."""

FEWEST_THREADS = 2
"""So that an operation of the user's that does hold its thread stops nobody else."""


def use_logical_cpus(num_devices: int) -> None:
    """Makes `num_devices` logical CPU devices of the machine's CPU.

    Each of them computes in one thread, as if it were a core by itself, so that several do more
    than one; no more threads than there are cores, for which they would only contend. Numbers of
    threads that were given to `tf.config.threading` before are left alone.

    Call it before anything else touches TensorFlow's devices. In a client that
    `keras_soap.launch` has started, the launcher's number counts.

    Raises:
        ExecutionError: If TensorFlow has started its devices already.
    """
    if num_devices < 1:
        raise ExecutionError(f"num_devices={num_devices} must be 1 or more.")
    told = os.environ.get(LOGICAL_CPUS)
    if told and int(told) != num_devices:
        logging.info("%s logical CPU devices, as the launcher says, not %d.", told, num_devices)
        num_devices = int(told)
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * num_devices
        )
    except RuntimeError as error:
        present = len(tf.config.list_logical_devices("CPU"))
        if present == num_devices:
            return
        raise ExecutionError(
            f"TensorFlow has started with {present} logical CPU devices, so there cannot be "
            f"{num_devices} any more. Call use_logical_cpus before anything uses TensorFlow."
        ) from error
    threading = tf.config.threading
    if not threading.get_intra_op_parallelism_threads():
        threading.set_intra_op_parallelism_threads(1)
    if not threading.get_inter_op_parallelism_threads():
        # Operations that wait for another device hold no thread, so that none need be to spare.
        threads = max(FEWEST_THREADS, min(num_devices, num_cores()))
        threading.set_inter_op_parallelism_threads(threads)
