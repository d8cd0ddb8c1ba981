"""A Keras model trained by DTensor alone: SPMD, data-parallel over the devices of one mesh.

Weights and slots are replicated `DVariable`s, batches are split by sample, and DTensor finds the
rest. It runs what its SPMD expansion has rules for; `benchmarks/training.py` has it as a row.
"""

import os
from collections.abc import Callable
from typing import Any


def prepare_environment() -> None:
    """To be called before TensorFlow starts.

    With its default, a variable that is read after it was written in the same function may come
    out with its old value.
    """
    os.environ["DTENSOR_ENABLE_COMBINE_ALL_REDUCES_OPTIMIZATION"] = "0"


def step_function(model: Any, loss: Any, optimizer: Any, num_devices: int) -> Callable[..., float]:
    """Takes over the variables of `model` and `optimizer`; gives a function that runs a step.

    Args:
        model: Built.
        loss: A Keras loss.
        optimizer: Not built.
        num_devices: Logical CPU devices, among which a batch is split.
    """
    import numpy as np
    import tensorflow as tf
    from tensorflow.experimental import dtensor

    devices = [f"CPU:{number}" for number in range(num_devices)]
    mesh = dtensor.create_mesh([("batch", num_devices)], devices=devices)

    def take_over(variables: Any) -> None:
        for variable in variables:
            if "seed_generator" not in variable.path:
                value = variable._value.read_value()
                layout = dtensor.Layout.replicated(mesh, rank=len(value.shape))
                variable._value = dtensor.DVariable(dtensor.copy_to_mesh(value, layout))

    take_over(model.variables)
    # Optimizers know weights by their values.
    optimizer.build(model.trainable_variables)
    take_over(optimizer.variables)

    @tf.function(autograph=False)
    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        weights = [variable._value for variable in model.trainable_variables]
        optimizer.apply(tape.gradient(value, weights), model.trainable_variables)
        return value

    def split(batch: Any) -> Any:
        shards = np.split(np.asarray(batch), num_devices)
        layout = dtensor.Layout.batch_sharded(mesh, "batch", rank=shards[0].ndim)
        return dtensor.pack([tf.constant(shard) for shard in shards], layout)

    return lambda x, y: float(step(split(x), split(y)))
