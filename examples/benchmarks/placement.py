"""A diffusion transformer on slices of a TPU v5e pod, placed naively and by their topology.

What is minimised is the latency of one step of denoising: forward only, a batch of two (with and
without the class, for guidance). For each slice:

| row | what it is |
|---|---|
| `data_parallel` | samples split, on as many chips as there are samples |
| `tensor_parallel` | heads and units split over all chips, in the order of the topology |
| `sharded` | the best sharding (S, A, P), with parts placed in the order of the topology |
| `permuted` | the same sharding, with the chips in the best order that was found |
| `placed` | the same sharding, each operator placed on its own |
| `soap` | sharding and placement searched together, from all of these |

`soap` starts as well from what was found for the slice before, in a corner of this one.

Times are simulated from analytic costs; no device is needed. As in AoiZora (arXiv 2606.17566), the
placement is ranked by a model of the slice's links, contention included.

    python examples/benchmarks/placement.py --slices=2x2,2x4,4x4
"""

import itertools
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from absl import app, flags

from keras_soap.costs.roofline import Roofline
from keras_soap.errors import SoapError
from keras_soap.graph.inference import forward_part
from keras_soap.graph.operator_graph import OperatorGraph
from keras_soap.graph.zoo import dit
from keras_soap.objective import Evaluation
from keras_soap.proto.files import write_atomically
from keras_soap.report import table
from keras_soap.search import mcmc
from keras_soap.search.problem import Budget, Problem, RunOptions
from keras_soap.search.tracker import Tracker
from keras_soap.strategy import placement
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.strategy.strategy import Strategy
from keras_soap.topology.resolve import resolve

_SLICES = flags.DEFINE_list("slices", ["2x2", "2x4", "4x4"], "Rows and columns of chips.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 2, "Samples in a step.", lower_bound=1)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 64, "Height and width of latents; 64 makes 1,024 patches.", lower_bound=2
)
_NUM_LAYERS = flags.DEFINE_integer("num_layers", 28, "Blocks.", lower_bound=1)
_NUM_PROPOSALS = flags.DEFINE_integer(
    "num_proposals", 100_000, "Strategies that each search tries.", lower_bound=1
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the searches.")
_NUM_CORES = flags.DEFINE_integer(
    "num_cores", None, "Processes that search at once; by default one.", lower_bound=1
)
_JSON_OUT = flags.DEFINE_string("json_out", None, "File for the figures.")

MOST_SWEEPS = 4
"""Over all pairs of chips, for `permuted`."""


def permuted(strategy: Strategy, order: Sequence[int]) -> Strategy:
    """The strategy with each device `d` replaced by `order[d]`."""
    return Strategy(
        tuple(
            ParallelConfig(config.degrees, tuple(order[device] for device in config.devices))
            for config in strategy.configs
        )
    )


def orders(rows: int, columns: int) -> list[list[int]]:
    """Orders of the chips that come to mind: by columns, as a snake, in squares of 2 × 2."""
    grid = np.arange(rows * columns).reshape(rows, columns)
    snake = grid.copy()
    snake[1::2] = snake[1::2, ::-1]
    found = [grid, grid.T, snake]
    if rows % 2 == columns % 2 == 0:
        found.append(grid.reshape(rows // 2, 2, columns // 2, 2).transpose(0, 2, 1, 3))
    return [order.ravel().tolist() for order in found]


def best_order(problem: Problem, strategy: Strategy, starts: Sequence[Sequence[int]]) -> Evaluation:
    """The fastest order of all chips: the best of `starts`, then swaps of two while they help."""
    evaluate = problem.objective.evaluate
    tried = [(evaluate(permuted(strategy, order)), list(order)) for order in starts]
    best, order = min(tried, key=lambda pair: pair[0].rank)
    for _ in range(MOST_SWEEPS):
        improved = False
        for a, b in itertools.combinations(range(len(order)), 2):
            swapped = list(order)
            swapped[a], swapped[b] = swapped[b], swapped[a]
            found = evaluate(permuted(strategy, swapped))
            if found.rank < best.rank:
                best, order, improved = found, swapped, True
        if not improved:
            break
    return best


def placed(problem: Problem, start: Evaluation, budget: Budget) -> Evaluation:
    """The fastest placement of each operator on its own, of the same degrees.

    One operator after the other takes the structured placement that is fastest, until none helps.
    """
    tracker = Tracker(problem, budget)
    best = problem.objective.evaluate(start.strategy)
    improved = True
    while improved:
        improved = False
        for members in problem.space.families:
            degrees = best.strategy.configs[members[0]].degrees
            for devices in placement.structured(degrees, problem.topology.num_devices):
                if tracker.spent():
                    return problem.objective.evaluate(best.strategy)
                tracker.proposals += 1
                change = dict.fromkeys(members, ParallelConfig(degrees, devices))
                found = problem.objective.update(best, change, best.step_time_ns)
                if found.rank < best.rank:
                    best, improved = found, True
    return problem.objective.evaluate(best.strategy)


@dataclass(frozen=True)
class Found:
    """What was found for a slice.

    Attributes:
        rows: Of chips.
        columns: Of chips.
        strategy: The best one.
    """

    rows: int
    columns: int
    strategy: Strategy

    def in_corner_of(self, rows: int, columns: int) -> list[Strategy]:
        """The strategy on the first chips of a slice that is as large or larger, else none."""
        if self.rows > rows or self.columns > columns:
            return []
        grid = np.arange(rows * columns).reshape(rows, columns)
        return [permuted(self.strategy, grid[: self.rows, : self.columns].ravel().tolist())]


def study(
    graph: OperatorGraph, rows: int, columns: int, before: Found | None = None
) -> tuple[dict, Found]:
    """The figures of one slice, and what was found.

    Args:
        graph: The forward operators.
        rows: Of the slice.
        columns: Of the slice.
        before: What was found for another slice.
    """
    topology = resolve(f"tpu_v5e_{rows}x{columns}")
    budget = Budget(proposals=_NUM_PROPOSALS.value)

    def problem(dims: str, *initial: Strategy) -> Problem:
        return Problem(graph, topology, Roofline(), dims, False, initial)

    def search(of: Problem) -> Evaluation:
        options = RunOptions(num_cores=_NUM_CORES.value or 1)
        return mcmc.search(of, budget, _SEED.value, options).evaluation

    anywhere = problem("SOAP")
    found = {
        "data_parallel": anywhere.baselines["data_parallel"],
        "tensor_parallel": anywhere.baselines["model_parallel"],
        "sharded": search(problem("SAP")),
    }
    sharding = found["sharded"].strategy
    found["permuted"] = best_order(anywhere, sharding, orders(rows, columns))
    found["placed"] = placed(anywhere, found["permuted"], budget)
    starts = [evaluation.strategy for evaluation in found.values()]
    starts += before.in_corner_of(rows, columns) if before else []
    found["soap"] = search(problem("SOAP", *starts))
    figures = {
        "model": graph.name,
        "topology": topology.name,
        "num_devices": topology.num_devices,
        "batch_size": graph.batch_size,
        "mode": "inference",
        "latency_ms": {name: e.step_time_ns / 1e6 for name, e in found.items()},
        "communication_bytes": {name: e.communication_bytes for name, e in found.items()},
        "fits_memory": {name: e.feasible for name, e in found.items()},
        "time_source": "simulated",
        "cost_source": str(anywhere.profile.source),
    }
    return figures, Found(rows, columns, found["soap"].strategy)


def text(figures: dict) -> str:
    """The table of one slice."""
    latency = figures["latency_ms"]
    rows = [
        [
            name,
            f"{latency[name]:.3f}" + ("" if figures["fits_memory"][name] else " (does not fit)"),
            f"{latency['sharded'] / latency[name]:.2f}×",
            table.size(figures["communication_bytes"][name]),
        ]
        for name in latency
    ]
    headers = ["row", "latency ms", "against sharded", "moved"]
    return (
        f"{figures['model']}, batch size {figures['batch_size']}, on {figures['topology']}: "
        f"simulated latency of a forward step, {figures['cost_source']} costs\n"
        + table.render(headers, rows, headers[1:])
    )


def sizes_of_slices() -> list[tuple[int, int]]:
    """Rows and columns of each slice.

    Raises:
        UsageError: If a flag does not say so.
    """
    found = []
    for name in _SLICES.value:
        match = re.fullmatch(r"(\d+)x(\d+)", name)
        if match is None:
            raise app.UsageError(f"--slices has {name!r}; write rows and columns, such as 2x4.")
        found.append((int(match[1]), int(match[2])))
    if not found:
        raise app.UsageError("--slices is empty; write rows and columns, such as 2x4.")
    if _IMAGE_SIZE.value % 2:
        raise app.UsageError(
            f"--image_size={_IMAGE_SIZE.value} must be even: patches are of 2 × 2 pixels."
        )
    return found


def main(argv: list[str]) -> None:
    """Studies all slices, prints tables, writes the figures."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    sizes = sizes_of_slices()
    graph = forward_part(dit(_BATCH_SIZE.value, _IMAGE_SIZE.value, num_layers=_NUM_LAYERS.value))
    figures, before = [], None
    for rows, columns in sizes:
        try:
            of_slice, before = study(graph, rows, columns, before)
        except SoapError as error:
            sys.exit(f"placement.py: {error}")
        figures.append(of_slice)
        print(text(figures[-1]), end="\n\n", flush=True)
        if _JSON_OUT.value:
            write_atomically(_JSON_OUT.value, (json.dumps(figures, indent=2) + "\n").encode())


if __name__ == "__main__":
    app.run(main)
