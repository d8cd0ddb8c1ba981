"""A strategy searched for several hosts, against data parallelism: predicted and measured.

    python -m keras_soap.launch --num_clients=2 --devices_per_client=2 -- \
        examples/benchmarks/multihost.py --model=alexnet --json_out=multihost.json

Both strategies train the network for some steps. Predicted: the step time, from the profile that
`--profile` says, the bytes that it moves between devices, and those of them that go from one host
to another. Measured: the median of the step times, and the bytes that one step sends between hosts,
as it was traced: those predicted, and what every host is told of losses and metrics. On one machine
the clients share its cores and its loopback interface: it shows that it runs, not how fast hosts
are.
"""

import dataclasses
import importlib
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))

_MODEL = flags.DEFINE_string("model", "alexnet", "A network of examples/.")
_PRESET = flags.DEFINE_enum("preset", "tiny", ["tiny", "paper"], "Which sizes.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Samples in a step.", lower_bound=1)
_NUM_STEPS = flags.DEFINE_integer("num_steps", 20, "Steps to time.", lower_bound=1)
_SEARCH_BUDGET_S = flags.DEFINE_float("search_budget_s", 10.0, "Seconds to search.", lower_bound=0)
_PROFILE = flags.DEFINE_enum(
    "profile", "measured", ["measured", "analytic"], "What predictions are made from."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of weights, data and the search.")
_JSON_OUT = flags.DEFINE_string("json_out", None, "File for the figures.")

WARMUP_STEPS = 3
STRATEGIES = {"data_parallel": "data_parallel", "soap": "mcmc"}
"""Methods of search, by the names of what they find."""


def run(method: str) -> dict[str, Any]:
    """Trains under what a search finds; gives its figures."""
    import keras
    import tensorflow as tf

    import keras_soap
    from keras_soap.objective import Objective
    from keras_soap.runtime import cluster
    from keras_soap.tasks.build import pair_bytes

    benchmark = importlib.import_module(_MODEL.value).BENCHMARK
    sizes = benchmark.presets[_PRESET.value]
    if _BATCH_SIZE.value:
        sizes = dataclasses.replace(sizes, batch_size=_BATCH_SIZE.value)
    keras.utils.set_random_seed(_SEED.value)
    pool = benchmark.data["synthetic"](sizes, np.random.default_rng(_SEED.value))
    samples = tf.data.Dataset.from_tensor_slices(pool).repeat().batch(sizes.batch_size, True)
    times_ns: list[int] = []
    clock = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: times_ns.append(-time.perf_counter_ns()),
        on_train_batch_end=lambda batch, logs: times_ns.append(
            times_ns.pop() + time.perf_counter_ns()
        ),
    )
    soap = keras_soap.SoapStrategy(
        search_budget_s=_SEARCH_BUDGET_S.value,
        method=method,
        profile=_PROFILE.value,
        seed=_SEED.value,
        time_chunk=getattr(sizes, "time_chunk", None),
        verbose=0,
    )
    network = benchmark.model(sizes)
    history = network.fit(
        samples.take(WARMUP_STEPS + _NUM_STEPS.value), callbacks=[soap, clock], verbose=0
    )
    # Only client 0 has the profile that was searched with; all predict, so that all go on alike.
    predicted = Objective(soap.costs).evaluate(soap.strategy)
    node = [device.node for device in soap.topology.devices]
    moved = pair_bytes(soap.costs, soap.strategy)
    ours = cluster.current()
    return {
        "predicted_step_time_ms": predicted.step_time_ns / 1e6,
        "predicted_bytes_between_devices": predicted.communication_bytes,
        "predicted_bytes_between_hosts": sum(
            size for (a, b), size in moved.items() if node[a] != node[b]
        ),
        "measured_step_time_ms": statistics.median(times_ns[WARMUP_STEPS:]) / 1e6,
        "bytes_between_hosts": ours.bytes_between["a training step"] if ours else 0,
        "loss": history.history["loss"][-1],
    }


def main(argv: list[str]) -> None:
    """Compares, and prints on client 0."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    import tensorflow as tf

    import keras_soap
    from keras_soap.runtime import cluster

    if not tf.config.list_physical_devices("GPU"):
        keras_soap.use_logical_cpus(2)
    client = keras_soap.join_cluster()
    found = {name: run(method) for name, method in STRATEGIES.items()}
    if client:
        return
    print(f"{_MODEL.value} on {cluster.num_clients()} clients, {_PROFILE.value} costs")
    print(f"{'':<15}{'time of a step':>24}{'bytes between':>20}{'bytes between hosts':>28}")
    print(f"{'':<15}{'predicted':>12}{'measured':>12}{'devices':>20}{'predicted':>14}{'sent':>14}")
    for name, figures in found.items():
        print(
            f"{name:<15}{figures['predicted_step_time_ms']:>9.2f} ms"
            f"{figures['measured_step_time_ms']:>9.2f} ms"
            f"{figures['predicted_bytes_between_devices']:>20,}"
            f"{figures['predicted_bytes_between_hosts']:>14,}"
            f"{figures['bytes_between_hosts']:>14,}"
        )
    if _JSON_OUT.value:
        Path(_JSON_OUT.value).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
