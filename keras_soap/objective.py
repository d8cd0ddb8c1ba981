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
from keras_soap.simulator.simulator import Outcome, Simulator, Walked
from keras_soap.strategy.moves import USUAL, Shares
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.strategy.search_space import SearchSpace
from keras_soap.strategy.strategy import Strategy
from keras_soap.tasks.lowering import Costs, Lowering
from keras_soap.topology.device_topology import DeviceTopology


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A strategy and what it costs.

    Attributes:
        strategy: The strategy.
        step_time_ns: Simulated time of one step.
        communication_bytes: What all devices together send in a step.
        excess_bytes: By how much devices exceed their memory, summed over them.
        peak_memory_bytes: For each device; empty from `update`, where a search needs the excess
            only.
    """

    strategy: Strategy
    step_time_ns: int
    communication_bytes: int
    excess_bytes: int
    peak_memory_bytes: tuple[int, ...] = ()

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
    """Evaluates strategies of one graph on one topology by simulation.

    Callers hand evaluations back and forth as values; behind them is one simulator that stands at
    one strategy. It accepts a proposal when the next update starts from it, rejects it when that
    starts from the strategy before, and moves by the difference when it starts from elsewhere.
    """

    def __init__(self, costs: Costs, training: bool = True):
        """Takes the costs of parts.

        Args:
            costs: Of the operators of the graph on the topology.
            training: Whether a step is one of training, or of inference.
        """
        self.costs = costs
        self.training = training
        self._simulator = Simulator(costs, training)
        self._current: Evaluation | None = None
        self._proposed: Evaluation | None = None

    def evaluate(self, strategy: Strategy) -> Evaluation:
        """Evaluates a strategy from nothing."""
        self._forget_proposal()
        outcome = self._simulator.set(strategy)
        peaks = tuple(self._simulator.peak_memory_bytes.tolist())
        self._current = _evaluation(strategy, outcome, peaks)
        return self._current

    def update(
        self,
        evaluation: Evaluation,
        change: Mapping[int, ParallelConfig],
        limit_ns: int | None = None,
    ) -> Evaluation:
        """Evaluates the strategy of `evaluation` with a change; see `Evaluator`."""
        self._move_to(evaluation)
        outcome = self._simulator.propose(change, limit_ns)
        step_time_ns = outcome.step_time_ns
        if outcome.exceeds:
            assert limit_ns is not None
            step_time_ns = max(step_time_ns, limit_ns + 1)
        self._proposed = Evaluation(
            evaluation.strategy.replace(change),
            step_time_ns,
            outcome.communication_bytes,
            outcome.excess_bytes,
        )
        return self._proposed

    def prepare(self, space: SearchSpace) -> None:
        """Makes ready for walks in a space, compiles what has to be; not a part of searching."""
        self._simulator.prepare(space)

    def walk(
        self,
        current: Evaluation,
        best: Evaluation,
        space: SearchSpace,
        rng: np.random.Generator,
        beta_per_ns: float,
        proposals: int | None,
        seconds: float | None,
        shares: Shares = USUAL,
    ) -> tuple[Evaluation, Evaluation, int]:
        """A Markov chain from `current`, as `search.metropolis.step` would go, but compiled.

        Returns:
            Where it ends; the best that it has seen, `best` included; the proposals it made.
        """
        self._move_to(current)
        start = Walked(best.strategy, _outcome_of(best))
        walked = self._simulator.walk(space, start, rng, beta_per_ns, proposals, seconds, shares)
        if walked.accepted:
            assert self._simulator.strategy is not None
            self._current = _evaluation(self._simulator.strategy, self._simulator.outcome)
            if walked.strategy is not best.strategy:
                best = _evaluation(walked.strategy, walked.outcome)
        assert self._current is not None
        return self._current, best, walked.proposals

    def _move_to(self, evaluation: Evaluation) -> None:
        if evaluation is self._proposed:
            self._simulator.accept()
            self._current, self._proposed = evaluation, None
            return
        self._forget_proposal()
        if evaluation is self._current:
            return
        if self._simulator.strategy is None:
            self._simulator.set(evaluation.strategy)
        else:
            pairs = zip(self._simulator.strategy.configs, evaluation.strategy.configs, strict=True)
            difference = {n: new for n, (old, new) in enumerate(pairs) if new != old}
            if difference:
                self._simulator.propose(difference)
                self._simulator.accept()
        self._current = evaluation

    def _forget_proposal(self) -> None:
        if self._proposed is not None:
            self._simulator.reject()
            self._proposed = None


def _evaluation(
    strategy: Strategy, outcome: Outcome, peak_memory_bytes: tuple[int, ...] = ()
) -> Evaluation:
    return Evaluation(
        strategy,
        outcome.step_time_ns,
        outcome.communication_bytes,
        outcome.excess_bytes,
        peak_memory_bytes,
    )


def _outcome_of(evaluation: Evaluation) -> Outcome:
    return Outcome(
        evaluation.step_time_ns, False, evaluation.communication_bytes, evaluation.excess_bytes
    )


def objective_of(
    graph: OperatorGraph, topology: DeviceTopology, profile: CostProfile, training: bool = True
) -> Objective:
    """The objective for a graph on a topology."""
    return Objective(Costs(Lowering(graph), topology, profile), training)
