"""Spreads chains over processes.

Each helper is a new interpreter that runs `keras_soap.search.worker`, so neither threads of this
process (TensorFlow's) nor the user's main module come along. This process computes too, so one core
needs no helper. Which process runs a chain does not change what the chain does.
"""

import os
import pickle
import subprocess
import sys

from keras_soap.search.chains import Chain, Phase, advance
from keras_soap.search.problem import Problem


class Workers:
    """This process and `num_cores` - 1 helpers. A context manager: leaving it ends the helpers."""

    def __init__(self, problem: Problem, num_cores: int):
        self.problem = problem
        self.helpers: list[subprocess.Popen] = []
        if num_cores <= 1:
            return
        try:
            message = pickle.dumps(problem)
        except Exception:  # Whatever a user's profile raises: search on with one core.
            return
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        for _ in range(num_cores - 1):
            helper = subprocess.Popen(
                [sys.executable, "-m", "keras_soap.search.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
            )
            self.helpers.append(helper)
            assert helper.stdin is not None
            helper.stdin.write(message)
            helper.stdin.flush()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *exception: object) -> None:
        for helper in self.helpers:
            helper.kill()
            helper.wait()
            for pipe in (helper.stdin, helper.stdout):
                assert pipe is not None
                pipe.close()
        self.helpers = []

    def advance(
        self,
        chains: list[Chain],
        phases: list[Phase],
        proposals: int | None,
        seconds: float | None,
    ) -> list[Chain]:
        """All chains after one more round, in which each makes `proposals` or takes `seconds`."""
        pairs = list(zip(chains, phases, strict=True))
        shares = [pairs[start :: len(self.helpers) + 1] for start in range(len(self.helpers) + 1)]
        for helper, share in zip(self.helpers, shares[1:], strict=True):
            assert helper.stdin is not None
            pickle.dump((share, proposals, seconds), helper.stdin)
            helper.stdin.flush()
        advanced = [advance(self.problem, *pair, proposals, seconds) for pair in shares[0]]
        for helper in self.helpers:
            assert helper.stdout is not None
            advanced += pickle.load(helper.stdout)
        return sorted(advanced, key=lambda chain: chain.number)
