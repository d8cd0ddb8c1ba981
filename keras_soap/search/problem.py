"""What a search gets: a problem, a budget, and how it is to be run."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from absl import logging

from keras_soap.costs.cost_profile import CostProfile
from keras_soap.errors import SearchError
from keras_soap.graph.operator_graph import OperatorGraph
from keras_soap.objective import Evaluation, Objective
from keras_soap.search.result import Progress
from keras_soap.strategy.baselines import BASELINES, data_parallel
from keras_soap.strategy.search_space import SearchSpace
from keras_soap.strategy.strategy import Strategy, check_strategy
from keras_soap.tasks.lowering import NUM_SLOTS, Costs, Lowering
from keras_soap.topology.device_topology import DeviceTopology

MOST_PAIRS = 2**21
"""Of parts that exchange data, in a baseline that is evaluated unasked."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How long a search may go on; the first limit that is reached ends it.

    Attributes:
        seconds: Of wall time.
        proposals: Strategies evaluated, by all chains together.
    """

    seconds: float | None = None
    proposals: int | None = None

    def __post_init__(self) -> None:
        if self.seconds is None and self.proposals is None:
            raise SearchError("A budget needs a limit. Give seconds, proposals, or both.")
        for name in ("seconds", "proposals"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise SearchError(f"{name}={value} must be 0 or more.")


@dataclass(frozen=True)
class Problem:
    """What to search for. Can be pickled, so that other processes can help.

    Attributes:
        graph: The operators.
        topology: The machine.
        profile: Times of parts.
        dims: Letters of the kinds of parallelism to use.
        training: Whether a step is one of training.
        initial: Strategies to start from, beside the baselines.
        num_slots: As in `Costs`.
    """

    graph: OperatorGraph
    topology: DeviceTopology
    profile: CostProfile
    dims: str = "SOAP"
    training: bool = True
    initial: tuple[Strategy, ...] = ()
    num_slots: int = NUM_SLOTS

    def __post_init__(self) -> None:
        for strategy in self.initial:
            check_strategy(
                self.graph, self.lowering.dimensions, strategy, self.topology.num_devices
            )
            if not self.space.contains(strategy):
                raise SearchError(
                    f"An initial strategy uses more than dims={self.dims!r}. Leave it out, or add "
                    "the letters that it uses."
                )

    @functools.cached_property
    def lowering(self) -> Lowering:
        return Lowering(self.graph)

    @functools.cached_property
    def costs(self) -> Costs:
        return Costs(self.lowering, self.topology, self.profile, self.num_slots)

    @functools.cached_property
    def objective(self) -> Objective:
        return Objective(self.costs, self.training)

    @functools.cached_property
    def space(self) -> SearchSpace:
        return SearchSpace(self.graph, self.lowering.dimensions, self.topology, self.dims)

    @functools.cached_property
    def baselines(self) -> dict[str, Evaluation]:
        """What the baselines cost, by name.

        Without those of more than `MOST_PAIRS` transfers, such as model parallelism on a thousand
        devices: they take gigabytes to simulate, and are never near the fastest.
        """
        found = {}
        for name in BASELINES:
            strategy = self.baseline(name)
            num_pairs = self.lowering.num_pairs(strategy)
            if num_pairs > MOST_PAIRS:
                logging.warning(
                    "Left out the baseline %s: %s transfers each way on %d devices. To simulate it "
                    "nevertheless, ask for it by name.",
                    name,
                    f"{num_pairs:,}",
                    self.topology.num_devices,
                )
                continue
            found[name] = self.objective.evaluate(strategy)
        return found

    def baseline(self, name: str) -> Strategy:
        """The baseline of that name."""
        return BASELINES[name](self.graph, self.lowering.dimensions, self.topology)

    @functools.cached_property
    def starts(self) -> tuple[Evaluation, ...]:
        """What a result is never worse than, fastest first.

        The baselines that are in the space, the initial strategies, and data parallelism on the
        number of devices, a power of two, on which it is fastest.
        """
        found = [
            evaluation
            for evaluation in self.baselines.values()
            if self.space.contains(evaluation.strategy)
        ]
        found += [self.objective.evaluate(strategy) for strategy in self.initial]
        found.append(self._on_fewer_devices())
        return tuple(sorted(found, key=lambda evaluation: evaluation.rank))

    def _on_fewer_devices(self) -> Evaluation:
        """The fastest of data parallelism on 1, 2, 4, … devices; on 1 if samples may not split."""
        sizes = [2**power for power in range((self.topology.num_devices - 1).bit_length())]
        found = [self.space.whole()]
        for size in sizes[1:]:
            strategy = data_parallel(self.graph, self.lowering.dimensions, self.topology, size)
            if self.space.contains(strategy):
                found.append(strategy)
        return min(map(self.objective.evaluate, found), key=lambda evaluation: evaluation.rank)

    def __getstate__(self) -> dict:
        """Leaves out what can be made again."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)


@dataclass(frozen=True)
class RunOptions:
    """How a search is run; none of it changes what a proposal budget finds.

    Attributes:
        callbacks: Called at every improvement, and now and then.
        num_cores: Processes that may compute at once.
        checkpoint: File to save the state in, and to resume from if it is there.
    """

    callbacks: tuple[Callable[[Progress], None], ...] = ()
    num_cores: int = 1
    checkpoint: Path | None = None


NO_OPTIONS = RunOptions()
