"""What the strategies that are found do: Inception-v3 and NMT on four P100, as in the paper.

Every sentence is put together from the strategy and its task graph, so it holds for what it is
printed beside. Steps are simulated on analytic times of operators; no device is needed.

    python examples/benchmarks/case_studies.py --models=inception_v3,nmt --topology=p100:4
"""

import collections
import json
import sys
from collections.abc import Iterable, Iterator

from absl import app, flags

from keras_soap.costs.roofline import Roofline
from keras_soap.errors import SoapError
from keras_soap.graph.operator_graph import INPUT, Operator
from keras_soap.graph.zoo import PAPER
from keras_soap.objective import Evaluation
from keras_soap.proto.files import write_atomically
from keras_soap.report import table
from keras_soap.report.summary import describe_split
from keras_soap.search import mcmc
from keras_soap.search.problem import Budget, Problem, RunOptions
from keras_soap.strategy.baselines import is_recurrent
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.strategy.strategy import Strategy
from keras_soap.tasks.build import build
from keras_soap.tasks.task_graph import TaskKind
from keras_soap.topology.resolve import resolve

_MODELS = flags.DEFINE_list("models", ["inception_v3", "nmt"], f"Of {', '.join(PAPER)}.")
_TOPOLOGY = flags.DEFINE_string("topology", "p100:4", "The machine.")
_NUM_PROPOSALS = flags.DEFINE_integer(
    "num_proposals", 200_000, "Strategies that each search tries.", lower_bound=1
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the searches.")
_NUM_CORES = flags.DEFINE_integer(
    "num_cores", None, "Processes that search at once; by default all cores.", lower_bound=1
)
_JSON_OUT = flags.DEFINE_string("json_out", None, "File for the figures.")


def synchronization_bytes(problem: Problem, strategy: Strategy) -> int:
    """What all devices send in a step to add up gradients of weights."""
    tasks = build(problem.costs, strategy)
    return int(tasks.num_bytes[tasks.kind == TaskKind.ALL_REDUCE].sum())


def letters(problem: Problem, number: int, config: ParallelConfig) -> str:
    """Kinds of dimensions that a configuration splits, such as `"SP"`; `"whole"` for none."""
    dimensions = problem.lowering.dimensions[number]
    split = {
        dimension.kind.letter
        for dimension, degree in zip(dimensions, config.degrees, strict=True)
        if degree > 1
    }
    return "".join(letter for letter in "SAP" if letter in split) or "whole"


def figures_of(problem: Problem, found: Evaluation, reference: Evaluation) -> dict:
    """What the sentences are made of."""
    num_devices = problem.topology.num_devices
    graph, strategy = problem.graph, found.strategy
    uses: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    devices: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for number, (operator, config) in enumerate(
        zip(graph.operators, strategy.configs, strict=True)
    ):
        if operator.kind != INPUT:
            uses[operator.kind][letters(problem, number, config)] += 1
            devices[operator.kind][config.num_parts] += 1
    return {
        "model": graph.name,
        "topology": problem.topology.name,
        "num_devices": num_devices,
        "iteration_time_ms": {
            "soap": found.step_time_ns / 1e6,
            "data_parallel": reference.step_time_ns / 1e6,
        },
        "communication_bytes": {
            "soap": found.communication_bytes,
            "data_parallel": reference.communication_bytes,
        },
        "synchronization_bytes": {
            "soap": synchronization_bytes(problem, strategy),
            "data_parallel": synchronization_bytes(problem, reference.strategy),
        },
        "dimensions_by_kind": {kind: dict(count) for kind, count in uses.items()},
        "devices_by_kind": {
            kind: {str(n): count[n] for n in sorted(count)} for kind, count in devices.items()
        },
        "weights_by_dimensions_bytes": _weights_by_dimensions(problem, strategy),
        "time_source": "simulated",
        "cost_source": str(problem.profile.source),
    }


def _weights_by_dimensions(problem: Problem, strategy: Strategy) -> dict[str, int]:
    """Bytes of weights, each counted once, by what their operators split."""
    found: dict[str, int] = collections.Counter()
    seen: set[int] = set()
    for number, operator in enumerate(problem.graph.operators):
        for weight, spec in zip(operator.weights, operator.weight_specs, strict=True):
            if weight not in seen:
                seen.add(weight)
                found[letters(problem, number, strategy.configs[number])] += spec.num_bytes
    return dict(found)


def sentences(problem: Problem, strategy: Strategy, figures: dict) -> Iterator[str]:
    """What the strategy does, in words."""
    times, synchronized = figures["iteration_time_ms"], figures["synchronization_bytes"]
    moved = figures["communication_bytes"]
    yield (
        f"A step takes {times['soap']:.1f} ms instead of {times['data_parallel']:.1f} ms under "
        f"data parallelism: {_change(times)}."
    )
    yield (
        f"Synchronization of weights moves {table.size(synchronized['soap'])} instead of "
        f"{table.size(synchronized['data_parallel'])}: {_change(synchronized)}. Everything that "
        f"moves: {table.size(moved['soap'])} instead of {table.size(moved['data_parallel'])}, "
        f"{_change(moved)}."
    )
    weights = figures["weights_by_dimensions_bytes"]
    total = sum(weights.values())
    for name, wanted in (("parameters", "P"), ("attributes", "A"), ("samples", "S")):
        having = sum(size for split, size in weights.items() if wanted in split)
        yield f"{having / total:.0%} of the weights are in operators that split {name}."
    yield f"{weights.get('whole', 0) / total:.0%} of the weights are in operators that are whole."
    num_devices = figures["num_devices"]
    counts = figures["devices_by_kind"].values()
    operators = sum(sum(count.values()) for count in counts)
    fewer = sum(n for count in counts for parts, n in count.items() if int(parts) < num_devices)
    yield f"{fewer} of {operators} operators use fewer than all {num_devices} devices."
    yield from _of_layers(problem, strategy)


def _of_layers(problem: Problem, strategy: Strategy) -> Iterator[str]:
    """A sentence for each layer of a recurrent network; others have too many."""
    graph = problem.graph
    if not any(is_recurrent(operator.kind) for operator in graph.operators):
        return
    said = set()
    for number, operator in enumerate(graph.operators):
        if operator.layer and operator.layer not in said:
            said.add(operator.layer)
            config = strategy.configs[number]
            named = [(d.name, d.kind) for d in problem.lowering.dimensions[number]]
            where = "device" if config.num_parts == 1 else "devices"
            yield (
                f"{_words(operator)}: {describe_split(named, config)}, on {where} "
                f"{table.ranges(config.devices)}."
            )


def _words(operator: Operator) -> str:
    size = sum(spec.num_bytes for spec in operator.weight_specs)
    return f"{operator.layer} ({operator.kind}, {table.size(size)} of weights)"


def _change(pair: dict[str, float]) -> str:
    if not pair["data_parallel"]:
        return "as before"
    change = pair["soap"] / pair["data_parallel"] - 1
    return f"{abs(change):.0%} {'less' if change <= 0 else 'more'}"


def table_of_kinds(figures: dict) -> str:
    """How many operators of each kind split what."""
    by_kind = figures["dimensions_by_kind"]
    columns = list(dict.fromkeys(split for count in by_kind.values() for split in sorted(count)))
    rows = [
        [kind, *(str(count[split]) if split in count else "–" for split in columns)]
        for kind, count in by_kind.items()
    ]
    return table.render(["operators", *columns], rows, columns)


def study(model: str, topology: str) -> tuple[dict, Iterable[str]]:
    """Searches, and looks at what was found."""
    problem = Problem(PAPER[model](), resolve(topology), Roofline())
    options = RunOptions(num_cores=_NUM_CORES.value or 1)
    result = mcmc.search(problem, Budget(proposals=_NUM_PROPOSALS.value), _SEED.value, options)
    figures = figures_of(problem, result.evaluation, problem.baselines["data_parallel"])
    return figures, list(sentences(problem, result.strategy, figures))


def main(argv: list[str]) -> None:
    """Prints the studies, writes the figures."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    for model in _MODELS.value:
        if model not in PAPER:
            raise app.UsageError(f"--models has {model!r}; use some of {', '.join(PAPER)}.")
    found = []
    for model in _MODELS.value:
        try:
            figures, said = study(model, _TOPOLOGY.value)
        except SoapError as error:
            sys.exit(f"case_studies.py: {error}")
        found.append({**figures, "sentences": said})
        print(f"{model} on {figures['topology']}, simulated, {figures['cost_source']} costs")
        print("\n".join(f"- {sentence}" for sentence in said))
        print(f"\n{table_of_kinds(figures)}\n")
    if _JSON_OUT.value:
        write_atomically(_JSON_OUT.value, (json.dumps(found, indent=2) + "\n").encode())


if __name__ == "__main__":
    app.run(main)
