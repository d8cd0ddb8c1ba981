"""The benchmark of searches runs, and writes what each seed found."""

import json
import subprocess
import sys
from pathlib import Path

from keras_soap.graph.zoo import MODELS
from keras_soap.search.problem import Budget
from keras_soap.search.run import search
from keras_soap.topology.presets import scaled_cluster

PROGRAM = Path(__file__).parents[2] / "examples" / "benchmarks" / "search.py"


def test_with_a_number_of_proposals_each_seed_ends_where_the_search_itself_does(tmp_path):
    path = tmp_path / "figures.json"
    arguments = ["--model=lenet", "--num_devices=2", "--seeds=2", "--num_proposals=300"]
    command = [sys.executable, str(PROGRAM), *arguments, "--num_cores=1", f"--json_out={path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(path.read_text())
    alone = [
        search(
            MODELS["lenet"](),
            scaled_cluster(2),
            budget=Budget(proposals=300),
            seed=seed,
            num_cores=1,
            progress=False,
        ).evaluation.step_time_ns
        / 1e6
        for seed in range(2)
    ]
    assert figures["best_cost_ms"] == alone
    assert figures["spread"] == max(alone) / min(alone) - 1
    assert (figures["num_proposals"], figures["seconds"]) == (300, None)
