"""How well the simulator predicts the time of a training step, on logical CPU devices.

For each network: its parts and the machine's connections are measured; strategies are made (data
parallelism, model parallelism, the expert's, one that a search finds, and random ones over S, O,
A and P); each is predicted, and trained in a fresh process with one thread for each device. Measure
on an idle machine.

    python examples/benchmarks/accuracy.py --models=alexnet,rnnlm --num_strategies=12 \
        --num_devices=2 --json_out=accuracy.json
"""

import dataclasses
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

sys.path.insert(0, str(Path(__file__).parents[1]))

SIZES: dict[str, dict[str, int]] = {
    "alexnet": {"batch_size": 32, "image_size": 128, "classes": 100, "width": 32, "units": 1024},
    "inception_v3": {"batch_size": 8, "image_size": 139, "classes": 100, "width": 16},
    "resnet101": {"batch_size": 16, "image_size": 96, "classes": 100, "width": 32},
    "rnntc": {"batch_size": 32, "length": 16, "units": 256, "vocabulary": 5000, "time_chunk": 8},
    "rnnlm": {"batch_size": 32, "length": 16, "units": 256, "vocabulary": 5000, "time_chunk": 8},
    "nmt": {"batch_size": 32, "length": 16, "units": 256, "vocabulary": 5000, "time_chunk": 8},
}
"""Changes to the tiny sizes that make a step take 0.1 s or more on two cores."""

_MODELS = flags.DEFINE_list("models", list(SIZES), "Networks of examples/.")
_SIZE = flags.DEFINE_enum(
    "size", "benchmark", ["benchmark", "tiny"], "Sizes of networks; tiny only shows that it runs."
)
_NUM_STRATEGIES = flags.DEFINE_integer(
    "num_strategies", 12, "For each network; what the four named ones leave are random.", 2
)
_NUM_DEVICES = flags.DEFINE_integer("num_devices", 2, "Logical CPU devices.", lower_bound=2)
_NUM_STEPS = flags.DEFINE_integer("num_steps", 8, "Steps to time in a run.", lower_bound=1)
_SEARCH_BUDGET_S = flags.DEFINE_float("search_budget_s", 10.0, "Seconds to search.", lower_bound=0)
_PART_SECONDS = flags.DEFINE_float(
    "part_seconds", 1.0, "Seconds at most to repeat a part.", lower_bound=0
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the search, and of random strategies.")
_JSON_OUT = flags.DEFINE_string("json_out", None, "File for the figures.")
_PLOT_OUT = flags.DEFINE_string("plot_out", None, "File for a scatter plot (needs matplotlib).")
_PLAN = flags.DEFINE_string("plan", None, "Of this program itself: the folder to plan into.")
_STRATEGY = flags.DEFINE_string("strategy", None, "Of this program itself: the strategy to time.")

RANDOM_DIMS = ("SOAP", "S", "O", "A", "P", "SAP", "SOAP", "SOP")
"""What random strategies may use, in turn."""

_WARMUP_STEPS = 3


def start_devices() -> None:
    """Logical CPUs with one thread each, in this process."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras

    import keras_soap

    keras_soap.use_logical_cpus(_NUM_DEVICES.value)
    keras.utils.set_random_seed(0)


def network_and_batch() -> tuple[Any, tuple, int | None]:
    """The compiled network, one batch of its data, and how it is opened in time."""
    (name,) = _MODELS.value
    benchmark = importlib.import_module(name).BENCHMARK
    sizes = benchmark.presets["tiny"]
    if _SIZE.value == "benchmark":
        sizes = dataclasses.replace(sizes, **SIZES[name])
    pool = benchmark.data["synthetic"](sizes, np.random.default_rng(0))
    batch = _tree_map(lambda array: array[: sizes.batch_size], tuple(pool))
    return benchmark.model(sizes), batch, getattr(sizes, "time_chunk", None)


def plan(folder: Path) -> dict[str, float]:
    """Measures this machine, makes strategies, saves them; gives predicted seconds by name."""
    start_devices()
    import tensorflow as tf
    from keras.src.trainers.data_adapters.data_adapter_utils import unpack_x_y_sample_weight

    from keras_soap.capture.losses import capture_step
    from keras_soap.costs import proto_io as cost_io
    from keras_soap.costs.measure import MeasuredProfile
    from keras_soap.costs.timing import Precision
    from keras_soap.runtime.measured_topology import measure_topology
    from keras_soap.runtime.measuring import measure_all
    from keras_soap.search.problem import Budget, Problem
    from keras_soap.search.run import search
    from keras_soap.strategy import proto_io
    from keras_soap.topology import proto_io as topology_io
    from keras_soap.topology.local import local_topology

    network, batch, time_chunk = network_and_batch()
    x, y, weights = unpack_x_y_sample_weight(_tree_map(tf.convert_to_tensor, batch))
    network._symbolic_build(data_batch=(x, y, weights))
    batch_size = len(y)
    captured = capture_step(network, batch_size, y, weights, time_chunk).model
    precision = Precision(seconds=_PART_SECONDS.value)
    topology, _ = measure_topology(local_topology(), precision)
    profile = MeasuredProfile(captured, topology, network.optimizer, precision=precision)
    problem = Problem(captured.graph, topology, profile)
    measure_all(profile, problem.lowering, topology)
    table = profile.table()
    topology_io.save(folder / "topology.textproto", topology)
    cost_io.save(folder / "profile.textproto", table)
    problem = Problem(captured.graph, topology, table)
    found = search(
        captured.graph,
        topology,
        table,
        budget=Budget(_SEARCH_BUDGET_S.value),
        seed=_SEED.value,
        progress=False,
    )
    strategies = {"soap": found.evaluation.strategy}
    strategies |= {name: made.strategy for name, made in problem.baselines.items()}
    rng = np.random.default_rng(_SEED.value)
    number = 0
    while len(strategies) < _NUM_STRATEGIES.value:
        dims = RANDOM_DIMS[number % len(RANDOM_DIMS)]
        space = Problem(captured.graph, topology, table, dims).space
        strategies[f"random_{number}_{dims}"] = space.random_strategy(rng)
        number += 1
    predicted = {}
    for name, strategy in list(strategies.items())[: _NUM_STRATEGIES.value]:
        path = folder / f"{name}.pb"
        lowering = problem.lowering
        proto_io.save(path, strategy, captured.graph, lowering.dimensions, topology)
        predicted[name] = problem.objective.evaluate(strategy).step_time_ns / 1e9
    return predicted


def time_steps(strategy: str) -> dict[str, float]:
    """Trains under a strategy file in this process; gives the median seconds per step."""
    start_devices()
    import keras
    import tensorflow as tf

    import keras_soap

    network, batch, time_chunk = network_and_batch()
    data = tf.data.Dataset.from_tensors(batch).cache().repeat(_WARMUP_STEPS + _NUM_STEPS.value)
    soap = keras_soap.SoapStrategy(
        Path(strategy).parent / "topology.textproto",
        strategy=strategy,
        time_chunk=time_chunk,
        verbose=0,
    )
    marks: list[float] = []
    clock = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: (
            float(logs["loss"]),
            marks.append(time.perf_counter()),
        ),
    )
    network.fit(data, epochs=1, verbose=0, callbacks=[soap, clock])
    return {"seconds": float(np.median(np.diff(marks[_WARMUP_STEPS - 1 :])))}


def summarize(pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of all (model, strategy) pairs; each has predicted and measured seconds."""
    errors = [abs(p["predicted_s"] - p["measured_s"]) / p["measured_s"] for p in pairs]
    tau, chosen = {}, {}
    for model in dict.fromkeys(pair["model"] for pair in pairs):
        of_model = [pair for pair in pairs if pair["model"] == model]
        predicted = [pair["predicted_s"] for pair in of_model]
        measured = [pair["measured_s"] for pair in of_model]
        tau[model] = kendall_tau(predicted, measured)
        chosen[model] = measured[int(np.argmin(predicted))] / min(measured)
    return {
        "num_pairs": len(pairs),
        "mean_error": statistics.fmean(errors),
        "max_error": max(errors),
        "share_within_30_percent": statistics.fmean(error <= 0.3 for error in errors),
        "kendall_tau": tau,
        "chosen_over_best": chosen,
    }


def kendall_tau(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau-b: 1 where both order alike, -1 where oppositely; 0 if one is all ties."""
    signs_a = np.sign(np.subtract.outer(a, a))
    signs_b = np.sign(np.subtract.outer(b, b))
    untied = np.sqrt(float((signs_a**2).sum()) * float((signs_b**2).sum()))
    return float((signs_a * signs_b).sum() / untied) if untied else 0.0


def main(argv: list[str]) -> None:
    """Plans, trains under every strategy, and prints a table."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    unknown = set(_MODELS.value) - set(SIZES)
    if unknown:
        raise app.UsageError(f"--models={','.join(sorted(unknown))}: use {', '.join(SIZES)}.")
    if _PLAN.value:
        print("RESULT " + json.dumps(plan(Path(_PLAN.value))))
        return
    if _STRATEGY.value:
        print("RESULT " + json.dumps(time_steps(_STRATEGY.value)))
        return
    if _PLOT_OUT.value and importlib.util.find_spec("matplotlib") is None:
        raise app.UsageError("--plot_out needs matplotlib: pip install 'keras_soap[report]'.")
    pairs: list[dict[str, Any]] = []
    print(f"{'network':<14}{'strategy':<20}{'measured s':>11}{'predicted s':>12}{'error':>8}")
    for model in _MODELS.value:
        with tempfile.TemporaryDirectory() as folder:
            predicted = _run_worker(model, f"--plan={folder}")
            for name, seconds in predicted.items():
                measured = _run_worker(model, f"--strategy={Path(folder) / name}.pb")["seconds"]
                pair = {"model": model, "strategy": name}
                pairs.append({**pair, "predicted_s": seconds, "measured_s": measured})
                error = seconds / measured - 1
                print(f"{model:<14}{name:<20}{measured:>11.4f}{seconds:>12.4f}{error:>8.0%}")
                sys.stdout.flush()
    figures = {
        "size": _SIZE.value,
        "num_devices": _NUM_DEVICES.value,
        "cost_source": "measured",
        **summarize(pairs),
        "pairs": pairs,
    }
    print(
        f"{len(pairs)} pairs: mean error {figures['mean_error']:.1%}, at most "
        f"{figures['max_error']:.1%}; within 30 %: {figures['share_within_30_percent']:.0%}"
    )
    for model, tau in figures["kendall_tau"].items():
        chosen = figures["chosen_over_best"][model]
        print(f"{model:<14}Kendall's tau {tau:.2f}; predicted best over best measured {chosen:.3f}")
    if _JSON_OUT.value:
        from keras_soap.proto.files import write_atomically

        write_atomically(_JSON_OUT.value, (json.dumps(figures, indent=2) + "\n").encode())
    if _PLOT_OUT.value:
        _plot(pairs, _PLOT_OUT.value)


def _plot(pairs: Sequence[dict[str, Any]], path: str) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 5))
    for model in dict.fromkeys(pair["model"] for pair in pairs):
        of_model = [pair for pair in pairs if pair["model"] == model]
        axes.scatter(
            [pair["measured_s"] for pair in of_model],
            [pair["predicted_s"] for pair in of_model],
            label=model,
            s=14,
        )
    ends = [min(p["measured_s"] for p in pairs), max(p["measured_s"] for p in pairs)]
    axes.plot(ends, ends, color="gray", linewidth=1, label="exact")
    for factor in (0.7, 1.3):
        axes.plot(ends, [factor * e for e in ends], "--", color="gray", linewidth=0.5)
    axes.set(
        xscale="log", yscale="log", xlabel="measured s per step", ylabel="predicted s per step"
    )
    axes.legend()
    figure.savefig(path, bbox_inches="tight")


def _tree_map(function: Any, value: Any) -> Any:
    """`function` of every array in nested tuples and lists."""
    if isinstance(value, (tuple, list)):
        return tuple(_tree_map(function, inner) for inner in value)
    if isinstance(value, dict):
        return {key: _tree_map(function, inner) for key, inner in value.items()}
    return function(value)


def _run_worker(model: str, task: str) -> dict[str, float]:
    names = ("size", "num_strategies", "num_devices", "num_steps", "search_budget_s")
    names += ("part_seconds", "seed")
    given = [f"--{name}={flags.FLAGS[name].value}" for name in names]
    command = [sys.executable, str(Path(__file__)), f"--models={model}", task, *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line.removeprefix("RESULT "))
    raise SystemExit(f"{model} {task} failed:\n{done.stderr[-3000:]}")


if __name__ == "__main__":
    app.run(main)
