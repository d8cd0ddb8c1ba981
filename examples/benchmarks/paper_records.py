"""Figures of the paper's evaluation, and the file that keeps them."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keras_soap.graph.operator_graph import OperatorGraph
from keras_soap.proto.files import write_atomically
from keras_soap.search.result import SearchResult

NEAR = 1.01
"""The search is as good as done when its best is within 1 % of the final one."""

BY_ROW = (
    "iteration_time_ms",
    "lower_bound_ms",
    "samples_per_second",
    "communication_bytes",
    "peak_memory_bytes",
    "fits_memory",
    "seconds",
    "seconds_to_1_percent",
    "proposals",
    "stopped_by",
    "settings",
)


def given(**arguments: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in arguments.items() if value is not None}


@dataclass
class Record:
    """All figures of one network on one number of devices.

    Attributes:
        fixed: What they are of, and where times come from.
        figures: By name (`BY_ROW`) and row.
    """

    fixed: dict[str, Any]
    figures: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {name: {} for name in BY_ROW}
    )

    def has(self, row: str, settings: dict[str, Any]) -> bool:
        """Whether a row is there, and was made so."""
        return self.figures["settings"].get(row) == settings

    def add(self, row: str, result: SearchResult, settings: dict[str, Any]) -> None:
        """Adds a row, in place of what was there."""
        found = result.evaluation
        final = found.step_time_ns
        near = [p.seconds for p in result.history if p.best_ns <= NEAR * final]
        values = {
            "iteration_time_ms": final / 1e6,
            "lower_bound_ms": result.lower_bound_ns / 1e6,
            "samples_per_second": self.fixed["batch_size"] / (final / 1e9),
            "communication_bytes": found.communication_bytes,
            "peak_memory_bytes": max(found.peak_memory_bytes),
            "fits_memory": found.feasible,
            "seconds": result.search_seconds,
            "seconds_to_1_percent": near[0] if near else result.search_seconds,
            "proposals": result.proposals,
            "stopped_by": str(result.stopped_by),
            "settings": settings,
        }
        for name, value in values.items():
            self.figures[name][row] = value
        self.fixed["cost_source"] = str(result.cost_source)

    @property
    def rows(self) -> list[str]:
        return list(self.figures["iteration_time_ms"])

    def as_json(self) -> dict[str, Any]:
        seconds = self.figures["seconds"].get("soap")
        return {**self.fixed, **given(search_seconds=seconds), **self.figures}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Record":
        figures = {name: dict(content[name]) for name in BY_ROW}
        fixed = {key: value for key, value in content.items() if key not in BY_ROW}
        fixed.pop("search_seconds", None)
        return cls(fixed, figures)


@dataclass
class Records:
    """Records by model and number of devices, and the file that they are kept in.

    Attributes:
        path: The file; None to keep them nowhere.
        cluster: What they are of.
        found: The records.
    """

    path: str | None
    cluster: str
    found: dict[tuple[str, int], Record]

    @classmethod
    def load(cls, path: str | None, cluster: str) -> "Records":
        """Those in the file, if there is one.

        Raises:
            ValueError: If the file holds something else, or another cluster.
        """
        if path is None or not Path(path).exists():
            return cls(path, cluster, {})
        try:
            content = json.loads(Path(path).read_text("utf-8"))
            found = {
                (model, int(number)): Record.from_json(record)
                for model, of_model in content.items()
                for number, record in of_model["by_num_devices"].items()
            }
            others = {record.fixed["cluster"] for record in found.values()} - {cluster}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is not a file of this program ({error!r}). Give --json_out another name."
            ) from error
        if others:
            raise ValueError(
                f"{path} is of cluster {others.pop()!r}, not {cluster!r}. Give --json_out another "
                "name."
            )
        return cls(path, cluster, found)

    def of(self, model: str, num_devices: int, graph: OperatorGraph) -> Record:
        """The record of a network on a number of devices; empty if it was of another graph."""
        fixed = {
            "model": model,
            "cluster": self.cluster,
            "num_devices": num_devices,
            "batch_size": graph.batch_size,
            "num_operators": len(graph.operators),
            "graph": graph.fingerprint,
            "time_source": "simulated",
        }
        record = self.found.get((model, num_devices))
        if record is None or not fixed.items() <= record.fixed.items():
            record = self.found[model, num_devices] = Record(fixed)
        return record

    def save(self) -> None:
        """Writes the file, whole or not at all."""
        if self.path is None:
            return
        content: dict[str, Any] = {}
        for (model, num_devices), record in sorted(self.found.items()):
            if record.rows:
                before = content.get(model, {}).get("by_num_devices", {})
                entry = record.as_json()
                content[model] = {**entry, "by_num_devices": {**before, str(num_devices): entry}}
        write_atomically(self.path, (json.dumps(content, indent=1) + "\n").encode())
