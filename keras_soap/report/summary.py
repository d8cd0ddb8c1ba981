"""A strategy as a table for people, beside others such as data parallelism.

1. Each operator has a row: its split (`S2` samples, `height A2` an attribute, `units P4` a
   parameter dimension, `whole` undivided), its devices (the O of SOAP), and how long its slowest
   part takes, forward and backward.
2. Each strategy has a row of totals. A total is simulated; the label says what it is made of.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keras_soap.graph.operator_graph import INPUT
from keras_soap.objective import Evaluation
from keras_soap.operators.rule import DimensionKind
from keras_soap.report import table
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.strategy.saved_strategy import SavedStrategy
from keras_soap.strategy.strategy import Strategy
from keras_soap.tasks.lowering import Costs

_SHOWN_DEVICES = 8


@dataclass(frozen=True, slots=True)
class OperatorRow:
    """What a table says of one operator under one strategy.

    Attributes:
        name: Of the operator.
        kind: Of its rule.
        split: Its degrees with their letters.
        devices: Of its parts, in order.
        forward_ns: Of its slowest part.
        backward_ns: Of its slowest part, the gradients of weights included; 0 if it has no
            backward pass.
    """

    name: str
    kind: str
    split: str
    devices: tuple[int, ...]
    forward_ns: int
    backward_ns: int


def operator_rows(costs: Costs, strategy: Strategy, training: bool = True) -> list[OperatorRow]:
    """The rows of all operators under `strategy`, but for inputs, which lie where they are read."""
    graph = costs.lowering.graph
    rows = []
    for number, (operator, config) in enumerate(
        zip(graph.operators, strategy.configs, strict=True)
    ):
        if operator.kind == INPUT:
            continue
        slowest = [0, 0]
        for part, device in enumerate(config.devices):
            times = costs.part_times_ns(number, config.degrees, device)
            both_ways = times.forward, times.backward + times.weight_gradient
            slowest = [
                max(until_now, int(of_way[part]))
                for until_now, of_way in zip(slowest, both_ways, strict=True)
            ]
        backward_ns = slowest[1] if training and graph.has_backward[number] else 0
        dimensions = [(d.name, d.kind) for d in costs.lowering.dimensions[number]]
        rows.append(
            OperatorRow(
                operator.name,
                operator.kind,
                describe_split(dimensions, config),
                config.devices,
                slowest[0],
                backward_ns,
            )
        )
    return rows


def describe_split(
    dimensions: Sequence[tuple[str, DimensionKind | None]], config: ParallelConfig
) -> str:
    """Degrees with letters: `"S2 height A2"`; `"whole"` if there is one part."""
    words = []
    for (name, kind), degree in zip(dimensions, config.degrees, strict=True):
        if degree == 1:
            continue
        letter = kind.letter if kind else "×"
        words.append(f"S{degree}" if kind == DimensionKind.SAMPLE else f"{name} {letter}{degree}")
    return " ".join(words) or "whole"


def summarize(costs: Costs, evaluations: Mapping[str, Evaluation], training: bool = True) -> str:
    """A table of the operators under the first strategy, and one of the totals of all.

    Args:
        costs: Of the operators on the topology.
        evaluations: Strategies by name, such as `{"soap": …, "data_parallel": …}`. The first one's
            splits and devices are shown, and the times of the first two.
        training: Whether a step is one of training.
    """
    names = list(evaluations)
    tables = [operator_rows(costs, evaluations[name].strategy, training) for name in names[:2]]
    source = costs.profile.source
    first = evaluations[names[0]].step_time_ns
    headers = ["operator", "kind", "split", "devices"]
    numeric = []
    for name in names[:2]:
        numeric += [f"{name} forward µs", f"{name} backward µs"]
    rows = []
    for same in zip(*tables, strict=True):
        cells = [same[0].name, same[0].kind, same[0].split, table.ranges(same[0].devices)]
        for row in same:
            cells.append(table.microseconds(row.forward_ns))
            cells.append(table.microseconds(row.backward_ns) if row.backward_ns else "–")
        rows.append(cells)
    topology = costs.topology
    graph = costs.lowering.graph
    step = "training step" if training else "inference step"
    return "\n".join(
        [
            f"{graph.name}, batch size {graph.batch_size}, on {topology.name} "
            f"({topology.num_devices} devices). S sample, A attribute, P parameter; the number is "
            f"the degree. Times of the slowest part ({source}).",
            "",
            table.render([*headers, *numeric], rows, numeric),
            "",
            f"One {step}, simulated from {source} costs. Moved: bytes between devices. Memory: "
            "peak of each device.",
            "",
            totals(evaluations, first),
        ]
    )


def totals(evaluations: Mapping[str, Evaluation], reference_ns: int) -> str:
    """A table with a row of totals for each strategy.

    Args:
        evaluations: Strategies by name.
        reference_ns: The step time that others are put in relation to.
    """
    headers = ["strategy", "step time", "relative", "moved", "memory"]
    rows = []
    for name, evaluation in evaluations.items():
        relative = evaluation.step_time_ns / reference_ns if reference_ns else 1.0
        rows.append(
            [
                name,
                table.milliseconds(evaluation.step_time_ns),
                f"{relative:.2f}×",
                table.size(evaluation.communication_bytes),
                memory(evaluation.peak_memory_bytes)
                + ("" if evaluation.feasible else " (does not fit)"),
            ]
        )
    return table.render(headers, rows, headers[1:4])


def memory(peak_memory_bytes: Sequence[int]) -> str:
    """The peak of each device, or least and most of many."""
    if len(set(peak_memory_bytes)) == 1:
        return f"{table.size(peak_memory_bytes[0])} each"
    if len(peak_memory_bytes) <= _SHOWN_DEVICES:
        return ", ".join(table.size(peak) for peak in peak_memory_bytes)
    return f"{table.size(min(peak_memory_bytes))} to {table.size(max(peak_memory_bytes))}"


def describe_saved(saved: SavedStrategy) -> str:
    """A strategy file as a table, with what it was made for."""
    rows = []
    for operator in saved.operators:
        dimensions = [(dimension.name, dimension.kind) for dimension in operator.dimensions]
        rows.append(
            [
                operator.name,
                describe_split(dimensions, operator.config),
                table.ranges(operator.config.devices),
            ]
        )
    figures = saved.figures
    models = sorted(set(saved.device_models) - {""})
    lines = [
        f"Strategy for model {saved.model_name}, batch size {saved.batch_size}, on "
        f"{saved.topology_name}: {len(saved.device_names)} devices"
        + (f" ({', '.join(models)})" if models else ""),
    ]
    if figures.search_method or saved.created:
        by = f" by {figures.search_method}" if figures.search_method else ""
        lines.append(f"Made{by}{f' at {saved.created}' if saved.created else ''}")
    if figures.step_time_ns:
        source = f" from {figures.cost_source} costs" if figures.cost_source else ""
        lines.append(f"Step time (simulated{source}): {table.milliseconds(figures.step_time_ns)}")
        lines.append(f"Moved per step (simulated): {table.size(figures.communication_bytes)}")
    if figures.peak_memory_bytes:
        lines.append(f"Peak memory per device (simulated): {memory(figures.peak_memory_bytes)}")
    return "\n".join([*lines, "", table.render(["operator", "split", "devices"], rows, [])])
