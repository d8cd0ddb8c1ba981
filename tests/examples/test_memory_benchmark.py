"""Peak memory is as predicted, and falls when a model is split by parameter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
def test_memory_of_a_device_is_as_predicted_and_falls_when_units_are_split(tmp_path):
    path = tmp_path / "memory.json"
    program = ROOT / "examples" / "benchmarks" / "memory.py"
    arguments = ["--width=2048", "--num_layers=6", "--optimizers=adam"]
    done = subprocess.run(
        [sys.executable, str(program), *arguments, f"--json_out={path}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(path.read_text())["adam"]
    for split in ("samples", "units"):
        predicted = found[split]["predicted_bytes"]
        assert found[split]["measured_bytes"] == pytest.approx(predicted, rel=0.25)
    # Weights, their gradients and two moments: one device would hold all of them.
    everything = 4 * 4 * 6 * 2048 * 2049
    assert found["units"]["measured_bytes"] < 0.7 * everything
