"""Tables, CSV and plots of the paper's evaluation."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from absl import app
from paper_records import BY_ROW, Record

from keras_soap.proto.files import write_atomically
from keras_soap.report import table

OURS = "soap"
USUAL = ("data_parallel", "expert")
"""What people run; the paper compares with the better of the two."""


def text(records: Sequence[Record]) -> str:
    """A table for each network and number of devices, and how far ahead the search is."""
    return "\n\n".join([*map(_of_one, records), *([_summary(records)] if records else [])])


def _of_one(record: Record) -> str:
    times = record.figures["iteration_time_ms"]
    reference = times.get(OURS)
    headers = [
        "row",
        "step ms",
        "none below",
        "relative",
        "samples/s",
        "moved",
        "memory",
        "search s",
        "to 1 % s",
    ]
    rows = []
    for row in record.rows:
        get = {name: record.figures[name][row] for name in BY_ROW}
        memory = table.size(get["peak_memory_bytes"])
        rows.append(
            [
                row,
                f"{get['iteration_time_ms']:.2f}",
                f"{get['lower_bound_ms']:.2f}" if get["lower_bound_ms"] else "–",
                f"{times[row] / reference:.2f}×" if reference else "–",
                f"{get['samples_per_second']:,.0f}",
                table.size(get["communication_bytes"]),
                memory if get["fits_memory"] else f"{memory} (does not fit)",
                f"{get['seconds']:.1f}",
                f"{get['seconds_to_1_percent']:.1f}",
            ]
        )
    fixed = record.fixed
    title = (
        f"{fixed['model']}, batch size {fixed['batch_size']}, {fixed['num_devices']} devices of "
        f"{fixed['cluster']}: simulated steps, {fixed.get('cost_source', 'analytic')} costs"
    )
    return f"{title}\n{table.render(headers, rows, headers[1:])}"


def _summary(records: Sequence[Record]) -> str:
    """How many times faster the search's strategy is than that of each other row."""
    others = list(dict.fromkeys(row for record in records for row in record.rows if row != OURS))
    headers = ["model", "devices", "soap ms", *others]
    rows = []
    for record in records:
        times = record.figures["iteration_time_ms"]
        if OURS not in times:
            continue
        ahead = [f"{times[row] / times[OURS]:.2f}×" if row in times else "–" for row in others]
        number = str(record.fixed["num_devices"])
        rows.append([record.fixed["model"], number, f"{times[OURS]:.2f}", *ahead])
    return f"Step time of others over that of soap\n{table.render(headers, rows, headers[1:])}"


def markdown(records: Sequence[Record]) -> str:
    """One table, a line for each network and number of devices, as the README has it."""
    rows = list(dict.fromkeys(row for record in records for row in record.rows))
    rows.sort(key=lambda row: row == OURS)
    headers = [
        "network",
        "devices",
        *(f"`{row}`" for row in rows),
        "GB moved: `soap`, best usual",
        "best usual / `soap`",
        "`optcnn` / `soap`",
        "search s (to 1 %)",
    ]
    lines = [headers, ["---"] * len(headers)]
    for record in records:
        times, moved = record.figures["iteration_time_ms"], record.figures["communication_bytes"]
        seconds = [record.figures[name].get(OURS) for name in ("seconds", "seconds_to_1_percent")]
        usual = min((row for row in USUAL if row in times), key=times.__getitem__, default=None)
        line = [record.fixed["model"], str(record.fixed["num_devices"])]
        line += [_cell(record, row) for row in rows]
        if OURS in times and usual:
            line.append(f"{moved[OURS] / 1e9:.2f}, {moved[usual] / 1e9:.2f}")
        else:
            line.append("–")
        for row in (usual, "optcnn"):
            both = OURS in times and row in times
            line.append(f"{times[row] / times[OURS]:.2f}×" if both else "–")
        line.append("{:.0f} ({:.0f})".format(*seconds) if OURS in times else "–")
        lines.append(line)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(record: Record, row: str) -> str:
    """A step time, and what is proved of the space of its search: that no strategy is below."""
    if row not in record.rows:
        return "–"
    step_ms, bound_ms = (
        record.figures[name][row] for name in ("iteration_time_ms", "lower_bound_ms")
    )
    return f"{step_ms:,.1f}" + (f" (≥ {bound_ms:,.1f})" if bound_ms else "")


def write_csv(path: str, records: Sequence[Record]) -> None:
    """A line for each network, number of devices and row."""
    buffer = io.StringIO()
    fixed = ["model", "cluster", "num_devices", "batch_size"]
    columns = [name for name in BY_ROW if name != "settings"]
    writer = csv.writer(buffer)
    writer.writerow([*fixed, "row", *columns])
    for record in records:
        for row in record.rows:
            writer.writerow(
                [
                    *(record.fixed[name] for name in fixed),
                    row,
                    *(record.figures[name][row] for name in columns),
                ]
            )
    write_atomically(path, buffer.getvalue().encode())


def check_plot_file(path: str) -> None:
    """Refuses plots that could not be written later."""
    if Path(path).suffix not in (".png", ".svg"):
        raise app.UsageError(f"--plot_out={path} must end in .png or .svg.")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise app.UsageError(
            "--plot_out needs matplotlib. Run `pip install matplotlib`, or leave it out."
        ) from None


def write_plots(path: str, records: Sequence[Record]) -> None:
    """Samples per second and device against the number of devices, a plot for each network."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    models = list(dict.fromkeys(record.fixed["model"] for record in records))
    columns = min(3, len(models))
    lines = -(-len(models) // columns)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(4 * columns, 3.2 * lines), squeeze=False, layout="constrained"
    )
    for axis, model in zip(axes.flat, models, strict=False):
        of_model = [record for record in records if record.fixed["model"] == model]
        for row in dict.fromkeys(row for record in of_model for row in record.rows):
            points = [
                (n := record.fixed["num_devices"], record.figures["samples_per_second"][row] / n)
                for record in of_model
                if row in record.rows
            ]
            axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=row)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_title(model)
        axis.set_xlabel(f"{of_model[0].fixed['cluster']} devices")
        axis.set_ylabel("samples/s and device")
    for axis in axes.flat[len(models) :]:
        axis.set_axis_off()
    axes.flat[0].legend(fontsize="x-small")
    figure.suptitle("Simulated from analytic costs")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(path).suffix[1:], dpi=150)
    pyplot.close(figure)
    write_atomically(path, buffer.getvalue())
