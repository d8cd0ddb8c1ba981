"""How well the simulator predicts the time of a training step, on logical CPU devices.

For each network: its parts and the machine's connections are measured; strategies are made (data
parallelism, model parallelism, the expert's, one that a search finds, and of random ones over S, O,
A and P, of few or many operators, those whose predictions lie far apart); each is predicted, and
trained with one thread for each device. All strategies of a network take short turns in one
process, there and back, round after round, so that a machine that slows down slows them all; after
some rounds another process goes on. Steps in which cores were slow, as those of a virtual machine
are while others use its host, do not count. Of the pair that was predicted worst, a trace and the
times of its tasks are left.

With `--results_dir`, what was done is kept there, and a run that was interrupted goes on where it
was. Measure on an idle machine.

    python examples/benchmarks/accuracy.py --models=alexnet,rnnlm --num_strategies=12 \
        --num_devices=2 --results_dir=out/accuracy --json_out=accuracy.json
"""

import dataclasses
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from absl import app, flags

sys.path.insert(0, str(Path(__file__).parents[1]))

import accuracy_figures as figures_of
import accuracy_worker as worker

ROUNDS_OF_PROCESS = 6
"""Steps under a strategy are some percent faster in one process than in another, as tensors lie
elsewhere in memory: so rounds are those of several."""

_MODELS = flags.DEFINE_list("models", list(worker.SIZES), "Networks of examples/.")
_SIZE = flags.DEFINE_enum(
    "size", "benchmark", ["benchmark", "tiny"], "Sizes of networks; tiny only shows that it runs."
)
_NUM_STRATEGIES = flags.DEFINE_integer(
    "num_strategies", 12, "For each network; what the named ones leave are random.", 2
)
_NUM_DEVICES = flags.DEFINE_integer("num_devices", 2, "Logical CPU devices.", lower_bound=2)
_NUM_ROUNDS = flags.DEFINE_integer("num_rounds", 24, "Turns of each strategy.", lower_bound=1)
_NUM_STEPS = flags.DEFINE_integer("num_steps", 3, "Steps to time in a turn.", lower_bound=1)
_SEARCH_BUDGET_S = flags.DEFINE_float("search_budget_s", 10.0, "Seconds to search.", lower_bound=0)
_PART_SECONDS = flags.DEFINE_float(
    "part_seconds", 1.0, "Seconds at most to repeat a part.", lower_bound=0
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the search, and of random strategies.")
_RESULTS_DIR = flags.DEFINE_string("results_dir", None, "Folder to keep results in, and resume.")
_JSON_OUT = flags.DEFINE_string("json_out", None, "File for the figures.")
_PLOT_OUT = flags.DEFINE_string("plot_out", None, "File for a scatter plot (needs matplotlib).")
_TRACE_OUT = flags.DEFINE_string("trace_out", None, "File for the trace of the worst pair.")
_WORKER = flags.DEFINE_string("worker", None, "Of this program itself: what to do, for one model.")
_FOLDER = flags.DEFINE_string("folder", None, "Of this program itself: of the model.")
_STRATEGY = flags.DEFINE_string("strategy", None, "Of this program itself: what to trace.")


def options() -> worker.Options:
    """What the flags say."""
    names = [field.name for field in dataclasses.fields(worker.Options)]
    return worker.Options(**{name: flags.FLAGS[name].value for name in names})


def main(argv: list[str]) -> None:
    """Plans, trains under every strategy, and prints a table."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    unknown = set(_MODELS.value) - set(worker.SIZES)
    if unknown:
        raise app.UsageError(
            f"--models={','.join(sorted(unknown))}: use {', '.join(worker.SIZES)}."
        )
    if _WORKER.value:
        _work()
        return
    if _PLOT_OUT.value and importlib.util.find_spec("matplotlib") is None:
        raise app.UsageError("--plot_out needs matplotlib: pip install 'keras_soap[report]'.")
    with tempfile.TemporaryDirectory() as scratch:
        _compare(Path(_RESULTS_DIR.value or scratch))


def _compare(folder: Path) -> None:
    all_pairs: list[dict[str, Any]] = []
    pairs: list[figures_of.Pair] = []
    print(
        f"{'network':<14}{'strategy':<20}{'measured s':>11}{'±':>5}{'cores':>7}"
        f"{'predicted s':>12}{'error':>8}"
    )
    for model in _MODELS.value:
        mine = _folder(folder, model)
        if not (mine / "plan.json").exists():
            _run_worker(model, mine, "plan")
        for rounds in range(0, _NUM_ROUNDS.value, ROUNDS_OF_PROCESS):
            until = min(rounds + ROUNDS_OF_PROCESS, _NUM_ROUNDS.value)
            _run_worker(model, mine, "measure", f"--num_rounds={until}")
        measured = json.loads((mine / "measured.json").read_text())
        of_model = [
            {"model": model, "strategy": name, "predicted_s": seconds, **measured[name]}
            for name, seconds in json.loads((mine / "plan.json").read_text()).items()
        ]
        all_pairs += of_model
        counted = figures_of.of_network(of_model)
        pairs += counted
        for pair in counted:
            print(
                f"{model:<14}{pair['strategy']:<20}{pair['step_s']:>11.4f}"
                f"{pair['spread']:>5.0%}{figures_of.cores(pair):>7.2f}"
                f"{pair['predicted_s']:>12.4f}{figures_of.error(pair):>8.0%}",
                flush=True,
            )
        print(
            f"{model}: {figures_of.num_steps(counted)} of {figures_of.num_steps(of_model)} steps "
            "count, those in which cores were fast."
        )
    figures = {
        **dataclasses.asdict(options()),
        "cost_source": "measured",
        **figures_of.summarize(pairs),
        "pairs": all_pairs,
    }
    print(figures_of.render(figures))
    worst = max(pairs, key=lambda pair: abs(figures_of.error(pair)))
    trace_out = _TRACE_OUT.value or str(folder / "worst.json")
    breakdown = _run_worker(
        worst["model"],
        _folder(folder, worst["model"]),
        "trace",
        f"--strategy={worst['strategy']}",
        f"--trace_out={trace_out}",
    )
    print(f"\nThe worst pair, {breakdown}", end="")
    if _JSON_OUT.value:
        from keras_soap.proto.files import write_atomically

        figures["breakdown_of_worst"] = breakdown
        write_atomically(_JSON_OUT.value, (json.dumps(figures, indent=2) + "\n").encode())
    if _PLOT_OUT.value:
        figures_of.plot(pairs, _PLOT_OUT.value)


def _folder(folder: Path, model: str) -> Path:
    """Of results that depend on all options but how long to measure."""
    asked = options()
    return folder / "-".join(
        [
            model,
            asked.size,
            f"{asked.num_devices}_devices",
            f"{asked.num_strategies}_strategies",
            f"seed_{asked.seed}",
        ]
    )


def _work() -> None:
    (model,) = _MODELS.value
    folder = Path(_FOLDER.value)
    if _WORKER.value == "plan":
        worker.plan(model, folder, options())
    elif _WORKER.value == "measure":
        worker.measure(model, folder, options())
    else:
        worker.trace(model, folder, _STRATEGY.value, _TRACE_OUT.value, options())


def _run_worker(model: str, folder: Path, task: str, *more: str) -> str:
    """Runs a part of this program in a process of its own; gives what it prints."""
    given = [f"--{name}={value}" for name, value in dataclasses.asdict(options()).items()]
    given += [f"--models={model}", f"--folder={folder}", f"--worker={task}", *more]
    done = subprocess.run(
        [sys.executable, str(Path(__file__)), *given], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{model}: {task} failed:\n{done.stderr[-3000:]}")
    return done.stdout


if __name__ == "__main__":
    app.run(main)
