"""Training speed: one device, MirroredStrategy and SoapStrategy, on logical CPU devices.

Each system trains the same model on the same batches in a fresh process with one thread for each
device; the systems take turns, so that a machine that slows down slows them all. A row is the
median step of its runs.

    python examples/benchmarks/training.py --model=mlp --num_devices=2 --json_out=mlp.json
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from absl import app, flags

_MODEL = flags.DEFINE_enum(
    "model",
    "mlp",
    ["mlp", "alexnet", "language_model", "resnet50", "inception_v3"],
    "What to train.",
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "Samples in a step; by default what suits the model.", lower_bound=1
)
_NUM_DEVICES = flags.DEFINE_integer("num_devices", 2, "Logical CPU devices.", lower_bound=2)
_NUM_STEPS = flags.DEFINE_integer("num_steps", 8, "Steps to time in a run.", lower_bound=1)
_NUM_ROUNDS = flags.DEFINE_integer("num_rounds", 2, "Runs of each system.", lower_bound=1)
_SEARCH_BUDGET_S = flags.DEFINE_float("search_budget_s", 20.0, "Seconds to search.", lower_bound=0)
_SYSTEMS = flags.DEFINE_list(
    "systems", ["keras", "mirrored", "soap_data_parallel", "soap"], "What to run."
)
_JSON_OUT = flags.DEFINE_string("json_out", None, "File for the figures.")
_WORKER = flags.DEFINE_string("worker", None, "Of this program itself: the system to time.")

_BATCH_SIZES = {
    "mlp": 64,
    "alexnet": 32,
    "language_model": 16,
    "resnet50": 16,
    "inception_v3": 16,
}
_WARMUP_STEPS = 3


def make_model(name: str):
    """The model, not compiled, and the shape and number of classes of its data."""
    import keras
    from keras import layers

    if name == "mlp":
        stack = [layers.Dense(4096, activation="relu") for _ in range(4)]
        model = keras.Sequential([keras.Input((4096,)), *stack, layers.Dense(10)])
        return model, (4096,), 10
    if name == "alexnet":
        model = keras.Sequential(
            [
                keras.Input((224, 224, 3)),
                layers.Conv2D(64, 11, strides=4, padding="same", activation="relu"),
                layers.MaxPooling2D(3, 2),
                layers.Conv2D(192, 5, padding="same", activation="relu"),
                layers.MaxPooling2D(3, 2),
                layers.Conv2D(384, 3, padding="same", activation="relu"),
                layers.Conv2D(256, 3, padding="same", activation="relu"),
                layers.Conv2D(256, 3, padding="same", activation="relu"),
                layers.MaxPooling2D(3, 2),
                layers.Flatten(),
                layers.Dense(4096, activation="relu"),
                layers.Dense(4096, activation="relu"),
                layers.Dense(1000),
            ]
        )
        return model, (224, 224, 3), 1000
    if name == "language_model":
        # A projection onto a large vocabulary is most of the work, as in small language models.
        inputs = keras.Input((20, 512))
        x = layers.Dense(1024, activation="relu")(inputs)
        x = layers.LayerNormalization()(x)
        return keras.Model(inputs, layers.Dense(32_000)(x)), (20, 512), 32_000
    builders = {"resnet50": keras.applications.ResNet50}
    builders["inception_v3"] = keras.applications.InceptionV3
    size = 224 if name == "resnet50" else 299
    model = builders[name](weights=None, classifier_activation=None)
    return model, (size, size, 3), 1000


def time_steps(system: str) -> dict[str, float]:
    """Trains under one system in this process; gives the median seconds per step, and more."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_soap

    num_devices = 1 if system == "keras" else _NUM_DEVICES.value
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(num_devices + 2)
    keras_soap.use_logical_cpus(num_devices)
    keras.utils.set_random_seed(0)
    batch_size = _BATCH_SIZE.value or _BATCH_SIZES[_MODEL.value]

    def compiled():
        model, shape, classes = make_model(_MODEL.value)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss, jit_compile=False)
        return model, shape, classes

    if system == "mirrored":
        devices = [f"CPU:{number}" for number in range(num_devices)]
        with tf.distribute.MirroredStrategy(devices).scope():
            model, shape, classes = compiled()
    else:
        model, shape, classes = compiled()
    random = np.random.default_rng(0)
    x = random.normal(size=(batch_size, *shape)).astype("float32")
    target_shape = model.output_shape[1:-1]
    y = random.integers(0, classes, size=(batch_size, *target_shape))
    data = tf.data.Dataset.from_tensors((x, y)).cache().repeat(_WARMUP_STEPS + _NUM_STEPS.value)
    marks: list[float] = []
    clock = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: marks.append(time.perf_counter()),
        on_train_batch_end=lambda batch, logs: (
            float(logs["loss"]),
            marks.append(time.perf_counter()),
        ),
    )
    callbacks = [clock]
    soap = None
    if system.startswith("soap"):
        method = "mcmc" if system == "soap" else "data_parallel"
        soap = keras_soap.SoapStrategy(
            search_budget_s=_SEARCH_BUDGET_S.value, method=method, verbose=0
        )
        callbacks = [soap, clock]
    model.fit(data, epochs=1, verbose=0, callbacks=callbacks)
    steps = np.diff(marks[_WARMUP_STEPS:])
    result = {"seconds": float(np.median(steps)), "first_step_s": marks[1] - marks[0]}
    if soap is not None and soap.result is not None:
        result["search_s"] = soap.result.search_seconds
        result["simulated_s"] = soap.plan.evaluation.step_time_ns / 1e9
    return result


def main(argv: list[str]) -> None:
    """Runs all systems turn by turn, and prints a table."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    if _WORKER.value:
        print("RESULT " + json.dumps(time_steps(_WORKER.value)))
        return
    runs: dict[str, list[dict[str, float]]] = {system: [] for system in _SYSTEMS.value}
    for _ in range(_NUM_ROUNDS.value):
        for system in _SYSTEMS.value:
            runs[system].append(_run_worker(system))
    batch_size = _BATCH_SIZE.value or _BATCH_SIZES[_MODEL.value]
    seconds = {s: statistics.median(r["seconds"] for r in found) for s, found in runs.items()}
    figures = {
        "model": _MODEL.value,
        "batch_size": batch_size,
        "num_devices": _NUM_DEVICES.value,
        "step_seconds": seconds,
        "samples_per_second": {s: batch_size / value for s, value in seconds.items()},
        "ratio_to_mirrored": {s: seconds["mirrored"] / value for s, value in seconds.items()}
        if "mirrored" in seconds
        else {},
        "runs": runs,
        "time_source": "measured",
    }
    print(
        f"{_MODEL.value}, batch size {batch_size}, {_NUM_DEVICES.value} logical CPU devices with "
        "one thread each (keras: one device). Measured."
    )
    print(f"{'system':<20}{'step s':>9}{'samples/s':>11}{'× mirrored':>12}{'first step s':>14}")
    for system, value in seconds.items():
        ratio = figures["ratio_to_mirrored"].get(system)
        first = statistics.median(r["first_step_s"] - r.get("search_s", 0) for r in runs[system])
        print(
            f"{system:<20}{value:>9.3f}{batch_size / value:>11.1f}"
            f"{'–' if ratio is None else f'{ratio:.2f}':>12}{first:>14.1f}"
        )
    if _JSON_OUT.value:
        from keras_soap.proto.files import write_atomically

        write_atomically(_JSON_OUT.value, (json.dumps(figures, indent=2) + "\n").encode())


def _run_worker(system: str) -> dict[str, float]:
    names = ("model", "num_devices", "num_steps", "search_budget_s", "batch_size")
    given = [f"--{n}={flags.FLAGS[n].value}" for n in names if flags.FLAGS[n].value is not None]
    command = [sys.executable, str(Path(__file__)), f"--worker={system}", *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line.removeprefix("RESULT "))
    raise SystemExit(f"{system} failed:\n{done.stderr[-3000:]}")


if __name__ == "__main__":
    app.run(main)
