"""A plan: a strategy with what it is predicted to cost, ready to read and to keep."""

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keras_soap.objective import Evaluation
from keras_soap.proto.files import write_atomically
from keras_soap.report import breakdown, html, summary, trace
from keras_soap.report.ran_step import RanStep
from keras_soap.search.result import SearchResult
from keras_soap.simulator import reference
from keras_soap.simulator.timeline import Timeline
from keras_soap.strategy import proto_io
from keras_soap.strategy.saved_strategy import Figures
from keras_soap.strategy.strategy import Strategy
from keras_soap.tasks.build import build
from keras_soap.tasks.lowering import Costs
from keras_soap.tasks.task_graph import TaskGraph


@dataclass(frozen=True)
class Plan:
    """A strategy for a model on a machine, beside others.

    Attributes:
        costs: Of the model's operators on the topology.
        evaluations: Strategies by name; the first one is what was asked for.
        training: Whether a step is one of training.
        method: What found the first strategy.
        result: The search, if there was one.
    """

    costs: Costs
    evaluations: Mapping[str, Evaluation]
    training: bool
    method: str
    result: SearchResult | None = None

    @property
    def evaluation(self) -> Evaluation:
        """What the strategy costs; simulated."""
        return next(iter(self.evaluations.values()))

    @property
    def strategy(self) -> Strategy:
        """The strategy that was asked for."""
        return self.evaluation.strategy

    def summary(self) -> str:
        """Tables for people: operators under the strategy, and totals of all strategies."""
        return summary.summarize(self.costs, self.evaluations, self.training)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the strategy to a file: text, or binary if its name ends in `.pb`."""
        lowering = self.costs.lowering
        figures = Figures(
            self.evaluation.step_time_ns,
            self.evaluation.communication_bytes,
            self.evaluation.peak_memory_bytes,
            self.costs.profile.source,
            self.method,
        )
        proto_io.save(
            path, self.strategy, lowering.graph, lowering.dimensions, self.costs.topology, figures
        )

    @functools.cached_property
    def simulated(self) -> tuple[TaskGraph, Timeline]:
        """The strategy's tasks, and when each runs."""
        tasks = build(self.costs, self.strategy, self.training)
        return tasks, reference.simulate(tasks)

    def write_trace(self, path: str | os.PathLike[str], ran: RanStep | None = None) -> None:
        """Writes the simulated step as a Chrome trace, for https://ui.perfetto.dev.

        Args:
            path: Of the file.
            ran: The step as it really ran, to be beside it.
        """
        graph, topology = self.costs.lowering.graph, self.costs.topology
        trace.write_trace(path, graph, topology, *self.simulated, ran)

    def breakdown(self, ran: RanStep) -> list[breakdown.Row]:
        """Times of tasks, predicted and measured, those that differ most first."""
        graph, topology = self.costs.lowering.graph, self.costs.topology
        return breakdown.rows(graph, topology, *self.simulated, ran)

    def write_report(self, path: str | os.PathLike[str]) -> None:
        """Writes a page with the tables and the timeline."""
        html.write_report(path, self.costs, self.evaluations, *self.simulated, self.training)

    def write_figures(self, path: str | os.PathLike[str], model: str = "") -> None:
        """Writes `figures` to a JSON file."""
        content = json.dumps(self.figures(model), indent=2) + "\n"
        write_atomically(path, content.encode())

    def figures(self, model: str = "") -> dict[str, Any]:
        """All figures, units in their names. Times are simulated."""
        topology, graph = self.costs.topology, self.costs.lowering.graph
        evaluations = self.evaluations.items()
        return {
            "model": model or graph.name,
            "topology": topology.name,
            "num_devices": topology.num_devices,
            "batch_size": graph.batch_size,
            "num_operators": len(graph.operators),
            "mode": "training" if self.training else "inference",
            "iteration_time_ms": {name: e.step_time_ns / 1e6 for name, e in evaluations},
            "communication_bytes": {name: e.communication_bytes for name, e in evaluations},
            # Of the device that needs most.
            "peak_memory_bytes": {name: max(e.peak_memory_bytes) for name, e in evaluations},
            "fits_memory": {name: e.feasible for name, e in evaluations},
            **({} if self.result is None else _search_figures(self.result)),
            "time_source": "simulated",
            "cost_source": str(self.costs.profile.source),
        }


def _search_figures(result: SearchResult) -> dict[str, Any]:
    return {
        "proposals": result.proposals,
        "proposals_per_second": result.proposals_per_second,
        "search_seconds": result.search_seconds,
        "stopped_by": str(result.stopped_by),
        "seed": result.seed,
        "method": result.method,
        "proved_optimal": result.proved,
        "lower_bound_ms": result.lower_bound_ns / 1e6,
    }
