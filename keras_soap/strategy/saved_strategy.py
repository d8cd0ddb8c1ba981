"""A strategy with what it was made for, and whether that is the model and machine at hand.

It fits where these agree, compared in this order:

1. the batch size;
2. the number of devices, then each one's name and model (the topology's own name may differ);
3. the operators' names, then their dimensions: names, kinds and sizes;
4. what each operator computes and reads, by its fingerprint.

The first difference is the error's subject. What a hand-written file leaves out is not compared.
"""

import dataclasses
import datetime
import hashlib
from dataclasses import dataclass

from keras_soap.costs.cost_profile import CostSource
from keras_soap.errors import StrategyError
from keras_soap.graph.operator_graph import INPUT, OperatorGraph
from keras_soap.operators.rule import Dimension, DimensionKind
from keras_soap.strategy.parallel_config import FED, ParallelConfig
from keras_soap.strategy.strategy import Strategy, check_strategy
from keras_soap.topology.device_topology import DeviceTopology

Dimensions = tuple[tuple[Dimension, ...], ...]
"""For each operator of a graph its parallelizable dimensions."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known of a strategy's performance; all of it is simulated.

    Attributes:
        step_time_ns: Of one training step. 0: not known, here and below.
        communication_bytes: Moved between devices in one step.
        peak_memory_bytes: For each device of the topology.
        cost_source: Where the times of operators come from.
        search_method: What found it, such as `"mcmc"`.
    """

    step_time_ns: int = 0
    communication_bytes: int = 0
    peak_memory_bytes: tuple[int, ...] = ()
    cost_source: CostSource | None = None
    search_method: str = ""


@dataclass(frozen=True, slots=True)
class SavedDimension:
    """One dimension of an operator in a file; `kind` may be None and `size` 0: not said."""

    name: str
    kind: DimensionKind | None
    size: int


@dataclass(frozen=True, slots=True)
class SavedOperator:
    """One operator in a file: what it was, and its configuration."""

    name: str
    dimensions: tuple[SavedDimension, ...]
    config: ParallelConfig
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class SavedStrategy:
    """A strategy with what it was made for, as in a file.

    Attributes:
        model_name: Of the graph.
        graph_fingerprint: `OperatorGraph.fingerprint`, or `""`.
        batch_size: Samples in one step.
        topology_name: Of the topology.
        device_names: Of all its devices.
        device_models: Of all its devices, or empty.
        operators: In the order of the graph, without inputs: these have no configurations.
        figures: What was predicted.
        created: When, as RFC 3339, or `""`.
    """

    model_name: str
    graph_fingerprint: str
    batch_size: int
    topology_name: str
    device_names: tuple[str, ...]
    device_models: tuple[str, ...]
    operators: tuple[SavedOperator, ...]
    figures: Figures = Figures()
    created: str = ""


def make_saved(
    strategy: Strategy,
    graph: OperatorGraph,
    dimensions: Dimensions,
    topology: DeviceTopology,
    figures: Figures | None = None,
) -> SavedStrategy:
    """`strategy` with all that tells whether another model or machine differs."""
    check_strategy(graph, dimensions, strategy, topology.num_devices)
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    return SavedStrategy(
        graph.name,
        graph.fingerprint,
        graph.batch_size,
        topology.name,
        tuple(device.name for device in topology.devices),
        tuple(device.model for device in topology.devices),
        tuple(
            SavedOperator(
                operator.name,
                tuple(SavedDimension(d.name, d.kind, d.size) for d in dimensions[number]),
                strategy.configs[number],
                _operator_fingerprint(graph, number),
            )
            for number, operator in enumerate(graph.operators)
            if operator.kind != INPUT
        ),
        figures or Figures(),
        now.isoformat().replace("+00:00", "Z"),
    )


def fit(
    saved: SavedStrategy, graph: OperatorGraph, dimensions: Dimensions, topology: DeviceTopology
) -> Strategy:
    """The strategy for this model on this topology; raises at the first difference."""
    if saved.batch_size != graph.batch_size:
        raise StrategyError(
            f"it was made for batch size {saved.batch_size}, not {graph.batch_size}. Train with "
            f"batch size {saved.batch_size}, or search again."
        )
    _compare_devices(saved, topology)
    _compare_operators(saved, graph, dimensions)
    by_name = {operator.name: operator.config for operator in saved.operators}
    strategy = Strategy(
        tuple(
            FED if operator.kind == INPUT else by_name[operator.name]
            for operator in graph.operators
        )
    )
    check_strategy(graph, dimensions, strategy, topology.num_devices)
    return strategy


def _compare_devices(saved: SavedStrategy, topology: DeviceTopology) -> None:
    again = "Use the topology that it was made for, or search again."
    if len(saved.device_names) != topology.num_devices:
        raise StrategyError(
            f"it was made for {len(saved.device_names)} devices ({saved.topology_name}), but "
            f"topology {topology.name!r} has {topology.num_devices}. {again}"
        )
    for number, device in enumerate(topology.devices):
        if saved.device_names[number] != device.name:
            raise StrategyError(
                f"its device {number} is {saved.device_names[number]!r}, but that of topology "
                f"{topology.name!r} is {device.name!r}. {again}"
            )
        if saved.device_models and saved.device_models[number] != device.model:
            raise StrategyError(
                f"it was made for {device.name!r} of model {saved.device_models[number]!r}, but "
                f"that of topology {topology.name!r} is {device.model!r}. {again}"
            )


def _compare_operators(saved: SavedStrategy, graph: OperatorGraph, dimensions: Dimensions) -> None:
    again = f"It was made for model {saved.model_name!r}; search again for {graph.name!r}."
    by_name = {operator.name: operator for operator in saved.operators}
    known = {operator.name for operator in graph.operators}
    unknown = [operator.name for operator in saved.operators if operator.name not in known]
    for number, operator in enumerate(graph.operators):
        if operator.kind == INPUT:
            continue
        found = by_name.get(operator.name)
        if found is None:
            instead = f" (it has {unknown[0]!r}, which the model lacks)" if unknown else ""
            raise StrategyError(
                f"it has no operator {operator.name!r}, number {number} of the model{instead}. "
                f"{again}"
            )
        _compare_dimensions(found, dimensions[number], again)
    if unknown:
        raise StrategyError(f"its operator {unknown[0]!r} is not in the model. {again}")
    if saved.graph_fingerprint in ("", graph.fingerprint):
        return
    for number, operator in enumerate(graph.operators):
        fingerprint = by_name[operator.name].fingerprint if operator.name in by_name else ""
        if fingerprint not in ("", _operator_fingerprint(graph, number)):
            raise StrategyError(
                f"operator {operator.name!r} has another configuration, other weights or other "
                f"inputs than it had. {again}"
            )
    if not all(operator.fingerprint for operator in saved.operators):
        raise StrategyError(
            f"the model's fingerprint is {graph.fingerprint}, not {saved.graph_fingerprint}. "
            f"{again}"
        )


def _compare_dimensions(
    saved: SavedOperator, dimensions: tuple[Dimension, ...], again: str
) -> None:
    theirs = [dimension.name for dimension in saved.dimensions]
    ours = [dimension.name for dimension in dimensions]
    if theirs != ours:
        raise StrategyError(
            f"{saved.name!r} has dimensions {', '.join(theirs) or 'none'} in it, but "
            f"{', '.join(ours) or 'none'} in the model. {again}"
        )
    for then, now in zip(saved.dimensions, dimensions, strict=True):
        if then.kind not in (None, now.kind):
            raise StrategyError(
                f"{now.name} of {saved.name!r} is of kind {then.kind} in it, but {now.kind} in "
                f"the model. {again}"
            )
        if then.size not in (0, now.size):
            raise StrategyError(
                f"{now.name} of {saved.name!r} has size {then.size} in it, but {now.size} in the "
                f"model. {again}"
            )


def _operator_fingerprint(graph: OperatorGraph, number: int) -> str:
    operator = graph.operators[number]
    refs = [(graph.operators[ref.operator].name, ref.output) for ref in operator.inputs]
    # Metrics change what a loss reports, and nothing that a strategy is about.
    attributes = {k: v for k, v in operator.attributes.items() if k != "report_bytes"}
    signature = dataclasses.replace(operator, attributes=attributes).signature
    return hashlib.sha256(f"{signature}\0{refs}".encode()).hexdigest()[:8]
