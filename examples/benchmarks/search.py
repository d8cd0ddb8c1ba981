"""How well a search does: the best cost of each seed, their spread, and cost against time.

Costs are simulated step times on analytic times of operators; no device is needed.

    python examples/benchmarks/search.py --model=nmt --num_devices=16 --seeds=5 --seconds=60

With `--num_proposals` instead of `--seconds` the outcome depends on the seeds alone.
"""

import json

from absl import app, flags

from keras_soap.errors import SearchError
from keras_soap.graph.zoo import MODELS
from keras_soap.proto.files import write_atomically
from keras_soap.report.table import render
from keras_soap.search.problem import Budget
from keras_soap.search.result import SearchResult
from keras_soap.search.run import METHODS, search
from keras_soap.topology.presets import scaled_cluster
from keras_soap.topology.resolve import resolve

_MODEL = flags.DEFINE_enum("model", "inception_v3", sorted(MODELS), "Network of the zoo.")
_STEPS = flags.DEFINE_integer(
    "steps", None, "Of a recurrent network, each a block of its own.", lower_bound=1
)
_NUM_DEVICES = flags.DEFINE_integer("num_devices", 16, "P100s, in nodes of 4.", lower_bound=1)
_TOPOLOGY = flags.DEFINE_string("topology", None, "Instead: a preset or a topology file.")
_METHOD = flags.DEFINE_enum("method", "mcmc", METHODS, "How to search.")
_DIMS = flags.DEFINE_string("dims", "SOAP", "Kinds of parallelism to search in.")
_SEEDS = flags.DEFINE_integer("seeds", 5, "How many searches.", lower_bound=1)
_SECONDS = flags.DEFINE_float("seconds", 60.0, "For each of them.", lower_bound=0)
_NUM_PROPOSALS = flags.DEFINE_integer(
    "num_proposals", None, "Instead of seconds: strategies that each of them tries.", lower_bound=1
)
_REFERENCE_SECONDS = flags.DEFINE_float(
    "reference_seconds", 0.0, "For one long search to compare with; 0: none.", lower_bound=0
)
_NUM_CORES = flags.DEFINE_integer("num_cores", None, "Processes; by default all cores.")
_JSON_OUT = flags.DEFINE_string("json_out", None, "File for the figures.")

_SHARES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


def best_ms_at(result: SearchResult, share: float) -> float:
    """The best step time that was known after a share of the budget."""
    if _NUM_PROPOSALS.value is None:
        known = [p for p in result.history if p.seconds <= share * _SECONDS.value]
    else:
        known = [p for p in result.history if p.proposals <= share * _NUM_PROPOSALS.value]
    return (known[-1] if known else result.history[0]).best_ns / 1e6


def figures_of(result: SearchResult) -> dict:
    """What the JSON says of one search."""
    return {
        "seed": result.seed,
        "best_cost_ms": result.evaluation.step_time_ns / 1e6,
        "proposals": result.proposals,
        "proposals_per_second": result.proposals_per_second,
        "search_seconds": result.search_seconds,
        "stopped_by": str(result.stopped_by),
        "locally_optimal": result.locally_optimal,
        "proved": result.proved,
        "lower_bound_ms": result.lower_bound_ns / 1e6,
        "history": [[p.seconds, p.proposals, p.best_ns / 1e6] for p in result.history],
    }


def main(_: list[str]) -> None:
    """Searches with each seed, prints tables, writes the figures."""
    arguments = {} if _STEPS.value is None else {"steps": _STEPS.value, "block": 1}
    graph = MODELS[_MODEL.value](**arguments)
    topology = resolve(_TOPOLOGY.value) if _TOPOLOGY.value else scaled_cluster(_NUM_DEVICES.value)

    def run(budget: Budget, seed: int) -> SearchResult:
        return search(
            graph,
            topology,
            budget=budget,
            seed=seed,
            dims=_DIMS.value,
            method=_METHOD.value,
            num_cores=_NUM_CORES.value,
        )

    proposals = _NUM_PROPOSALS.value
    budget = Budget(_SECONDS.value) if proposals is None else Budget(proposals=proposals)
    try:
        results = [run(budget, seed) for seed in range(_SEEDS.value)]
    except SearchError as error:
        raise app.UsageError(str(error)) from error
    costs = [result.evaluation.step_time_ns / 1e6 for result in results]
    baselines = {
        name: found.step_time_ns / 1e6 if found.feasible else None
        for name, found in results[0].baselines.items()
    }
    figures = {
        "model": _MODEL.value,
        "topology": topology.name,
        "num_devices": topology.num_devices,
        "method": _METHOD.value,
        "dims": _DIMS.value.upper(),
        "seconds": budget.seconds,
        "num_proposals": budget.proposals,
        "cost_source": str(results[0].cost_source),
        "baselines_ms": baselines,
        "best_cost_ms": costs,
        "spread": max(costs) / min(costs) - 1,
        "searches": [figures_of(result) for result in results],
    }
    print(
        f"{graph.name}, {len(graph.operators)} operators, {topology.name} "
        f"({topology.num_devices} devices): simulated step times in ms, "
        f"{results[0].cost_source} operator times."
    )
    for name, cost in baselines.items():
        print(f"  {name}: " + ("does not fit into memory" if cost is None else f"{cost:.3f} ms"))
    headers = [
        "seed",
        *(f"{share:.0%}" for share in _SHARES),
        "end",
        "proposals/s",
        "ended by",
    ]
    rows = [
        [
            str(result.seed),
            *(f"{best_ms_at(result, share):.3f}" for share in _SHARES),
            f"{result.evaluation.step_time_ns / 1e6:.3f}",
            f"{result.proposals_per_second:,.0f}",
            ("optimum proved" if result.proved else str(result.stopped_by))
            + f" after {result.search_seconds:.1f} s",
        ]
        for result in results
    ]
    print(render(headers, rows, headers[:-1]))
    print(f"Spread (worst over best seed): {figures['spread']:.2%}")
    if _REFERENCE_SECONDS.value:
        reference = run(Budget(_REFERENCE_SECONDS.value), _SEEDS.value)
        figures["reference"] = figures_of(reference)
        figures["worst_over_reference"] = max(costs) / (reference.evaluation.step_time_ns / 1e6) - 1
        print(
            f"A search of {_REFERENCE_SECONDS.value:g} s: "
            f"{reference.evaluation.step_time_ns / 1e6:.3f} ms; "
            f"the worst seed is {figures['worst_over_reference']:+.2%} from it."
        )
    if _JSON_OUT.value:
        write_atomically(_JSON_OUT.value, (json.dumps(figures, indent=2) + "\n").encode())


if __name__ == "__main__":
    app.run(main)
