"""While several clients train, client 0 alone writes checkpoints; the others help it to gather.

1. `model.save` and `model.save_weights`, which callbacks call, first gather all weights, on all
   clients; then client 0 writes, and the others wait until it has written.
2. `BackupAndRestore` keeps its files on client 0 alone.
"""

import functools
from collections.abc import Callable
from typing import Any

import keras

from keras_soap.runtime.cluster import Cluster

BackupAndRestore = keras.callbacks.BackupAndRestore


class FirstClientWrites:
    """Changes what a model and Keras's callbacks write, until it is undone.

    Args:
        cluster: Whose clients train the model.
        model: The model.
        gather: Brings all of its variables up to date.
    """

    def __init__(self, cluster: Cluster, model: keras.Model, gather: Callable[[], None]):
        self._cluster = cluster
        self._model = model
        self._gather = gather
        self._kept: dict[str, Any] = {}

    def install(self) -> None:
        """From now on client 0 writes."""
        for name in ("save", "save_weights"):
            # Not set as an attribute, which Keras would track.
            self._model.__dict__[name] = self._saving(getattr(self._model, name))
        if self._cluster.spec.client:
            self._kept = {"_save_model": BackupAndRestore._save_model}
            BackupAndRestore._save_model = lambda callback: callback.model.save_weights("")
            # For good: fit calls it when this is undone, and client 0 deletes the folder.
            BackupAndRestore.on_train_end = lambda callback, logs=None: None

    def remove(self) -> None:
        """From now on everything is as it was."""
        for name in ("save", "save_weights"):
            self._model.__dict__.pop(name, None)
        for name, function in self._kept.items():
            setattr(BackupAndRestore, name, function)
        self._kept = {}

    def _saving(self, save: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(save)
        def saved(*args: Any, **kwargs: Any) -> Any:
            self._cluster.meet("a checkpoint", None)
            self._gather()
            result = None
            if self._cluster.spec.client == 0:
                result = save(*args, **kwargs)
            # However long it takes: a client that has ended is noticed all the same.
            self._cluster.meet("a checkpoint that is written", None, timeout_s=float("inf"))
            return result

        return saved
