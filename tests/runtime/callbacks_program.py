"""Run by `keras_soap.launch`: trains with callbacks that write and decide.

    python -m keras_soap.launch … -- tests/runtime/callbacks_program.py FOLDER

Each client's write into a folder of its own, `CLIENT`; what it has seen goes to `CLIENT.json`.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import keras_soap
from tests.runtime import backup_program

EPOCHS = 8


def train(folder: Path, callbacks: list[keras.callbacks.Callback]) -> dict:
    """Trains with callbacks that write into a folder; gives what they have decided."""
    network = backup_program.model()
    network.optimizer.learning_rate = 0.05
    early = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    boards = []
    if importlib.util.find_spec("tensorboard"):
        # Weights, steps and the learning rate, which it reads, are on devices of both clients.
        board = {"histogram_freq": 1, "update_freq": 1, "write_steps_per_second": True}
        boards = [keras.callbacks.TensorBoard(str(folder / "board"), **board)]
    x, y = backup_program.data()
    # No folder is there beforehand: a client that writes makes one.
    history = network.fit(
        x,
        y,
        validation_data=(x[:32], y[32:]),  # Of other classes, so that its loss rises.
        batch_size=16,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=[
            *boards,
            keras.callbacks.CSVLogger(str(folder.parent / f"{folder.name}.csv")),
            *callbacks,
            keras.callbacks.ModelCheckpoint(str(folder / "best" / "{epoch}.keras")),
            keras.callbacks.ModelCheckpoint(
                str(folder / "weights" / "best.weights.h5"),
                save_best_only=True,
                save_weights_only=True,
            ),
            keras.callbacks.BackupAndRestore(str(folder / "backup"), delete_checkpoint=False),
            keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=0),
            early,
        ],
    )
    weights = [weight.tolist() for weight in network.get_weights()]
    return {
        "history": history.history,
        "stopped in": early.stopped_epoch,
        "weights": weights,
    }


def main(folder: str) -> None:
    keras_soap.use_logical_cpus(int(os.environ["KERAS_SOAP_LOGICAL_CPUS"]))
    client = keras_soap.join_cluster(start_timeout_s=60)
    soap = keras_soap.SoapStrategy(method="model_parallel", search_budget_s=0, verbose=0)
    found = train(Path(folder, str(client)), [soap])
    Path(folder, f"{client}.json").write_text(json.dumps(found))
    # Each a model of its own; client 0 alone writes, too.
    train(Path(folder, f"{client} alone"), [])


if __name__ == "__main__":
    main(*sys.argv[1:])
