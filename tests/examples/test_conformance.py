"""Programs that go through architectures find nothing that differs, or that cannot be captured."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(program, *arguments):
    path = ROOT / "examples" / "benchmarks" / program
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, str(path), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


def test_small_models_train_under_random_strategies_as_on_one_device():
    models = ["siamese", "structured_data", "deep_and_cross", "memory_network", "bidirectional"]
    done = run("conformance.py", f"--model={','.join(models)}", "--num_strategies=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("passed") == len(models)


def test_a_difference_ends_the_program_with_the_names_of_the_models():
    done = run("conformance.py", "--model=categories", "--num_strategies=1", "--tolerance=0")
    assert done.returncode == 1
    assert "Failed: categories." in done.stdout


def test_applications_are_captured_and_simulated(tmp_path):
    names = ["MobileNetV3Small", "ConvNeXtTiny"]
    path = tmp_path / "figures.json"
    done = run("applications.py", f"--models={','.join(names)}", f"--json_out={path}")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(path.read_text())["models"]
    assert list(found) == names
    assert not any(figures["num_whole"] for figures in found.values())
