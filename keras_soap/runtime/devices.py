"""Logical devices, to develop and test with several on a machine without GPUs."""

import tensorflow as tf

from keras_soap.errors import ExecutionError


def use_logical_cpus(num_devices: int) -> None:
    """Makes `num_devices` logical CPU devices of the machine's CPU.

    Call it before anything else touches TensorFlow's devices.

    Raises:
        ExecutionError: If TensorFlow has started its devices already.
    """
    if num_devices < 1:
        raise ExecutionError(f"num_devices={num_devices} must be 1 or more.")
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
