"""What the benchmark of training speed makes of its runs."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from absl import flags

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """The program as a module, with flags of its own."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("training_benchmark", BENCHMARKS / "training.py")
    assert spec is not None
    assert spec.loader is not None
    before = set(flags.FLAGS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)
    sys.modules.pop("spmd", None)


def run(benchmark, monkeypatch, tmp_path, seconds, *arguments):
    """The figures, where runs of each system take `seconds` in turn."""
    path = tmp_path / "figures.json"
    left = {system: list(values) for system, values in seconds.items()}
    turns = []

    def worker(system):
        turns.append(system)
        found = left[system].pop(0)
        if isinstance(found, str):
            return found
        return {"seconds": found, "first_step_s": 10.0, "search_s": 4.0}

    monkeypatch.setattr(benchmark, "_run_worker", worker)
    flags.FLAGS(["training.py", f"--json_out={path}", *arguments])
    benchmark.main(["training.py"])
    return json.loads(path.read_text()), turns


def test_systems_take_turns_and_are_compared_with_mirrored(benchmark, monkeypatch, tmp_path):
    seconds = {
        "keras": [4.0, 6.0],
        "mirrored": [2.0, 2.0],
        "dtensor": [8.0, 8.0],
        "soap_data_parallel": [2.0, 2.0],
        "soap": [0.5, 1.5],
    }
    figures, turns = run(benchmark, monkeypatch, tmp_path, seconds, "--batch_size=10")
    assert turns == list(seconds) * 2
    assert figures["samples_per_second"] == {
        "keras": 2.0,
        "mirrored": 5.0,
        "dtensor": 1.25,
        "soap_data_parallel": 5.0,
        "soap": 10.0,
    }
    assert figures["ratio_to_mirrored"]["soap"] == 2.0
    assert figures["ratio_to_mirrored"]["mirrored"] == 1.0
    # Without the search.
    assert figures["first_step_seconds"]["soap"] == 6.0
    assert figures["time_source"] == "measured"


def test_a_model_that_dtensor_cannot_run(benchmark, monkeypatch, tmp_path, capsys):
    seconds = {"mirrored": [2.0], "dtensor": ["ValueError: no rule for AvgPoolGrad"]}
    figures, _ = run(
        benchmark, monkeypatch, tmp_path, seconds, "--systems=mirrored,dtensor", "--num_rounds=1"
    )
    assert figures["samples_per_second"]["dtensor"] is None
    assert figures["ratio_to_mirrored"]["dtensor"] is None
    assert figures["not_run"] == {"dtensor": "ValueError: no rule for AvgPoolGrad"}
    assert "cannot run it: ValueError" in capsys.readouterr().out


def test_unknown_systems_are_refused(benchmark):
    with pytest.raises(flags.IllegalFlagValueError, match="must be some of keras"):
        flags.FLAGS(["training.py", "--systems=keras,jax"])
