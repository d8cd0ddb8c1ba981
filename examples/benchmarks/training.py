"""Training speed: one device, MirroredStrategy, DTensor and SoapStrategy, on logical CPU devices.

Each system trains the same model on the same batches in a fresh process with one thread for each
device; the systems take turns, so that a machine that slows down slows them all. A row is the
median step of its runs. DTensor cannot run every model: its row then says why not.

    python examples/benchmarks/training.py --model=mlp --num_devices=2 --json_out=mlp.json
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import spmd
from absl import app, flags

_MODEL = flags.DEFINE_enum(
    "model",
    "mlp",
    ["mlp", "alexnet", "rnnlm", "resnet50", "inception_v3"],
    "What to train.",
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "Samples in a step; by default what suits the model.", lower_bound=1
)
_NUM_DEVICES = flags.DEFINE_integer("num_devices", 2, "Logical CPU devices.", lower_bound=2)
_NUM_STEPS = flags.DEFINE_integer("num_steps", 8, "Steps to time in a run.", lower_bound=1)
_NUM_ROUNDS = flags.DEFINE_integer("num_rounds", 2, "Runs of each system.", lower_bound=1)
_SEARCH_BUDGET_S = flags.DEFINE_float("search_budget_s", 20.0, "Seconds to search.", lower_bound=0)
_KNOWN_SYSTEMS = ["keras", "mirrored", "dtensor", "soap_data_parallel", "soap"]
_SYSTEMS = flags.DEFINE_list("systems", _KNOWN_SYSTEMS, "What to run.")
flags.register_validator(
    "systems",
    lambda systems: bool(systems) and set(systems) <= set(_KNOWN_SYSTEMS),
    f"must be some of {', '.join(_KNOWN_SYSTEMS)}",
)
_PRESET = flags.DEFINE_enum(
    "preset", "full", ["full", "tiny"], "Sizes of mlp, alexnet and rnnlm: tiny to try the program."
)
_JSON_OUT = flags.DEFINE_string("json_out", None, "File for the figures.")
_WORKER = flags.DEFINE_string("worker", None, "Of this program itself: the system to time.")

_BATCH_SIZES = {
    "mlp": 64,
    "alexnet": 32,
    "rnnlm": 16,
    "resnet50": 16,
    "inception_v3": 16,
}
_WARMUP_STEPS = 3


def make_model(name: str, is_tiny: bool, unroll: bool):
    """The model, not compiled, and the shape and number of classes of its data.

    Args:
        name: As in the flag.
        is_tiny: Whether at small sizes.
        unroll: Whether recurrent layers are traced step by step, which is all that DTensor can run.
    """
    import keras
    from keras import layers

    if name == "mlp":
        width = 64 if is_tiny else 4096
        stack = [layers.Dense(width, activation="relu") for _ in range(4)]
        model = keras.Sequential([keras.Input((width,)), *stack, layers.Dense(10)])
        return model, (width,), 10
    if name == "alexnet":
        size, width = (64, 64) if is_tiny else (224, 4096)
        model = keras.Sequential(
            [
                keras.Input((size, size, 3)),
                layers.Conv2D(64, 11, strides=4, padding="same", activation="relu"),
                layers.MaxPooling2D(3, 2),
                layers.Conv2D(192, 5, padding="same", activation="relu"),
                layers.MaxPooling2D(3, 2),
                layers.Conv2D(384, 3, padding="same", activation="relu"),
                layers.Conv2D(256, 3, padding="same", activation="relu"),
                layers.Conv2D(256, 3, padding="same", activation="relu"),
                layers.MaxPooling2D(3, 2),
                layers.Flatten(),
                layers.Dense(width, activation="relu"),
                layers.Dense(width, activation="relu"),
                layers.Dense(1000),
            ]
        )
        return model, (size, size, 3), 1000
    if name == "rnnlm":
        # The table and the projection are most of it, as in small language models.
        length, units, vocabulary = (4, 16, 200) if is_tiny else (20, 512, 32_000)
        words = keras.Input((length,), dtype="int32")
        x = layers.Embedding(vocabulary, units)(words)
        x = layers.LSTM(units, return_sequences=True, unroll=unroll)(x)
        return keras.Model(words, layers.Dense(vocabulary)(x)), (length,), vocabulary
    builders = {"resnet50": keras.applications.ResNet50}
    builders["inception_v3"] = keras.applications.InceptionV3
    size = 224 if name == "resnet50" else 299
    model = builders[name](weights=None, classifier_activation=None)
    return model, (size, size, 3), 1000


def time_steps(system: str) -> dict[str, float]:
    """Trains under one system in this process; gives the median seconds per step, and more."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    if system == "dtensor":
        spmd.prepare_environment()
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_soap

    num_devices = 1 if system == "keras" else _NUM_DEVICES.value
    keras_soap.use_logical_cpus(num_devices)
    keras.utils.set_random_seed(0)
    batch_size = _BATCH_SIZE.value or _BATCH_SIZES[_MODEL.value]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def compiled():
        made = make_model(_MODEL.value, _PRESET.value == "tiny", unroll=system == "dtensor")
        model, shape, classes = made
        if system != "dtensor":
            model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss, jit_compile=False)
        return model, shape, classes

    if system == "mirrored":
        devices = [f"CPU:{number}" for number in range(num_devices)]
        with tf.distribute.MirroredStrategy(devices).scope():
            model, shape, classes = compiled()
    else:
        model, shape, classes = compiled()
    random = np.random.default_rng(0)
    if "int" in model.inputs[0].dtype:
        x = random.integers(0, classes, size=(batch_size, *shape)).astype("int32")
    else:
        x = random.normal(size=(batch_size, *shape)).astype("float32")
    target_shape = model.output_shape[1:-1]
    y = random.integers(0, classes, size=(batch_size, *target_shape))
    if system == "dtensor":
        return _time_dtensor(model, loss, x, y)
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
    if soap is not None:
        result["tracing_s"] = soap.tracing_seconds
    if soap is not None and soap.result is not None:
        result["search_s"] = soap.result.search_seconds
        result["simulated_s"] = soap.plan.evaluation.step_time_ns / 1e9
    return result


def _time_dtensor(model, loss, x, y) -> dict[str, float]:
    """The same by DTensor."""
    import keras
    import numpy as np

    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    step = spmd.step_function(model, loss, optimizer, _NUM_DEVICES.value)
    marks = [time.perf_counter()]
    for _ in range(_WARMUP_STEPS + _NUM_STEPS.value):
        step(x, y)
        marks.append(time.perf_counter())
    seconds = float(np.median(np.diff(marks[_WARMUP_STEPS:])))
    return {"seconds": seconds, "first_step_s": marks[1] - marks[0]}


def main(argv: list[str]) -> None:
    """Runs all systems turn by turn, and prints a table."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    if _WORKER.value:
        try:
            print("RESULT " + json.dumps(time_steps(_WORKER.value)))
        except Exception as error:
            if _WORKER.value != "dtensor":
                raise
            # It has no rules for some operations; the other systems run every model.
            print("REFUSED " + " ".join(f"{type(error).__name__}: {error}".split())[:300])
        return
    runs: dict[str, list[dict[str, float]]] = {system: [] for system in _SYSTEMS.value}
    reasons: dict[str, str] = {}
    for _ in range(_NUM_ROUNDS.value):
        for system in _SYSTEMS.value:
            if system in reasons:
                continue
            found = _run_worker(system)
            if isinstance(found, str):
                reasons[system] = found
            else:
                runs[system].append(found)
    batch_size = _BATCH_SIZE.value or _BATCH_SIZES[_MODEL.value]
    seconds = {
        system: None if system in reasons else statistics.median(r["seconds"] for r in found)
        for system, found in runs.items()
    }
    mirrored = seconds.get("mirrored")
    figures = {
        "model": _MODEL.value,
        "batch_size": batch_size,
        "num_devices": _NUM_DEVICES.value,
        "step_seconds": seconds,
        "samples_per_second": {s: value and batch_size / value for s, value in seconds.items()},
        "ratio_to_mirrored": {s: value and mirrored / value for s, value in seconds.items()}
        if mirrored
        else {},
        "first_step_seconds": {
            s: statistics.median(r["first_step_s"] - r.get("search_s", 0) for r in found)
            for s, found in runs.items()
            if found
        },
        "not_run": reasons,
        "runs": runs,
        "time_source": "measured",
    }
    print(
        f"{_MODEL.value}, batch size {batch_size}, {_NUM_DEVICES.value} logical CPU devices with "
        "one thread each (keras: one device). Measured."
    )
    print(f"{'system':<20}{'step s':>9}{'samples/s':>11}{'× mirrored':>12}{'first step s':>14}")
    for system, value in seconds.items():
        if value is None:
            print(f"{system:<20}cannot run it: {reasons[system][:200]}")
            continue
        ratio = figures["ratio_to_mirrored"].get(system)
        print(
            f"{system:<20}{value:>9.3f}{batch_size / value:>11.1f}"
            f"{'–' if ratio is None else f'{ratio:.2f}':>12}"
            f"{figures['first_step_seconds'][system]:>14.1f}"
        )
    if _JSON_OUT.value:
        from keras_soap.proto.files import write_atomically

        write_atomically(_JSON_OUT.value, (json.dumps(figures, indent=2) + "\n").encode())


def _run_worker(system: str) -> dict[str, float] | str:
    """The figures of a run in a process of its own, or why it cannot run the model."""
    names = ("model", "preset", "num_devices", "num_steps", "search_budget_s", "batch_size")
    given = [f"--{n}={flags.FLAGS[n].value}" for n in names if flags.FLAGS[n].value is not None]
    command = [sys.executable, str(Path(__file__)), f"--worker={system}", *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line.removeprefix("RESULT "))
        if line.startswith("REFUSED "):
            return line.removeprefix("REFUSED ")
    raise SystemExit(f"{system} failed:\n{done.stderr[-3000:]}")


if __name__ == "__main__":
    app.run(main)
