"""Run by `keras_soap.launch`: trains subjects under strategies on several clients.

Client 0 compares each case with plain Keras on one device. What each client has seen goes to a
file, so that the test can compare the others with client 0, to the last bit.

    python -m keras_soap.launch … -- tests/runtime/cluster_program.py FOLDER "images|S|sgd" …
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_soap
from keras_soap import SoapStrategy
from keras_soap.runtime import cluster

NUM_CLIENTS = int(os.environ["DTENSOR_NUM_CLIENTS"])
keras_soap.use_logical_cpus(int(os.environ["KERAS_SOAP_LOGICAL_CPUS"]))
CLIENT = keras_soap.join_cluster(start_timeout_s=60)

from tests.runtime import subjects, test_recurrent  # noqa: E402, F401
from tests.runtime.strategies import NAMED, anything  # noqa: E402

subjects.OPTIMIZERS["clipped"] = lambda: keras.optimizers.SGD(0.1, global_clipnorm=0.05)
subjects.OPTIMIZERS["scaled"] = lambda: keras.optimizers.LossScaleOptimizer(
    keras.optimizers.SGD(0.1, momentum=0.9), initial_scale=64.0
)


def heads() -> keras.Model:
    """A transformer block."""
    x = keras.Input((4, 8), name="x")
    y = keras.layers.MultiHeadAttention(4, 2, name="attention")(x, x)
    y = keras.layers.LayerNormalization(name="norm")(keras.layers.Add(name="add")([x, y]))
    z = keras.layers.Dense(8, name="narrow")(keras.layers.Dense(16, "gelu", name="wide")(y))
    y = keras.layers.Add(name="add_2")([y, z])
    return keras.Model(x, keras.layers.Dense(3, name="out")(y), name="transformer")


def vectors(rng: np.random.Generator):
    x = rng.normal(size=(40, 4, 8)).astype("float32")
    return x, rng.normal(size=(40, 4, 3)).astype("float32")


subjects.KNOWN["transformer"] = subjects.Subject(
    heads, lambda: {"loss": "mse"}, vectors, noise=("key/bias",)
)


def wide() -> keras.Model:
    """A kernel whose gradient is large enough to be reduced in chunks."""
    x = keras.Input((6,), name="x")
    y = keras.layers.Dense(3001, "relu", name="inner")(x)
    return keras.Model(x, keras.layers.Dense(4, "softmax", name="class")(y), name="wide")


subjects.KNOWN["wide"] = subjects.Subject(
    wide, lambda: {"loss": "sparse_categorical_crossentropy"}, subjects.vector_data
)


def own_rows(batch_size: int) -> range:
    """Which of a batch's samples this client gives, where each has a shard: not equally many."""
    more = batch_size // NUM_CLIENTS > 1
    edges = [0, *(batch_size * c // NUM_CLIENTS + more for c in range(1, NUM_CLIENTS)), batch_size]
    return range(edges[CLIENT], edges[CLIENT + 1])


def own_part(data, batch_size: int):
    """This client's shards of all batches."""

    def of(array):
        batches = np.split(array, range(batch_size, len(array), batch_size))
        return np.concatenate([batch[own_rows(len(batch))] for batch in batches])

    return keras.tree.map_structure(of, data)


def train(
    subject: str, name: str, optimizer: str, batches: str = "whole"
) -> tuple[subjects.Training, dict]:
    """Trains; gives what is compared with plain Keras, and what clients are compared by."""
    lowering = subjects.lowering(subject)
    known = subjects.KNOWN[subject]
    strategy = (
        NAMED[name](lowering)
        if name in NAMED
        else anything(lowering, int(name.removeprefix("anything ")))
    )
    soap = SoapStrategy(strategy=strategy, time_chunk=known.time_chunk, batches=batches, verbose=0)
    fed = known
    if batches == "sharded":
        fed = dataclasses.replace(
            known,
            data=lambda rng: own_part(known.data(rng), known.batch_size),
            batch_size=len(own_rows(known.batch_size)),
        )
    trained = subjects.train(fed, optimizer, soap)
    # Of other sizes than in training.
    x, y, _ = known.samples()
    x, y = (keras.tree.map_structure(lambda a: a[: known.batch_size + 4], data) for data in (x, y))
    size = 4 if batches == "whole" else known.batch_size
    plain = trained.model.evaluate(x, y, batch_size=size, verbose=0)
    plain_outputs = trained.model.predict(x, batch_size=known.batch_size, verbose=0)
    if batches == "sharded":
        x, y, plain_outputs = own_part((x, y, plain_outputs), size)
        size = len(own_rows(size))
    ours = trained.model.evaluate(x, y, batch_size=size, verbose=0, callbacks=[soap])
    np.testing.assert_allclose(ours, plain, rtol=1e-5)
    outputs = trained.model.predict(x, batch_size=fed.batch_size, verbose=0, callbacks=[soap])
    keras.tree.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), outputs, plain_outputs
    )
    return trained, {
        "logs": trained.logs,
        "weights": {
            path: hashlib.sha256(value.tobytes()).hexdigest()
            for path, value in trained.after.items()
        },
    }


def main(folder: Path, cases: list[str]) -> None:
    ours = cluster.current()
    assert ours is not None
    trained, found, failures = {}, {}, []

    @contextlib.contextmanager
    def noting_failures(case: str) -> Iterator[None]:
        try:
            yield
        except AssertionError:
            failures.append(f"{case}: {traceback.format_exc()}")

    for case in cases:
        print(case, flush=True)
        with noting_failures(case):
            trained[case], found[case] = train(*case.split("|"))
    # Now that clients agree on nothing any more, such as names, which Keras numbers.
    for case in trained if CLIENT == 0 else ():
        subject, _, optimizer, *_ = case.split("|")
        with noting_failures(case):
            subjects.assert_equal_training(subject, optimizer, trained[case])
    (folder / f"{CLIENT}.json").write_text(json.dumps(found))
    assert not failures, "\n".join(failures)
    assert SoapStrategy().topology.num_devices == NUM_CLIENTS * int(
        os.environ["KERAS_SOAP_LOGICAL_CPUS"]
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
