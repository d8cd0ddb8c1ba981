"""Peak memory of devices while a model trains, against what the simulator predicts.

    python examples/benchmarks/memory.py --json_out=memory.json

A multilayer perceptron of wide layers is trained with its samples split, and with its units split,
by optimizers with 0, 1 and 2 variables beside each weight, each in a process of its own. Logical
CPU devices share the memory of their process, and all of them hold equally much here; so measured
for each device is its share of the most that was resident during steps (Linux: `VmHWM`), less what
was before the model was made. A small model has trained by then: what the runtime itself takes does
not count. Exits with 1 if a peak differs from the predicted one by more than `--tolerance`.
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_WIDTH = flags.DEFINE_integer("width", 4096, "Of each layer.", lower_bound=1)
_NUM_LAYERS = flags.DEFINE_integer("num_layers", 4, "Dense ones.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Samples in a step.", lower_bound=1)
_NUM_DEVICES = flags.DEFINE_integer("num_devices", 2, "Logical CPU devices.", lower_bound=2)
_OPTIMIZERS = flags.DEFINE_list("optimizers", ["sgd", "momentum", "adam"], "To train with.")
_SPLITS = flags.DEFINE_list("splits", ["samples", "units"], "What to split.")
_TOLERANCE = flags.DEFINE_float("tolerance", 0.25, "Relative.", lower_bound=0.0)
_JSON_OUT = flags.DEFINE_string("json_out", None, "File for the figures.")
_WORKER = flags.DEFINE_list("worker", [], "For the program itself: an optimizer and a split.")

_METHODS = {"samples": "data_parallel", "units": "model_parallel"}
_SMALL_WIDTH = 64
_SKIPPED_STEPS = 2


def resident(name: str) -> int:
    """Bytes that are resident (`VmRSS`), or were at most (`VmHWM`)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}: this program needs Linux.")


def train(width: int, optimizer: str, split: str) -> tuple[int, list[int]]:
    """The most that was resident in steps after the first ones, and predicted peaks of devices."""
    import keras

    import keras_soap

    make = {
        "sgd": lambda: keras.optimizers.SGD(1e-3),
        "momentum": lambda: keras.optimizers.SGD(1e-3, momentum=0.9),
        "adam": lambda: keras.optimizers.Adam(1e-4),
    }
    model = keras.Sequential([keras.Input((width,))])
    for _ in range(_NUM_LAYERS.value):
        model.add(keras.layers.Dense(width, activation="relu"))
    model.compile(make[optimizer](), "mse")
    peaks: list[int] = []

    def begin(batch: int, logs: Any) -> None:
        if batch == _SKIPPED_STEPS:
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew.

    watch = keras.callbacks.LambdaCallback(
        on_train_batch_begin=begin,
        on_train_batch_end=lambda batch, logs: peaks.append(resident("VmHWM")),
    )
    soap = keras_soap.SoapStrategy(method=_METHODS[split], verbose=0)
    num_samples = (_SKIPPED_STEPS + 3) * _BATCH_SIZE.value
    x = np.random.default_rng(0).normal(size=(num_samples, width)).astype("float32")
    model.fit(x, x, batch_size=_BATCH_SIZE.value, verbose=0, callbacks=[soap, watch])
    return peaks[-1], list(soap.plan.evaluation.peak_memory_bytes)


def work(optimizer: str, split: str) -> dict[str, Any]:
    """Measures in this process."""
    import keras

    import keras_soap

    keras_soap.use_logical_cpus(_NUM_DEVICES.value)
    train(_SMALL_WIDTH, optimizer, split)
    keras.backend.clear_session()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = resident("VmRSS")
    peak, predicted = train(_WIDTH.value, optimizer, split)
    return {
        "predicted_bytes": sum(predicted) // len(predicted),
        "measured_bytes": (peak - before) // len(predicted),
    }


def measured(optimizer: str, split: str) -> dict[str, Any]:
    """Measures in a new process."""
    mine = flags.FLAGS.find_module_defining_flag("worker")
    given = [
        flag.serialize()
        for flag in flags.FLAGS.flags_by_module_dict()[mine]
        if flag.value is not None and flag.name not in ("worker", "json_out")
    ]
    command = [sys.executable, __file__, *filter(None, given), f"--worker={optimizer},{split}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{optimizer}, {split}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: list[str]) -> None:
    """Measures one by one, prints a table, writes the figures."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    if unknown := set(_SPLITS.value) - _METHODS.keys():
        raise app.UsageError(f"--splits has {', '.join(unknown)}. Use {', '.join(_METHODS)}.")
    if _WORKER.value:
        print(json.dumps(work(*_WORKER.value)))
        return
    print(
        f"{_NUM_LAYERS.value} layers of {_WIDTH.value} units, {_BATCH_SIZE.value} samples, "
        f"{_NUM_DEVICES.value} logical CPU devices; MB at the peak, for each device"
    )
    print(f"{'optimizer':<12}{'split':<10}{'predicted':>12}{'measured':>12}{'difference':>12}")
    found: dict[str, dict[str, Any]] = {}
    worst = 0.0
    for optimizer in _OPTIMIZERS.value:
        for split in _SPLITS.value:
            figures = found.setdefault(optimizer, {})[split] = measured(optimizer, split)
            difference = figures["measured_bytes"] / figures["predicted_bytes"] - 1
            worst = max(worst, abs(difference))
            print(
                f"{optimizer:<12}{split:<10}{figures['predicted_bytes'] / 1e6:>12,.0f}"
                f"{figures['measured_bytes'] / 1e6:>12,.0f}{difference:>+12.1%}",
                flush=True,
            )
    if _JSON_OUT.value:
        Path(_JSON_OUT.value).write_text(json.dumps(found, indent=2) + "\n")
    if worst > _TOLERANCE.value:
        sys.exit(f"A peak is off by {worst:.0%}, more than {_TOLERANCE.value:.0%}.")


if __name__ == "__main__":
    app.run(main)
