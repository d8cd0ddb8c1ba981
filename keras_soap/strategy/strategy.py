"""A strategy: one parallel configuration for each operator of a graph."""

from collections.abc import Mapping
from dataclasses import dataclass

from keras_soap.errors import StrategyError
from keras_soap.graph.operator_graph import OperatorGraph
from keras_soap.operators.rule import Dimension
from keras_soap.strategy.parallel_config import ParallelConfig, check_config


@dataclass(frozen=True, slots=True)
class Strategy:
    """Configurations in the order of the graph's operators.

    Args:
        configs: One for each operator. Those of inputs have no degrees, and their device means
            nothing: see `parallel_config.FED`.
    """

    configs: tuple[ParallelConfig, ...]

    def replace(self, changes: Mapping[int, ParallelConfig]) -> "Strategy":
        """The strategy with the configurations of some operators, by number, changed."""
        configs = list(self.configs)
        for number, config in changes.items():
            configs[number] = config
        return Strategy(tuple(configs))


def check_strategy(
    graph: OperatorGraph,
    dimensions: tuple[tuple[Dimension, ...], ...],
    strategy: Strategy,
    num_devices: int,
) -> None:
    """Raises `StrategyError` where `strategy` does not fit the graph or the devices."""
    if len(strategy.configs) != len(graph.operators):
        raise StrategyError(
            f"The strategy has {len(strategy.configs)} configurations, but model {graph.name!r} "
            f"has {len(graph.operators)} operators. Give each operator one."
        )
    for number, (operator, config) in enumerate(
        zip(graph.operators, strategy.configs, strict=True)
    ):
        check_config(operator.name, dimensions[number], config, num_devices)
        first = graph.sharers[number][0]
        if strategy.configs[first] != config:
            raise StrategyError(
                f"{graph.operators[first].name} and {operator.name} share the weights of layer "
                f"{operator.layer}, but {strategy.configs[first]} differs from {config}. "
                "Give operators on the same weights the same configuration."
            )
