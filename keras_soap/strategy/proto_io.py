"""Strategies to and from `protos/strategy.proto`. What makes one fit is in `saved_strategy`."""

import os

from keras_soap.costs.cost_profile import CostSource
from keras_soap.errors import StrategyError
from keras_soap.graph.operator_graph import OperatorGraph
from keras_soap.operators.rule import DimensionKind
from keras_soap.proto import cost_profile_pb2, files
from keras_soap.proto import strategy_pb2 as pb
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.strategy.saved_strategy import (
    Dimensions,
    Figures,
    SavedDimension,
    SavedOperator,
    SavedStrategy,
    fit,
    make_saved,
)
from keras_soap.strategy.strategy import Strategy
from keras_soap.topology.device_topology import DeviceTopology


def save(
    path: str | os.PathLike[str],
    strategy: Strategy,
    graph: OperatorGraph,
    dimensions: Dimensions,
    topology: DeviceTopology,
    figures: Figures | None = None,
) -> None:
    """Writes a strategy to a file: text, or binary if its name ends in `.pb`.

    Args:
        path: Of the file; its folder is made if need be.
        strategy: What to write.
        graph: The model that it is for.
        dimensions: For each operator of `graph` its dimensions.
        topology: The machine that it is for.
        figures: What was predicted of it, if anything.
    """
    files.write(path, to_proto(make_saved(strategy, graph, dimensions, topology, figures)))


def read(path: str | os.PathLike[str]) -> SavedStrategy:
    """The strategy in a file, whatever model it is for."""
    message = files.read(path, pb.Strategy, StrategyError)
    try:
        return from_proto(message)
    except StrategyError as error:
        raise StrategyError(f"{path}: {error}") from error


def load(
    path: str | os.PathLike[str],
    graph: OperatorGraph,
    dimensions: Dimensions,
    topology: DeviceTopology,
) -> Strategy:
    """The strategy in a file, for this model on this topology.

    Raises:
        StrategyError: If it was made for another model or topology; names the first difference.
    """
    saved = read(path)
    try:
        return fit(saved, graph, dimensions, topology)
    except StrategyError as error:
        raise StrategyError(f"{path} does not fit: {error}") from error


def to_proto(saved: SavedStrategy) -> pb.Strategy:
    """The message that says the same as `saved`."""
    source = saved.figures.cost_source
    return pb.Strategy(
        schema_version=files.SCHEMA_VERSION,
        model_name=saved.model_name,
        graph_fingerprint=saved.graph_fingerprint,
        topology_name=saved.topology_name,
        num_devices=len(saved.device_names),
        batch_size=saved.batch_size,
        device_names=saved.device_names,
        device_models=saved.device_models,
        configs=[
            pb.ParallelConfig(
                operator_name=operator.name,
                dimensions=[
                    pb.DimensionDegree(
                        name=dimension.name,
                        kind=dimension.kind.name if dimension.kind else None,
                        degree=degree,
                        size=dimension.size,
                    )
                    for dimension, degree in zip(
                        operator.dimensions, operator.config.degrees, strict=True
                    )
                ],
                devices=operator.config.devices,
                fingerprint=operator.fingerprint,
            )
            for operator in saved.operators
        ],
        predicted_step_time_ns=saved.figures.step_time_ns,
        predicted_communication_bytes=saved.figures.communication_bytes,
        predicted_peak_memory_bytes=saved.figures.peak_memory_bytes,
        cost_source=source.name if source else None,
        search_method=saved.figures.search_method,
        created=saved.created,
    )


def from_proto(message: pb.Strategy) -> SavedStrategy:
    """What `message` says; raises `StrategyError` where it contradicts itself."""
    names, models = tuple(message.device_names), tuple(message.device_models)
    for field, values in (
        ("device_names", names),
        ("device_models", models),
        ("predicted_peak_memory_bytes", message.predicted_peak_memory_bytes),
    ):
        if len(values) != message.num_devices and (values or field == "device_names"):
            raise StrategyError(
                f"num_devices is {message.num_devices}, but {field} has {len(values)} entries. "
                "Give each device one."
            )
    seen: set[str] = set()
    for config in message.configs:
        if config.operator_name in seen:
            raise StrategyError(
                f"Operator {config.operator_name!r} has two configs. Give each operator one."
            )
        seen.add(config.operator_name)
    source = message.cost_source
    return SavedStrategy(
        message.model_name,
        message.graph_fingerprint,
        message.batch_size,
        message.topology_name,
        names,
        models,
        tuple(_operator(config) for config in message.configs),
        Figures(
            message.predicted_step_time_ns,
            message.predicted_communication_bytes,
            tuple(message.predicted_peak_memory_bytes),
            CostSource[cost_profile_pb2.CostSource.Name(source)] if source else None,
            message.search_method,
        ),
        message.created,
    )


def _operator(message: pb.ParallelConfig) -> SavedOperator:
    try:
        config = ParallelConfig(
            tuple(dimension.degree for dimension in message.dimensions), tuple(message.devices)
        )
    except StrategyError as error:
        raise StrategyError(f"Operator {message.operator_name!r}: {error}") from error
    return SavedOperator(
        message.operator_name,
        tuple(
            SavedDimension(
                dimension.name,
                DimensionKind[pb.DimensionDegree.Kind.Name(dimension.kind)]
                if dimension.kind
                else None,
                dimension.size,
            )
            for dimension in message.dimensions
        ),
        config,
        message.fingerprint,
    )
