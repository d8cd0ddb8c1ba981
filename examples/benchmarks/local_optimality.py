"""Whether any change of one operator improves what the search finds.

For each network and number of devices: a search, a greedy descent without a budget, and then a
separate check that tries every change again. Costs are simulated on analytic operator times.

    python examples/benchmarks/local_optimality.py --models=alexnet,nmt --num_devices=2,4,8
"""

import json
import time

from absl import app, flags

from keras_soap.costs.roofline import Roofline
from keras_soap.graph.zoo import MODELS
from keras_soap.objective import Evaluation
from keras_soap.proto.files import write_atomically
from keras_soap.report.table import render
from keras_soap.search import descent, mcmc
from keras_soap.search.problem import Budget, Problem
from keras_soap.search.tracker import Tracker
from keras_soap.topology.presets import scaled_cluster

_MODELS = flags.DEFINE_list(
    "models", ["alexnet", "inception_v3", "resnet101", "nmt"], "Networks of the zoo."
)
_NUM_DEVICES = flags.DEFINE_list("num_devices", ["2", "4", "8"], "P100s, in nodes of 4.")
_SECONDS = flags.DEFINE_float("seconds", 20.0, "For each search before the descent.", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the searches.")
_ANYWHERE = flags.DEFINE_bool(
    "anywhere", False, "Try every placement, rather than the structured ones (small machines)."
)
_JSON_OUT = flags.DEFINE_string("json_out", None, "File for the figures.")


def improving(problem: Problem, best: Evaluation, anywhere: bool) -> tuple[int, int]:
    """How many changes of one operator were tried, and how many improve `best`."""
    tried = better = 0
    best = problem.objective.evaluate(best.strategy)
    for family, members in enumerate(problem.space.families):
        for config in descent.candidates(problem.space, family, best.strategy, anywhere):
            proposed = problem.objective.update(
                best, dict.fromkeys(members, config), best.step_time_ns
            )
            tried += 1
            better += proposed.rank < best.rank
    return tried, better


def examine(model: str, num_devices: int) -> dict:
    """The figures of one network on one machine."""
    problem = Problem(MODELS[model](), scaled_cluster(num_devices), Roofline())
    found = mcmc.search(problem, Budget(_SECONDS.value), _SEED.value).evaluation
    began = time.perf_counter()
    tracker = Tracker(problem, Budget(proposals=10**12))
    tracker.offer(found)
    descent.descend(tracker.best, problem.space, problem.objective, tracker, _ANYWHERE.value)
    tried, better = improving(problem, tracker.best, _ANYWHERE.value)
    return {
        "model": model,
        "num_devices": num_devices,
        "best_baseline_ms": min(e.step_time_ns for e in problem.starts if e.feasible) / 1e6,
        "search_ms": found.step_time_ns / 1e6,
        "descent_ms": tracker.best.step_time_ns / 1e6,
        "changes_tried": tried,
        "changes_that_improve": better,
        "descent_and_check_seconds": time.perf_counter() - began,
        "cost_source": str(problem.profile.source),
    }


def main(_: list[str]) -> None:
    """Examines all, prints a table, writes the figures."""
    figures = []
    for model in _MODELS.value:
        for num_devices in map(int, _NUM_DEVICES.value):
            figures.append(examine(model, num_devices))
            print(f"{model} on {num_devices} devices: done", flush=True)
    headers = ["model", "devices", "start", "search", "descent", "tried", "improve"]
    rows = [
        [
            row["model"],
            str(row["num_devices"]),
            *(f"{row[key]:.3f}" for key in ("best_baseline_ms", "search_ms", "descent_ms")),
            f"{row['changes_tried']:,}",
            str(row["changes_that_improve"]),
        ]
        for row in figures
    ]
    print(f"Simulated step times in ms, {figures[0]['cost_source']} operator times:")
    print(render(headers, rows, headers[1:]))
    if _JSON_OUT.value:
        write_atomically(_JSON_OUT.value, (json.dumps(figures, indent=2) + "\n").encode())


if __name__ == "__main__":
    app.run(main)
