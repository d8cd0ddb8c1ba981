"""Every architecture of keras.applications, at its own size: captured, and simulated.

Prints for each how many operators it has, how many of those are split by sample only or not at all,
and what a step takes under data parallelism, the expert's strategy and a random one. Step times are
simulated, from analytic costs. Exits with 1 if one could not be captured or simulated.

    python examples/benchmarks/applications.py --topology=p100:4 --json_out=applications.json
"""

import json
import os
import sys
import time
import traceback
from typing import Any

from absl import app, flags

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_MODELS = flags.DEFINE_list("models", [], "Names in keras.applications; by default all.")
_TOPOLOGY = flags.DEFINE_string("topology", "p100:4", "A preset or a topology file.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Samples in a step.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the random strategy.")
_JSON_OUT = flags.DEFINE_string("json_out", None, "File for the figures.")

_BASELINES = ("data_parallel", "expert")


def figures_of(name: str) -> dict[str, Any]:
    """What is found out about one architecture."""
    import keras
    import numpy as np

    from keras_soap.cli.models import load_graph
    from keras_soap.costs.roofline import Roofline
    from keras_soap.objective import Objective
    from keras_soap.strategy.baselines import BASELINES
    from keras_soap.strategy.search_space import SearchSpace
    from keras_soap.tasks.lowering import Costs, Lowering
    from keras_soap.topology.resolve import resolve

    keras.backend.clear_session()
    begin = time.perf_counter()
    graph = load_graph(name, _BATCH_SIZE.value, training=True)
    seconds = time.perf_counter() - begin
    topology, lowering = resolve(_TOPOLOGY.value), Lowering(graph)
    space = SearchSpace(graph, lowering.dimensions, topology)
    strategies = {
        key: BASELINES[key](graph, lowering.dimensions, topology) for key in _BASELINES
    } | {"random": space.random_strategy(np.random.default_rng(_SEED.value))}
    objective = Objective(Costs(lowering, topology, Roofline()), training=True)
    kinds = [operator.kind for operator in graph.operators]
    return {
        "num_operators": len(kinds),
        "num_split_by_sample_only": kinds.count("samplewise"),
        "num_whole": kinds.count("whole"),
        "num_parameters": sum(int(np.prod(weight.shape)) for weight in graph.weights),
        "capture_seconds": seconds,
        "step_time_ms": {
            key: objective.evaluate(strategy).step_time_ns / 1e6
            for key, strategy in strategies.items()
        },
    }


def main(argv: list[str]) -> None:
    """Goes through them, prints a row for each, writes the figures."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    import keras

    from keras_soap.proto.files import write_atomically

    known = [name for name, value in vars(keras.applications).items() if callable(value)]
    names = _MODELS.value or known
    if unknown := sorted(set(names) - set(known)):
        raise app.UsageError(f"keras.applications has no {', '.join(unknown)}.")
    print(
        f"Captured for training with {_BATCH_SIZE.value} samples a step, simulated on "
        f"{_TOPOLOGY.value}: step times in ms, analytic operator times."
    )
    found: dict[str, Any] = {}
    failed = []
    for name in names:
        try:
            found[name] = figures = figures_of(name)
        except Exception:
            traceback.print_exc()
            failed.append(name)
            continue
        times = ", ".join(f"{key} {ms:,.1f}" for key, ms in figures["step_time_ms"].items())
        print(
            f"{name}: {figures['num_parameters'] / 1e6:.1f} M parameters, "
            f"{figures['num_operators']} operators, {figures['num_split_by_sample_only']} split by "
            f"sample only, {figures['num_whole']} whole; {times} "
            f"(built and captured in {figures['capture_seconds']:.0f} s)",
            flush=True,
        )
    print(f"{len(found)} of {len(names)} captured and simulated.")
    if _JSON_OUT.value:
        figures = {
            "topology": _TOPOLOGY.value,
            "batch_size": _BATCH_SIZE.value,
            "cost_source": "analytic",
            "models": found,
            "failed": failed,
        }
        write_atomically(_JSON_OUT.value, (json.dumps(figures, indent=2) + "\n").encode())
    if failed:
        print(f"Failed: {', '.join(failed)}.")
        sys.exit(1)


if __name__ == "__main__":
    app.run(main)
