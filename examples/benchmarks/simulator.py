"""How fast the simulator is: proposals of a Markov chain, and what they cost beside a full rebuild.

1. One process, one core; times are processor times of this process, so other work on the machine
   counts as little as it can. Costs are analytic, so no device is needed.
2. A chain is warmed up first, for as long as it is measured: compilation and the first filling of
   tables are left out, and it stands where chains stand rather than at the strategy it began with.
3. Its β is `metropolis.SHARPNESS` over the step time of that strategy, and does not change.
4. Single proposals are then drawn from where it stands, the same for every way to evaluate them:
   from nothing (`Simulator.set`), as a change, as a change with the limits of a chain, and with a
   limit of 0, which builds blocks and puts them back but simulates nothing. All of these are called
   from Python one by one, which costs up to tens of microseconds each; the chain is not. So of
   small graphs `delta_over_full` is too low and the share of building too high, and
   `chain_over_full` says more.
5. `--changes=one_operator --dims=SO` proposes what the authors' public simulator does: operators
   split by samples only, one at a time.

    python examples/benchmarks/simulator.py --model=nmt,resnet101 --num_devices=4,64
"""

import itertools
import json
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from absl import app, flags

from keras_soap.costs.roofline import Roofline
from keras_soap.errors import SearchError
from keras_soap.graph.zoo import MODELS
from keras_soap.proto.files import write_atomically
from keras_soap.report.table import render, size
from keras_soap.search.metropolis import SHARPNESS
from keras_soap.search.problem import Problem
from keras_soap.simulator.simulator import Simulator, Walked
from keras_soap.strategy.baselines import BASELINES
from keras_soap.strategy.moves import ONE_OPERATOR, USUAL, Shares
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.strategy.search_space import SearchSpace
from keras_soap.strategy.strategy import Strategy
from keras_soap.topology.device_topology import DeviceTopology
from keras_soap.topology.presets import cluster, scaled_cluster

_MODEL = flags.DEFINE_list("model", ["nmt"], "Networks of the zoo.")
_NUM_DEVICES = flags.DEFINE_list(
    "num_devices", ["16"], "P100s: up to 64 in nodes of 4, beyond in nodes of 8."
)
_DEVICES_PER_NODE = flags.DEFINE_integer(
    "devices_per_node", None, "Instead: in nodes of this many.", lower_bound=1
)
_START = flags.DEFINE_enum(
    "start", "data_parallel", [*BASELINES, "random"], "Where the chain starts."
)
_DIMS = flags.DEFINE_string("dims", "SOAP", "Kinds of parallelism that chains use.")
_CHANGES = flags.DEFINE_enum(
    "changes", "usual", ["usual", "one_operator"], "What chains propose: one operator as the paper."
)
_SECONDS = flags.DEFINE_float("seconds", 5.0, "For each of the figures.", lower_bound=0.01)
_SEED = flags.DEFINE_integer("seed", 0, "Of the chain and of the proposals.")
_JSON_OUT = flags.DEFINE_string("json_out", None, "File for the figures.")

_FIRST_PROPOSALS = 32
_MOST_CHANGES = 1000
_LEAST_CHANGES = 3

Change = Mapping[int, ParallelConfig]


def shares() -> Shares:
    """What `--changes` names."""
    return ONE_OPERATOR if _CHANGES.value == "one_operator" else USUAL


def run_chain(
    simulator: Simulator,
    space: SearchSpace,
    rng: np.random.Generator,
    beta_per_ns: float,
    proposals: int | None,
    seconds: float | None,
) -> Walked:
    """Runs a chain from where `simulator` stands: as searches do, by `Simulator.walk`."""
    assert simulator.strategy is not None
    best = Walked(simulator.strategy, simulator.outcome)
    return simulator.walk(space, best, rng, beta_per_ns, proposals, seconds, shares())


def seconds_per_call(calls: Sequence[Callable[[], object]], seconds: float) -> float:
    """Mean processor time of `calls`: all of them, again and again for `seconds`."""
    began = time.process_time()
    for times in itertools.count(1):
        for call in calls:
            call()
        spent = time.process_time() - began
        if spent >= seconds:
            return spent / (times * len(calls))
    raise AssertionError


def rebuild(simulator: Simulator, strategies: Sequence[Strategy], seconds: float) -> list[float]:
    """Processor seconds of `Simulator.set` for each of `strategies`, until `seconds` are over."""
    times: list[float] = []
    for strategy in strategies:
        began = time.process_time()
        simulator.set(strategy)
        times.append(time.process_time() - began)
        if len(times) >= _LEAST_CHANGES and sum(times) >= seconds:
            break
    return times


def start_of(problem: Problem, rng: np.random.Generator) -> Strategy:
    """The strategy that `--start` names."""
    if _START.value == "random":
        return problem.space.random_strategy(rng)
    make = BASELINES[_START.value]
    strategy = make(problem.graph, problem.lowering.dimensions, problem.topology)
    if not problem.space.contains(strategy):
        raise app.UsageError(
            f"--start={_START.value} is not in the search space of {problem.graph.name} on "
            f"{problem.topology.num_devices} devices. Use --start=random."
        )
    return strategy


def topology_of(num_devices: int) -> DeviceTopology:
    """The machine that the flags describe."""
    per_node = _DEVICES_PER_NODE.value
    if per_node is None:
        per_node = min(4, num_devices) if num_devices <= 64 else 8
    if num_devices % per_node:
        raise app.UsageError(
            f"{num_devices} devices do not fill nodes of {per_node}. Give --devices_per_node a "
            "divisor, such as 1."
        )
    if _DEVICES_PER_NODE.value is None:
        return scaled_cluster(num_devices)
    return cluster(f"p100x{num_devices}", num_devices // per_node, per_node)


def measure(model: str, num_devices: int, seconds: float, seed: int) -> dict:
    """The figures of one network on one machine."""
    problem = Problem(MODELS[model](), topology_of(num_devices), Roofline(), _DIMS.value)
    rng, space, simulator = np.random.default_rng(seed), problem.space, Simulator(problem.costs)
    start = simulator.set(start_of(problem, rng))
    beta_per_ns = SHARPNESS / max(start.step_time_ns, 1)

    run_chain(simulator, space, rng, beta_per_ns, _FIRST_PROPOSALS, None)  # Compiles.
    run_chain(simulator, space, rng, beta_per_ns, None, seconds)
    tasks, began = simulator.tasks_simulated, time.process_time()
    walked = run_chain(simulator, space, rng, beta_per_ns, None, seconds)
    spent = time.process_time() - began
    tasks = simulator.tasks_simulated - tasks

    strategy, num_tasks = simulator.strategy, simulator.num_tasks
    assert strategy is not None
    changes = [space.random_change(rng, strategy, shares()) for _ in range(_MOST_CHANGES)]
    step_ns = simulator.outcome.step_time_ns
    limits_ns = [step_ns + int(rng.exponential(1 / beta_per_ns)) for _ in changes]

    def propose(change: Change, limit_ns: int | None) -> Callable[[], None]:
        def call() -> None:
            simulator.propose(change, limit_ns)
            simulator.reject()

        return call

    for change in changes:
        propose(change, 0)()  # Fills the tables, so that this is not counted.
    rebuild(simulator, [strategy], 0)
    full = rebuild(simulator, [strategy.replace(change) for change in changes], seconds)
    simulator.set(strategy)
    changes, limits_ns = changes[: len(full)], limits_ns[: len(full)]

    def time_of(limits: Sequence[int | None]) -> float:
        calls = [propose(change, limit) for change, limit in zip(changes, limits, strict=True)]
        return seconds_per_call(calls, seconds)

    nothing: list[int | None] = [None] * len(changes)
    delta, limited, built = time_of(nothing), time_of(limits_ns), time_of([0] * len(changes))
    full_seconds = sum(full) / len(full)
    return {
        "model": model,
        "num_devices": num_devices,
        "topology": problem.topology.name,
        "start": _START.value,
        "dims": problem.space.dims,
        "changes": _CHANGES.value,
        "proposals_per_second": walked.proposals / spent,
        "accepted_per_second": walked.accepted / spent,
        "proposals": walked.proposals,
        "accepted": walked.accepted,
        "tasks_per_second": tasks / spent,
        "tasks_per_proposal": tasks / max(walked.proposals, 1),
        "num_tasks": num_tasks,
        "num_changes": len(changes),
        "full_seconds": full_seconds,
        "delta_seconds": delta,
        "limited_delta_seconds": limited,
        "build_seconds": built,
        "delta_over_full": full_seconds / delta,
        "limited_delta_over_full": full_seconds / limited,
        "chain_over_full": full_seconds * walked.proposals / spent,
        "build_share": min(1.0, built / delta),
        "limited_build_share": min(1.0, built / limited),
        "max_rss_bytes": max_rss_bytes(),
    }


def max_rss_bytes() -> int:
    """The most memory that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def cells(row: dict) -> list[str]:
    """One line of the table."""
    return [
        row["model"],
        str(row["num_devices"]),
        f"{row['num_tasks']:,}",
        f"{row['proposals_per_second']:,.0f}",
        f"{row['accepted'] / max(row['proposals'], 1):.1%}",
        f"{row['tasks_per_second'] / 1e6:.2f}",
        f"{row['full_seconds'] * 1e6:,.0f}",
        f"{row['delta_seconds'] * 1e6:,.0f}",
        f"{row['limited_delta_seconds'] * 1e6:,.0f}",
        f"{row['delta_over_full']:.1f}×",
        f"{row['limited_delta_over_full']:.1f}×",
        f"{row['chain_over_full']:.1f}×",
        f"{row['build_share']:.0%}",
        size(row["max_rss_bytes"]),
    ]


HEADERS = [
    "model",
    "devices",
    "tasks",
    "proposals/s",
    "accepted",
    "M tasks/s",
    "full µs",
    "delta µs",
    "limited µs",
    "delta faster",
    "limited faster",
    "chain faster",
    "building",
    "memory so far",
]


def main(_: list[str]) -> None:
    """Measures each network on each machine, prints a table, writes the figures."""
    for model in _MODEL.value:
        if model not in MODELS:
            raise app.UsageError(f"--model={model}: no such network. Known: {', '.join(MODELS)}.")
    try:
        counts = [int(count) for count in _NUM_DEVICES.value]
    except ValueError as error:
        raise app.UsageError(f"--num_devices: {error}. Give whole numbers.") from error
    if min(counts, default=0) < 1:
        raise app.UsageError("--num_devices must be 1 or more.")
    pairs = itertools.product(_MODEL.value, counts)
    try:
        rows = [measure(*pair, _SECONDS.value, _SEED.value) for pair in pairs]
    except SearchError as error:
        raise app.UsageError(f"--dims: {error}") from error
    print(
        f"Chains at sharpness {SHARPNESS:g} in {_DIMS.value.upper()} from {_START.value}, after a "
        f"warm-up as long as the {_SECONDS.value:g} s measured; processor time of one process."
    )
    print(render(HEADERS, [cells(row) for row in rows], HEADERS[1:]))
    figures = {"seconds": _SECONDS.value, "seed": _SEED.value, "sharpness": SHARPNESS}
    figures |= rows[0] if len(rows) == 1 else {"rows": rows}
    if _JSON_OUT.value:
        write_atomically(_JSON_OUT.value, (json.dumps(figures, indent=2) + "\n").encode())


if __name__ == "__main__":
    app.run(main)
