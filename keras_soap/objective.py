"""How good a strategy is: what a search minimises.

1. The cost of a strategy is the simulated time of one step.
2. A strategy that needs more memory than a device has is infeasible, whatever its time.
3. Strategies are ranked by the bytes that they are over, then by their time: so a search that
   starts from infeasible ones finds its way to feasible ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from keras_soap.costs.cost_profile import CostProfile
from keras_soap.graph.operator_graph import OperatorGraph
from keras_soap.simulator import reference
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.strategy.strategy import Strategy
from keras_soap.tasks.build import build
from keras_soap.tasks.lowering import Costs, Lowering
from keras_soap.tasks.memory import peak_memory_bytes
from keras_soap.topology.device_topology import DeviceTopology


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A strategy and what it costs.

    Attributes:
        strategy: The strategy.
        step_time_ns: Simulated time of one step.
        communication_bytes: What all devices together send in a step.
        peak_memory_bytes: For each device.
        excess_bytes: By how much devices exceed their memory, summed over them.
    """

    strategy: Strategy
    step_time_ns: int
    communication_bytes: int
    peak_memory_bytes: tuple[int, ...]
    excess_bytes: int

    @property
    def feasible(self) -> bool:
        """Whether it fits into the memory of every device."""
        return self.excess_bytes == 0

    @property
    def rank(self) -> tuple[int, int]:
        """Better strategies have lower ranks."""
        return self.excess_bytes, self.step_time_ns


class Evaluator(Protocol):
    """What algorithms ask for. `Objective` is one; tests have smaller ones."""

    def evaluate(self, strategy: Strategy) -> Evaluation:
        """Evaluates a strategy from nothing."""
        ...

    def update(
        self,
        evaluation: Evaluation,
        change: Mapping[int, ParallelConfig],
        limit_ns: int | None = None,
    ) -> Evaluation:
        """Evaluates the strategy of `evaluation` with a change.

        Args:
            evaluation: Where the change starts from.
            change: New configurations by number of the operator.
            limit_ns: A result that takes longer need not be exact, only longer than this.
        """
        ...


class Objective:
    """Evaluates strategies of one graph on one topology by simulation."""

    def __init__(self, costs: Costs, training: bool = True):
        """Takes the costs of parts.

        Args:
            costs: Of the operators of the graph on the topology.
            training: Whether a step is one of training, or of inference.
        """
        self.costs = costs
        self.training = training
        self._memory_bytes = np.array([d.memory_bytes for d in costs.topology.devices], np.int64)

    def evaluate(self, strategy: Strategy) -> Evaluation:
        """Evaluates a strategy from nothing."""
        tasks = build(self.costs, strategy, self.training)
        memory = peak_memory_bytes(self.costs, strategy, self.training)
        return Evaluation(
            strategy,
            reference.simulate(tasks).step_time_ns,
            tasks.communication_bytes,
            tuple(memory.tolist()),
            int(np.maximum(memory - self._memory_bytes, 0).sum()),
        )

    def update(
        self,
        evaluation: Evaluation,
        change: Mapping[int, ParallelConfig],
        limit_ns: int | None = None,
    ) -> Evaluation:
        """Evaluates the strategy of `evaluation` with a change; see `Evaluator`."""
        return self.evaluate(evaluation.strategy.replace(change))


def objective_of(
    graph: OperatorGraph, topology: DeviceTopology, profile: CostProfile, training: bool = True
) -> Objective:
    """The objective for a graph on a topology."""
    return Objective(Costs(Lowering(graph), topology, profile), training)
