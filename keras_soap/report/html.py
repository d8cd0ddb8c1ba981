"""A page for people: strategies, operators and the simulated step, in one file without scripts."""

import html
import os
from collections.abc import Mapping, Sequence

from keras_soap.objective import Evaluation
from keras_soap.proto.files import write_atomically
from keras_soap.report import table
from keras_soap.report.rows import arrange
from keras_soap.report.summary import memory, operator_rows
from keras_soap.simulator.timeline import Timeline
from keras_soap.tasks.lowering import Costs
from keras_soap.tasks.task_graph import TaskGraph, TaskKind

_COLORS = {
    TaskKind.FORWARD: "#4878d0",
    TaskKind.BACKWARD: "#ee854a",
    TaskKind.WEIGHT_GRADIENT: "#f4c28e",
    TaskKind.UPDATE: "#6acc64",
    TaskKind.REPORT: "#797979",
}
_MOVING = "#956cb4"
_WIDTH, _ROW, _LABEL = 1000, 18, 220
_MOST_BOXES = 20_000

_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em; color: #222; background: #fff; }
table { border-collapse: collapse; margin: 1em 0; }
td, th { padding: 2px 12px; border-bottom: 1px solid #ddd; text-align: left; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
"""


def write_report(
    path: str | os.PathLike[str],
    costs: Costs,
    evaluations: Mapping[str, Evaluation],
    tasks: TaskGraph,
    timeline: Timeline,
    training: bool = True,
) -> None:
    """Writes the page.

    Args:
        path: Of the file; its folder is made if need be.
        costs: Of the operators on the topology.
        evaluations: Strategies by name; the first one is shown in detail.
        tasks: What the first one runs.
        timeline: When.
        training: Whether a step is one of training.
    """
    graph, topology = costs.lowering.graph, costs.topology
    name, first = next(iter(evaluations.items()))
    title = f"{graph.name} on {topology.name}"
    step = "training step" if training else "inference step"
    body = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>Batch size {graph.batch_size}, {topology.num_devices} devices. One {step}, simulated "
        f"from {costs.profile.source} costs.</p>",
        _totals(evaluations),
        f"<h2>Operators under {html.escape(name)}</h2>",
        "<p>S sample, A attribute, P parameter; the number is the degree. Times of the slowest "
        "part.</p>",
        _operators(costs, first, training),
        "<h2>Timeline</h2>",
        f"<p>{table.milliseconds(timeline.step_time_ns)} from left to right. "
        + " ".join(
            f'<span style="color:{color}">■</span> {kind.label}' for kind, color in _COLORS.items()
        )
        + f' <span style="color:{_MOVING}">■</span> communication</p>',
        _timeline(costs, tasks, timeline),
    ]
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style>{''.join(body)}</html>\n"
    )
    write_atomically(path, page.encode())


def _totals(evaluations: Mapping[str, Evaluation]) -> str:
    rows = [
        [
            name,
            table.milliseconds(evaluation.step_time_ns),
            table.size(evaluation.communication_bytes),
            memory(evaluation.peak_memory_bytes) + ("" if evaluation.feasible else ": too much"),
        ]
        for name, evaluation in evaluations.items()
    ]
    return _table(["strategy", "step time", "moved", "peak memory per device"], rows, (1, 2))


def _operators(costs: Costs, evaluation: Evaluation, training: bool) -> str:
    rows = [
        [
            row.name,
            row.kind,
            row.split,
            table.ranges(row.devices),
            table.microseconds(row.forward_ns),
            table.microseconds(row.backward_ns),
        ]
        for row in operator_rows(costs, evaluation.strategy, training)
    ]
    headers = ["operator", "kind", "split", "devices", "forward µs", "backward µs"]
    return _table(headers, rows, (4, 5))


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[int]) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=number' if column in numeric else ''}>{html.escape(cell)}</{tag}>"
            for column, cell in enumerate(cells)
        )

    lines = [line("th", headers), *(line("td", row) for row in rows)]
    return f"<table>{''.join(f'<tr>{cells}</tr>' for cells in lines)}</table>"


def _timeline(costs: Costs, tasks: TaskGraph, timeline: Timeline) -> str:
    """The timeline as SVG: a row for each device, and for each link that carries anything."""
    if len(tasks.resources) > _MOST_BOXES:
        return f"<p>{tasks.num_tasks:,} tasks are too many to draw. Use the trace instead.</p>"
    rows, row_of = arrange(costs.topology, tasks, timeline)
    scale = (_WIDTH - _LABEL) / max(timeline.step_time_ns, 1)
    boxes = [
        f'<text x="0" y="{number * _ROW + 13}" font-size="11">{html.escape(row.name)}</text>'
        for number, row in enumerate(rows)
    ]
    for task in range(tasks.num_tasks):
        kind = TaskKind(int(tasks.kind[task]))
        start, stop = tasks.resource_offsets[task : task + 2]
        x = _LABEL + int(timeline.start_ns[task]) * scale
        width = max(int(tasks.run_time_ns[task]) * scale, 0.2)
        operator = int(tasks.operator[task])
        of = costs.lowering.graph.operators[operator].name if operator >= 0 else "step"
        label = html.escape(f"{of} {kind.label}")
        for row in row_of[start:stop].tolist():
            boxes.append(
                f'<rect x="{x:.2f}" y="{row * _ROW + 2}" width="{width:.2f}" '
                f'height="{_ROW - 4}" fill="{_COLORS.get(kind, _MOVING)}">'
                f"<title>{label}</title></rect>"
            )
    return f'<svg width="{_WIDTH}" height="{len(rows) * _ROW}">{"".join(boxes)}</svg>'
