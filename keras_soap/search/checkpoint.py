"""Saves where a search stands, and resumes it.

The file is JSON, written beside its place and then moved there, so it is always whole.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_soap.errors import SearchError
from keras_soap.search.chains import Chain
from keras_soap.search.metropolis import ChainState
from keras_soap.search.problem import Problem
from keras_soap.search.result import Progress
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.strategy.strategy import Strategy

SCHEMA_VERSION = 2
SAVE_EVERY_SECONDS = 5.0


@dataclass(frozen=True)
class Saved:
    """A search as it was saved."""

    seconds: float
    proposals: int
    best: Strategy
    history: tuple[Progress, ...]
    chains: list[Chain]


def save(
    path: Path | None,
    problem: Problem,
    method: str,
    seed: int,
    tracker,
    chains: Sequence[Chain] = (),
    now: bool = False,
) -> None:
    """Saves to `path`, if there is one, every few seconds or `now`."""
    if path is None or not (now or _is_due(path)):
        return
    content = {
        "schema_version": SCHEMA_VERSION,
        **_identity(problem, method, seed),
        "seconds": tracker.seconds,
        "proposals": tracker.proposals,
        "best": _strategy_to_json(tracker.best.strategy),
        "history": [[p.seconds, p.proposals, p.best_ns] for p in tracker.history],
        "chains": [
            {
                "rng": chain.rng.bit_generator.state,
                "current": _strategy_to_json(chain.state.current.strategy),
                "best": _strategy_to_json(chain.state.best.strategy),
                "proposals": chain.proposals,
                "origin": _strategy_to_json(chain.origin.strategy),
            }
            for chain in chains
        ],
    }
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content))
    os.replace(temporary, path)


def load(path: Path | None, problem: Problem, method: str, seed: int) -> Saved | None:
    """What is saved at `path`, or None if nothing is.

    Raises:
        SearchError: If it was saved by another search.
    """
    if path is None or not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        version = content["schema_version"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise SearchError(
            f"{path} does not hold a saved search ({error!r}). Remove it, or name another file."
        ) from error
    expected = {"schema_version": SCHEMA_VERSION, **_identity(problem, method, seed)}
    for name, value in expected.items():
        if content.get(name) != value:
            raise SearchError(
                f"{path} was saved by a search with {name}={content.get(name)!r}, but this one has "
                f"{name}={value!r}. Search with the former, or remove the file to start anew."
            )
    assert version == SCHEMA_VERSION
    evaluate = problem.objective.evaluate
    chains = []
    for number, saved in enumerate(content["chains"]):
        rng = np.random.default_rng()
        rng.bit_generator.state = saved["rng"]
        state = ChainState(
            evaluate(_strategy_from_json(saved["current"])),
            evaluate(_strategy_from_json(saved["best"])),
        )
        origin = evaluate(_strategy_from_json(saved["origin"]))
        chains.append(Chain(number, rng, state, saved["proposals"], origin))
    return Saved(
        content["seconds"],
        content["proposals"],
        _strategy_from_json(content["best"]),
        tuple(Progress(*line) for line in content["history"]),
        chains,
    )


def _identity(problem: Problem, method: str, seed: int) -> dict[str, Any]:
    return {
        "method": method,
        "graph": problem.graph.fingerprint,
        "topology": problem.topology.name,
        "num_devices": problem.topology.num_devices,
        "dims": problem.dims,
        "training": problem.training,
        "num_slots": problem.num_slots,
        "seed": seed,
    }


def _is_due(path: Path) -> bool:
    return not path.exists() or time.time() - path.stat().st_mtime >= SAVE_EVERY_SECONDS


def _strategy_to_json(strategy: Strategy) -> list[list[tuple[int, ...]]]:
    return [[config.degrees, config.devices] for config in strategy.configs]


def _strategy_from_json(rows: list[list[list[int]]]) -> Strategy:
    return Strategy(
        tuple(ParallelConfig(tuple(degrees), tuple(devices)) for degrees, devices in rows)
    )
