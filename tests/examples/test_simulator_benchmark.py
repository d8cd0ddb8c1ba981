"""The benchmark of the simulator runs, and writes what it measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "examples" / "benchmarks" / "simulator.py"


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(PROGRAM), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_measures_a_chain_and_writes_the_figures(tmp_path):
    path = tmp_path / "figures.json"
    done = run("--model=lenet", "--num_devices=2", "--seconds=0.05", f"--json_out={path}")
    assert done.returncode == 0, done.stderr
    figures = json.loads(path.read_text())
    assert figures["model"] == "lenet"
    assert 0 < figures["accepted"] <= figures["proposals"]
    for name in ("proposals_per_second", "tasks_per_second", "num_tasks", "delta_over_full"):
        assert figures[name] > 0
    assert 0 < figures["build_share"] <= 1
    assert "lenet" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--model=lenet5"], "no such network. Known: "),
        (["--model=lenet", "--num_devices=6", "--devices_per_node=4"], "such as 1"),
    ],
)
def test_what_makes_no_sense_ends_it_with_the_reason(arguments, reason):
    done = run(*arguments)
    assert done.returncode != 0
    assert reason in done.stdout + done.stderr
