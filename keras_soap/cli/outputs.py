"""What planning commands print and leave behind."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from absl import flags

from keras_soap.objective import Evaluation
from keras_soap.proto.files import write_atomically
from keras_soap.report import summary, trace
from keras_soap.simulator import reference
from keras_soap.strategy import proto_io
from keras_soap.strategy.saved_strategy import Figures
from keras_soap.tasks.build import build
from keras_soap.tasks.lowering import Costs


@dataclass(frozen=True)
class Plan:
    """The outcome of a planning command.

    Attributes:
        costs: Of the operators on the topology.
        evaluations: Strategies by name; the first one is what was asked for.
        training: Whether a step is one of training.
        method: What found the first strategy.
        search: What else to say of the search, for JSON.
    """

    costs: Costs
    evaluations: Mapping[str, Evaluation]
    training: bool
    method: str
    search: Mapping[str, Any] = field(default_factory=dict)


def define_output_flags(values: flags.FlagValues) -> None:
    """Flags that name the files to write."""
    for name, what in (
        ("export_strategy", "File to write the strategy to: .textproto, or .pb for binary."),
        ("trace_out", "File to write the simulated step to, for https://ui.perfetto.dev (JSON)."),
        ("json_out", "File to write all figures to, as JSON."),
        ("report_out", "File to write a page with tables and the timeline to (HTML)."),
    ):
        flags.DEFINE_string(name, None, what, flag_values=values)


def finish(plan: Plan, values: flags.FlagValues) -> None:
    """Prints the summary and writes the files that flags name."""
    costs = plan.costs
    graph, topology = costs.lowering.graph, costs.topology
    first = next(iter(plan.evaluations.values()))
    print(summary.summarize(costs, plan.evaluations, plan.training))
    written = {}
    if values.export_strategy:
        proto_io.save(
            values.export_strategy,
            first.strategy,
            graph,
            costs.lowering.dimensions,
            topology,
            Figures(
                first.step_time_ns,
                first.communication_bytes,
                first.peak_memory_bytes,
                costs.profile.source,
                plan.method,
            ),
        )
        written["strategy"] = values.export_strategy
    if values.json_out:
        content = json.dumps(figures(plan, values.model), indent=2) + "\n"
        write_atomically(values.json_out, content.encode())
        written["figures"] = values.json_out
    if values.trace_out or values.report_out:
        tasks = build(costs, first.strategy, plan.training)
        timeline = reference.simulate(tasks)
        if values.trace_out:
            trace.write_trace(values.trace_out, graph, topology, tasks, timeline)
            written["trace"] = values.trace_out
        if values.report_out:
            from keras_soap.report import html

            html.write_report(
                values.report_out, costs, plan.evaluations, tasks, timeline, plan.training
            )
            written["report"] = values.report_out
    for what, path in written.items():
        print(f"Wrote the {what} to {path}")


def figures(plan: Plan, model: str) -> dict[str, Any]:
    """All figures, as the JSON file holds them. Times are simulated."""
    evaluations = plan.evaluations
    topology = plan.costs.topology
    return {
        "model": model,
        "topology": topology.name,
        "num_devices": topology.num_devices,
        "batch_size": plan.costs.lowering.graph.batch_size,
        "num_operators": len(plan.costs.lowering.graph.operators),
        "mode": "training" if plan.training else "inference",
        "iteration_time_ms": {
            name: evaluation.step_time_ns / 1e6 for name, evaluation in evaluations.items()
        },
        "communication_bytes": {
            name: evaluation.communication_bytes for name, evaluation in evaluations.items()
        },
        # Of the device that needs most.
        "peak_memory_bytes": {
            name: max(evaluation.peak_memory_bytes) for name, evaluation in evaluations.items()
        },
        "fits_memory": {name: evaluation.feasible for name, evaluation in evaluations.items()},
        **plan.search,
        "time_source": "simulated",
        "cost_source": str(plan.costs.profile.source),
    }
