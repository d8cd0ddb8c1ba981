"""What is refused before training: programs, models and batches."""

import os

import keras
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer

from keras_soap.errors import ClusterError, ExecutionError, StrategyError
from keras_soap.runtime import cluster
from keras_soap.runtime.cluster_spec import from_environment


def check_joined() -> None:
    """Raises `ClusterError` if there are clients that this program has not joined."""
    spec = None if cluster.current() else from_environment(os.environ)
    if spec is not None and spec.num_clients > 1:
        raise ClusterError(
            f"{spec.source} says that this is client {spec.client} of {spec.num_clients}, but the "
            "program has not joined them. Call keras_soap.join_cluster() at its beginning."
        )


def check_model(model: keras.Model) -> None:
    """Raises `ExecutionError` if a model's training is not that of Keras."""
    for name in ("train_step", "compute_loss", "compute_metrics"):
        original = getattr(TensorFlowTrainer, name)
        if getattr(type(model), name) is not original:
            raise ExecutionError(
                f"Model {model.name!r} overrides {name}(), which a strategy would not run. "
                "Express it with losses and metrics passed to compile()."
            )
    if model.run_eagerly:
        raise ExecutionError(
            f"Model {model.name!r} is compiled with run_eagerly=True, but a strategy is one "
            "traced function. Compile it without."
        )


def check_batch_size(batch_size: int, num_devices: int, dims: str) -> None:
    """Raises `StrategyError` if samples of a batch cannot be split, but should be."""
    if "S" in dims and all(batch_size % degree for degree in range(2, num_devices + 1)):
        raise StrategyError(
            f"A batch of {batch_size} samples cannot be split into equal parts on up to "
            f"{num_devices} devices. Use a batch_size that is a multiple of "
            f"{num_devices}, or dims='OAP' to split everything but samples."
        )
