"""Run by `keras_soap.launch`: trains, on clients of which the last differs from the others.

    python -m keras_soap.launch … -- tests/runtime/differing_program.py WHAT …

WHAT: `floatx`; `model`, `optimizer`, `strategy`, `steps`, `data`; of sharded batches `batches` (how
many), `shape` (of samples), `rows` (fewer targets than inputs). Errors are printed after it.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf

import keras_soap
from keras_soap.capture.planning import capture_for_planning
from keras_soap.errors import ClusterError
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.strategy.strategy import Strategy
from keras_soap.tasks.lowering import Lowering
from tests.runtime import backup_program

IS_LAST = int(os.environ["DTENSOR_CLIENT_ID"]) == int(os.environ["DTENSOR_NUM_CLIENTS"]) - 1


def whole(network: keras.Model, device: int) -> Strategy:
    """All operators on one device."""
    graph = capture_for_planning(network, 16, training=True)
    dimensions = Lowering(graph).dimensions
    return Strategy(tuple(ParallelConfig((1,) * len(found), (device,)) for found in dimensions))


def train(what: str) -> None:
    """Trains on clients that differ in one thing."""

    def differs(name: str) -> bool:
        return IS_LAST and name == what

    network = backup_program.model(units=12 if differs("model") else 8)
    if differs("optimizer"):
        network.optimizer.beta_1 = 0.5
    is_sharded = what in ("batches", "shape", "rows")
    soap = keras_soap.SoapStrategy(
        strategy=whole(network, 1 if differs("strategy") else 0),
        batches="sharded" if is_sharded else "whole",
        verbose=0,
    )
    x, y = backup_program.data()
    if differs("data"):
        x = x[::-1]
    if differs("steps") or differs("batches"):
        x, y = x[:32], y[:32]
    if differs("shape"):
        y = y[:, None]
    if differs("rows"):
        y = y[:-1]
    size = 8 if is_sharded else 16
    data = tf.data.Dataset.zip(
        tf.data.Dataset.from_tensor_slices(x).batch(size),
        tf.data.Dataset.from_tensor_slices(y).batch(size),
    )
    if what == "batches":
        data = data.filter(lambda *batch: True)  # How many there are is not known ahead.
    network.fit(data, callbacks=[soap], verbose=0)


def main(*differences: str) -> None:
    keras_soap.use_logical_cpus(int(os.environ["KERAS_SOAP_LOGICAL_CPUS"]))
    if differences == ("floatx",) and IS_LAST:
        keras.config.set_floatx("float64")
    keras_soap.join_cluster(start_timeout_s=60)
    for what in differences:
        try:
            train(what)
        except ClusterError as error:
            print(f"{what}: {error}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
