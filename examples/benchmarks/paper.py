"""The evaluation of the FlexFlow paper: every network, on every number of devices, by every system.

Step times are simulated on analytic times of operators; no device is needed. The rows:

| row | what it is |
|---|---|
| `soap` | the search of this package, in the whole of SOAP |
| `data_parallel`, `expert`, … | the baselines of `keras_soap.strategy.baselines` |
| `optcnn` | dynamic programming over S, A and P |
| `reinforce` | device placement, O alone, by policy gradient |
| `soap_SA`, … | the search with fewer letters, with `--ablation` |

Searches also look at the baselines that are strategies of their own space, and are never slower.

    python examples/benchmarks/paper.py --cluster=p100 --num_devices=1,2,4,8,16 --json_out=p100.json
    python examples/benchmarks/paper.py --cluster=k80 --num_devices=64 --models=nmt --ablation

With `--num_proposals` instead of `--search_budget_s` the outcome depends on the seed alone. What is
in the file of `--json_out` is kept, if it was made with the same flags; so a run that was
interrupted goes on where it was.

The file: model → `iteration_time_ms`, `communication_bytes`, … by row, and `search_seconds`, on the
largest number of devices; and the same on each number of devices under `by_num_devices`.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import paper_records
import paper_tables
from absl import app, flags
from paper_records import Records

from keras_soap.costs.roofline import Roofline
from keras_soap.errors import SoapError
from keras_soap.graph.operator_graph import OperatorGraph
from keras_soap.graph.zoo import PAPER
from keras_soap.proto.files import write_atomically
from keras_soap.search.problem import Budget
from keras_soap.search.result import SearchResult, StopReason
from keras_soap.search.run import search
from keras_soap.strategy.baselines import BASELINES
from keras_soap.topology.device_topology import DeviceTopology
from keras_soap.topology.resolve import resolve

ROWS = ("soap", *BASELINES, "optcnn", "reinforce")
ABLATION = ("S", "SO", "SA", "SP", "SAP", "SOA", "SOP")
LARGEST = {"p100": 16, "k80": 64}
"""Devices of the paper's clusters."""

_CLUSTER = flags.DEFINE_enum("cluster", "p100", list(LARGEST), "Which of the paper's clusters.")
_NUM_DEVICES = flags.DEFINE_list(
    "num_devices", None, "Numbers of devices; by default 1, 2, 4, … up to those of the paper."
)
_MODELS = flags.DEFINE_list("models", list(PAPER), f"Of {', '.join(PAPER)}.")
_ROWS = flags.DEFINE_list("rows", list(ROWS), f"Of {', '.join(ROWS)}.")
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "Samples in a step; by default the paper's 64, for AlexNet 256.", 1
)
_SEARCH_BUDGET_S = flags.DEFINE_float(
    "search_budget_s", 60.0, "Seconds for each search.", lower_bound=0
)
_NUM_PROPOSALS = flags.DEFINE_integer(
    "num_proposals", None, "Instead: strategies that each search tries.", lower_bound=1
)
_REINFORCE_FACTOR = flags.DEFINE_float(
    "reinforce_factor", 1.0, "REINFORCE gets so many times that budget.", lower_bound=0
)
_ABLATION = flags.DEFINE_bool(
    "ablation", False, f"Search with fewer letters, too: {', '.join(ABLATION)}."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the searches.")
_NUM_CORES = flags.DEFINE_integer(
    "num_cores", None, "Processes that search at once; by default all cores.", lower_bound=1
)
_JSON_OUT = flags.DEFINE_string("json_out", None, "File for the figures, and to go on from.")
_CSV_OUT = flags.DEFINE_string("csv_out", None, "File for the figures as a table.")
_MARKDOWN_OUT = flags.DEFINE_string(
    "markdown_out", None, "File for one table, as README.md has it."
)
_PLOT_OUT = flags.DEFINE_string(
    "plot_out", None, "File for plots of throughput, .png or .svg; needs matplotlib."
)


@dataclass(frozen=True)
class Task:
    """A row to fill in.

    Attributes:
        model: Name of the network.
        num_devices: Of the cluster.
        row: Name of the row.
    """

    model: str
    num_devices: int
    row: str


def budget(row: str) -> Budget:
    """What the search for a row may spend."""
    factor = _REINFORCE_FACTOR.value if row == "reinforce" else 1
    if _NUM_PROPOSALS.value is not None:
        return Budget(proposals=round(factor * _NUM_PROPOSALS.value))
    return Budget(seconds=factor * _SEARCH_BUDGET_S.value)


def method_and_dims(row: str) -> tuple[str, str]:
    """How a row is found."""
    if row.startswith("soap"):
        return "mcmc", row.partition("_")[2] or "SOAP"
    return row, {"optcnn": "SAP", "reinforce": "O"}.get(row, "SOAP")


def settings(row: str) -> dict:
    """What the figures of a row depend on beside the task: other figures are not kept."""
    if row in BASELINES:
        return {}
    found = {"seed": _SEED.value}
    if row == "optcnn":
        return found
    limits = budget(row)
    return found | {"proposals": limits.proposals, "seconds": limits.seconds}


def find(task: Task, graph: OperatorGraph, topology: DeviceTopology) -> SearchResult:
    """Searches for the strategy of a row."""
    method, dims = method_and_dims(task.row)
    return search(
        graph,
        topology,
        Roofline(),
        # OptCNN ends by itself.
        budget=Budget(proposals=1) if method == "optcnn" else budget(task.row),
        seed=_SEED.value,
        dims=dims,
        method=method,
        progress=sys.stderr.isatty(),
        num_cores=_NUM_CORES.value,
    )


def tasks() -> Iterator[Task]:
    """What the flags ask for."""
    rows = [*_ROWS.value, *([f"soap_{dims}" for dims in ABLATION] if _ABLATION.value else [])]
    for model in _MODELS.value:
        for num_devices in num_devices_asked():
            for row in rows:
                yield Task(model, num_devices, row)


def num_devices_asked() -> list[int]:
    """The numbers of devices, ascending."""
    if _NUM_DEVICES.value is None:
        largest = LARGEST[_CLUSTER.value]
        return [2**n for n in range(largest.bit_length())]
    return sorted({int(number) for number in _NUM_DEVICES.value})


def check_flags(argv: list[str]) -> None:
    """Refuses what makes no sense, before anything is computed."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    for name, given, known in (
        ("models", _MODELS.value, tuple(PAPER)),
        ("rows", _ROWS.value, ROWS),
    ):
        for word in given:
            if word not in known:
                raise app.UsageError(f"--{name} has {word!r}; use some of {', '.join(known)}.")
        if not given:
            raise app.UsageError(f"--{name} is empty; use some of {', '.join(known)}.")
    for number in _NUM_DEVICES.value or ():
        if not number.isdecimal() or int(number) < 1:
            raise app.UsageError(
                f"--num_devices has {number!r}; give numbers of devices, such as 1,4,16."
            )
    if _NUM_DEVICES.value == []:
        raise app.UsageError("--num_devices is empty; give numbers of devices, such as 1,4,16.")
    if _PLOT_OUT.value:
        paper_tables.check_plot_file(_PLOT_OUT.value)


def fill(records: Records) -> bool:
    """Fills in the rows that are missing; says whether it came to the end."""
    for task in tasks():
        graph = PAPER[task.model](**paper_records.given(batch_size=_BATCH_SIZE.value))
        record = records.of(task.model, task.num_devices, graph)
        if record.has(task.row, settings(task.row)):
            continue
        print(f"{task.model} on {task.num_devices}: {task.row}", file=sys.stderr, flush=True)
        try:
            result = find(task, graph, resolve(f"{_CLUSTER.value}:{task.num_devices}"))
        except KeyboardInterrupt:
            return False
        if result.stopped_by == StopReason.INTERRUPTED:
            return False
        record.add(task.row, result, settings(task.row))
        records.save()
    return True


def main(argv: list[str]) -> None:
    """Fills in what is missing, prints tables, writes files."""
    check_flags(argv)
    try:
        records = Records.load(_JSON_OUT.value, _CLUSTER.value)
        complete = fill(records)
    except (SoapError, ValueError) as error:
        sys.exit(f"paper.py: {error}")
    asked = {(task.model, task.num_devices): None for task in tasks()}
    shown = [records.found[key] for key in asked if key in records.found]
    print(paper_tables.text(shown))
    if _CSV_OUT.value:
        paper_tables.write_csv(_CSV_OUT.value, shown)
    if _MARKDOWN_OUT.value:
        write_atomically(_MARKDOWN_OUT.value, paper_tables.markdown(shown).encode())
    if _PLOT_OUT.value and shown:
        paper_tables.write_plots(_PLOT_OUT.value, shown)
    if not complete:
        sys.exit("paper.py: interrupted; with --json_out, the same command goes on from here.")


if __name__ == "__main__":
    app.run(main)
