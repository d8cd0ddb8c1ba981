"""While several clients train, client 0 alone writes files; the others help it to gather.

1. `model.save` and `model.save_weights`, which callbacks call, first gather all weights, on all
   clients; then client 0 writes, and the others wait until it has written. A file gets its name
   when it is complete.
2. Keras's callbacks that write files, or send logs, do so on client 0 alone.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from keras.callbacks import (
    BackupAndRestore,
    CSVLogger,
    ModelCheckpoint,
    RemoteMonitor,
    TensorBoard,
)

from keras_soap.runtime.cluster import Cluster

PART = ".part-"
"""Before the name of a file that is being written."""

FILES = (".keras", ".h5")
"""Endings of names of models and weights that Keras writes to one file."""


def silence_callbacks() -> None:
    """Makes Keras's callbacks of this process, which is not client 0, write nothing, for good."""

    def nothing(*args: Any, **kwargs: Any) -> None:
        pass

    for name in ("on_train_begin", "on_epoch_end", "on_train_end"):
        setattr(CSVLogger, name, nothing)
    RemoteMonitor.on_epoch_end = nothing
    # The rest of it reads variables, which takes all clients.
    noop = property(lambda callback: tf.summary.create_noop_writer())
    TensorBoard._train_writer = TensorBoard._val_writer = noop
    TensorBoard._configure_embeddings = nothing
    TensorBoard._start_trace = TensorBoard._stop_trace = nothing
    # Here these only take part in the gathering, and make no folders.
    path, save = ModelCheckpoint._get_file_path, ModelCheckpoint._save_model
    ModelCheckpoint._get_file_path = lambda *args: os.path.basename(path(*args))
    ModelCheckpoint._save_model = _if_together(save)
    BackupAndRestore._save_model = _if_together(lambda callback: callback.model.save_weights(""))
    BackupAndRestore.on_train_end = nothing


def _if_together(save: Callable[..., None]) -> Callable[..., None]:
    """A method of a callback, which does nothing where each client trains a model of its own."""

    @functools.wraps(save)
    def saved(callback: keras.callbacks.Callback, *args: Any, **kwargs: Any) -> None:
        if "save" in vars(callback.model):
            save(callback, *args, **kwargs)

    return saved


class FirstClientWrites:
    """Changes how a model is written, until it is undone.

    Args:
        cluster: Whose clients train the model.
        model: The model.
        gather: Brings all of its variables up to date.
    """

    def __init__(self, cluster: Cluster, model: keras.Model, gather: Callable[[], None]):
        self._cluster = cluster
        self._model = model
        self._gather = gather
        self._log_weights = TensorBoard._log_weights

    def install(self) -> None:
        """From now on client 0 writes."""
        for name in ("save", "save_weights"):
            # Not set as an attribute, which Keras would track.
            save = complete(getattr(self._model, name))
            self._model.__dict__[name] = self._together("a checkpoint", save)
        # It reads one weight after the other, on client 0.
        log = self._together("a histogram of weights", self._log_weights)
        TensorBoard._log_weights = lambda callback, epoch: log(callback, epoch)

    def remove(self) -> None:
        """From now on everything is as it was."""
        for name in ("save", "save_weights"):
            self._model.__dict__.pop(name, None)
        TensorBoard._log_weights = self._log_weights

    def _together(self, what: str, write: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(write)
        def written(*args: Any, **kwargs: Any) -> Any:
            self._cluster.meet(what, None)
            self._gather()
            result = None
            if self._cluster.spec.client == 0:
                result = write(*args, **kwargs)
            # However long it takes: a client that has ended is noticed all the same.
            self._cluster.meet(f"{what} that is written", None, timeout_s=float("inf"))
            return result

        return written


def complete(save: Callable[..., Any]) -> Callable[..., Any]:
    """What saves a model or weights like `save`, but never leaves half a file under its name.

    Args:
        save: A model's `save` or `save_weights`.
    """

    @functools.wraps(save)
    def saved(filepath: Any, overwrite: bool = True, *args: Any, **kwargs: Any) -> Any:
        is_path = isinstance(filepath, (str, os.PathLike)) and "://" not in str(filepath)
        if not is_path or not overwrite or args or kwargs or not str(filepath).endswith(FILES):
            # Several files, or one in a store that shows whole files only.
            return save(filepath, overwrite, *args, **kwargs)
        path = Path(filepath)
        part = path.with_name(PART + path.name)
        try:
            save(str(part), overwrite)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    return saved
