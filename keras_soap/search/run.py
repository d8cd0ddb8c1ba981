"""The entry to all searches."""

import contextlib
import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from keras_soap.costs.cost_profile import CostProfile
from keras_soap.costs.roofline import Roofline
from keras_soap.errors import SearchError
from keras_soap.graph.operator_graph import OperatorGraph
from keras_soap.search import baseline
from keras_soap.search.problem import Budget, Problem, RunOptions
from keras_soap.search.progress_bar import ProgressBar
from keras_soap.search.result import Progress, SearchResult
from keras_soap.search.scalars import ScalarWriter
from keras_soap.strategy.baselines import BASELINES
from keras_soap.strategy.strategy import Strategy
from keras_soap.tasks.lowering import NUM_SLOTS
from keras_soap.topology.device_topology import DeviceTopology

METHODS = ("mcmc", "exhaustive", "optcnn", "reinforce", *BASELINES)
"""Names of searches: baselines, and modules of this package with a function `search`."""


def search(
    graph: OperatorGraph,
    topology: DeviceTopology,
    profile: CostProfile | None = None,
    *,
    budget: Budget,
    seed: int = 0,
    dims: str = "SOAP",
    method: str = "mcmc",
    initial: Sequence[Strategy] = (),
    training: bool = True,
    num_slots: int = NUM_SLOTS,
    progress: bool = True,
    num_cores: int | None = None,
    checkpoint: str | Path | None = None,
    callbacks: Sequence[Callable[[Progress], None]] = (),
    log_dir: str | Path | None = None,
) -> SearchResult:
    """Searches for the fastest strategy.

    The result is never slower than the fastest baseline that fits into memory. Ctrl-C ends the
    search with the best so far.

    Args:
        graph: The operators.
        topology: The machine.
        profile: Times of parts; by default a `Roofline` of the topology's figures.
        budget: How long to search.
        seed: Same seed and same budget of proposals give the same result.
        dims: Letters of the kinds of parallelism to use, of `"SOAP"`.
        method: Name of the search, of `METHODS`.
        initial: Strategies to start from, beside the baselines.
        training: Whether a step is one of training, or of inference.
        num_slots: Variables that the optimizer keeps beside each weight.
        progress: Whether to show a progress bar on stderr.
        num_cores: Processes that may compute at once; by default all cores.
        checkpoint: File to save the state in, and to resume from if it is there.
        callbacks: Called with a `Progress` at every improvement, and now and then.
        log_dir: Directory for scalars that TensorBoard shows.

    Raises:
        SearchError: If an argument makes no sense, or no strategy fits into the devices' memory.
    """
    run = find(method)
    problem = Problem(
        graph, topology, profile or Roofline(), dims, training, tuple(initial), num_slots
    )
    # The kernel may have to be compiled first, which is not searching.
    _ = problem.starts
    problem.objective.prepare(problem.space)
    cores = num_cores or len(os.sched_getaffinity(0))
    path = Path(checkpoint) if checkpoint is not None else None
    with contextlib.ExitStack() as stack:
        watchers: list[Callable[[Progress], None]] = list(callbacks)
        watchers.append(stack.enter_context(ProgressBar(budget, enabled=progress)))
        if log_dir is not None:
            watchers.append(stack.enter_context(contextlib.closing(ScalarWriter(log_dir))))
        result = run(problem, budget, seed, RunOptions(tuple(watchers), cores, path))
    if not result.evaluation.feasible:
        raise SearchError(_does_not_fit(result, topology))
    return result


def find(method: str) -> Callable[[Problem, Budget, int, RunOptions], SearchResult]:
    """The search called `method`."""
    if method not in METHODS:
        raise SearchError(f"No search is called {method!r}. Use one of: {', '.join(METHODS)}.")
    if method in BASELINES:
        return baseline.named(method)
    return importlib.import_module(f"keras_soap.search.{method}").search


def _does_not_fit(result: SearchResult, topology: DeviceTopology) -> str:
    peaks = result.evaluation.peak_memory_bytes
    over = [
        peak - device.memory_bytes for peak, device in zip(peaks, topology.devices, strict=True)
    ]
    worst = max(range(len(over)), key=over.__getitem__)
    device = topology.devices[worst]
    return (
        f"No strategy was found that fits into memory: the nearest needs "
        f"{peaks[worst] / 2**30:.2f} GiB on {device.name}, which has "
        f"{device.memory_bytes / 2**30:.2f} GiB. "
        "Use a smaller batch or more devices, or search longer."
    )
