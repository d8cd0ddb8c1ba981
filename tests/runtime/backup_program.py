"""Run by `keras_soap.launch`: trains a small model with a backup; a client may be killed.

python -m keras_soap.launch … -- tests/runtime/backup_program.py FOLDER [CLIENT EPOCH]
"""

import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_soap

EPOCHS = 4


def model(units: int = 8) -> keras.Model:
    """Compiled, always with the same weights."""
    keras.utils.set_random_seed(3)
    network = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(units, "relu", name="inner"),
            keras.layers.Dense(4, "softmax", name="class"),
        ]
    )
    network.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    return network


def data():
    """Samples and classes."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(64, 6)).astype("float32"), rng.integers(0, 4, 64)


class Kill(keras.callbacks.Callback):
    """Kills its own process in the middle of an epoch."""

    def __init__(self, epoch: int):
        super().__init__()
        self.last_epoch = epoch
        self.epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == self.last_epoch and batch == 1:
            os.kill(os.getpid(), signal.SIGKILL)


class Report(keras.callbacks.Callback):
    """Prints the loss of each epoch."""

    def on_epoch_end(self, epoch, logs=None):
        print(f"epoch {epoch} loss {logs['loss']:.7f}", flush=True)


def main(folder: str, *kill: str) -> None:
    keras_soap.use_logical_cpus(int(os.environ["KERAS_SOAP_LOGICAL_CPUS"]))
    client = keras_soap.join_cluster(start_timeout_s=60, heartbeat_timeout_s=8)
    network = model()
    callbacks = [
        keras_soap.SoapStrategy(method="model_parallel", search_budget_s=0, verbose=0),
        keras.callbacks.BackupAndRestore(f"{folder}/backup", delete_checkpoint=False),
        keras.callbacks.ModelCheckpoint(f"{folder}/last.keras"),
        Report(),
    ]
    if kill and client == int(kill[0]):
        callbacks.append(Kill(int(kill[1])))
    network.fit(
        *data(), batch_size=16, epochs=EPOCHS, shuffle=False, callbacks=callbacks, verbose=0
    )
    saved = keras.models.load_model(Path(folder, "last.keras")).get_weights()
    for ours, theirs in zip(network.get_weights(), saved, strict=True):
        np.testing.assert_array_equal(ours, theirs)


if __name__ == "__main__":
    main(*sys.argv[1:])
