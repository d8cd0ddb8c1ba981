"""Run by `keras_soap.launch`: a client is struck by a signal, in some phase of training.

    python -m keras_soap.launch … -- tests/runtime/struck_program.py PHASE CLIENT SIGNAL FOLDER

Phases: `start`, before TensorFlow starts; `search`, while client 0 searches; `load`, while others
do what no client has a part in; `step`, between two steps; `evaluate`; `save`, while client 0
writes; `read`, while others gather weights. In others nobody is struck: `fail`, where the client
raises an error; `leave`, where its program ends before those of others; `miss`, where they evaluate
without it.
"""

import os
import signal
import sys
import threading
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import keras_soap
from keras_soap.runtime import cluster
from tests.runtime import backup_program

PHASE, CLIENT, SIGNAL, FOLDER = sys.argv[1:]
HEARTBEAT_TIMEOUT_S = 8
IS_STRUCK = os.environ["DTENSOR_CLIENT_ID"] == CLIENT


def strike(phase: str, delay_s: float = 0.0) -> None:
    """Sends the signal to this process, if it is its turn."""
    if phase != PHASE or not IS_STRUCK:
        return
    print("struck", flush=True)
    if phase == "fail":
        raise LookupError("no such sample")
    threading.Timer(delay_s, os.kill, (os.getpid(), signal.Signals[SIGNAL])).start()
    if not delay_s:
        time.sleep(600)


class Strike(keras.callbacks.Callback):
    """Strikes between steps."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            strike("step")
            strike("fail")

    def on_test_batch_end(self, batch, logs=None):
        strike("evaluate")


@keras.saving.register_keras_serializable("tests")
class SlowlySaved(keras.layers.Dense):
    """A layer that takes its time to be saved."""

    def save_own_variables(self, store):
        super().save_own_variables(store)
        if PHASE == "save":
            strike("save")
            time.sleep(600)


def main() -> None:
    keras_soap.use_logical_cpus(int(os.environ["KERAS_SOAP_LOGICAL_CPUS"]))
    if PHASE == "start":
        call_roll = cluster.call_roll

        def called(*arguments):
            call_roll(*arguments)
            strike("start")

        cluster.call_roll = called
    keras_soap.join_cluster(start_timeout_s=20 if PHASE == "start" else 60, heartbeat_timeout_s=8)
    keras.utils.set_random_seed(3)
    network = keras.Sequential(
        [keras.Input((6,)), SlowlySaved(8, "relu", name="inner"), keras.layers.Dense(4, "softmax")]
    )
    network.compile("sgd", "sparse_categorical_crossentropy")
    strike("search", 8.0)
    searches = PHASE == "search"
    soap = keras_soap.SoapStrategy(
        method="mcmc" if searches else "model_parallel",
        search_budget_s=600 if searches else 0,
        verbose=0,
    )
    x, y = backup_program.data()
    network.fit(x, y, batch_size=16, shuffle=False, callbacks=[soap, Strike()], verbose=0)
    network.fit(x, y, batch_size=16, shuffle=False, callbacks=[soap, Strike(), Save()], verbose=0)
    if PHASE == "load":
        strike("load")
        time.sleep(600)
    if PHASE in ("leave", "miss") and IS_STRUCK:
        return
    if PHASE == "leave":
        time.sleep(3 * HEARTBEAT_TIMEOUT_S)
        print("has done the rest alone", flush=True)
        return
    network.evaluate(x, y, batch_size=16, callbacks=[soap, Strike()], verbose=0)


class Save(keras.callbacks.Callback):
    """Reads weights, and saves, in the middle of an epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            strike("read")
            self.model.get_weights()
            if PHASE == "save":
                self.model.save(f"{FOLDER}/model.keras")


if __name__ == "__main__":
    main()
