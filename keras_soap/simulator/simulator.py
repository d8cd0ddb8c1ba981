"""Evaluates strategies of one operator graph on one topology.

1. A simulator holds one strategy, with its tasks and its timeline. `propose` tries a change of it;
   `accept` or `reject` must follow.
2. Whatever came before, the outcome is exactly that of building the task graph afresh
   (`tasks/build.py`) and simulating it (`reference.py`).
3. With a limit, a proposal ends as soon as it certainly takes longer: its time is then unknown,
   but for being over the limit. So does one in which two operators exchange data among more than
   `PAIRS_OF_PROPOSAL` pairs of parts.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from absl import logging

from keras_soap.jit import is_compiled
from keras_soap.simulator import kernel, whole
from keras_soap.simulator.layout import (
    BEST_EXCESS_BYTES,
    BEST_MOVED_BYTES,
    BEST_STEP_NS,
    DONE,
    EXCEEDED,
    EXCESS_BYTES,
    LOG_CODE,
    LOG_END,
    LOG_READY,
    LOG_USED,
    MISSES_CONFIG,
    MISSES_RANDOM,
    MOST_PAIRS,
    MOVED_BYTES,
    NEED,
    NEVER,
    NEW_EXCESS_BYTES,
    NEW_MOVED_BYTES,
    NEW_STEP_NS,
    NUM_ACCEPTED,
    NUM_CHANGED,
    PAIRS_OF_PROPOSAL,
    PATIENCE_NS,
    STEP_NS,
    TASKS_SIMULATED,
)
from keras_soap.simulator.problem import make_machine, make_model
from keras_soap.simulator.state import empty_state, grow
from keras_soap.simulator.tables import TableMaker
from keras_soap.simulator.timeline import Timeline
from keras_soap.simulator.walk import walk
from keras_soap.strategy import moves
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.strategy.refusals import Refusals, no_refusals
from keras_soap.strategy.search_space import SearchSpace
from keras_soap.strategy.strategy import Strategy
from keras_soap.tasks.build import build
from keras_soap.tasks.lowering import Costs
from keras_soap.tasks.task_graph import TaskGraph

_FIRST_AT_ONCE = 16
_SECONDS_AT_ONCE = 0.02
"""Proposals are made in compiled code for about as long, and then the clock is asked."""


def simulate(graph: TaskGraph) -> Timeline:
    """Runs all tasks of `graph` and says when each ran; `reference.simulate` in compiled code.

    Raises:
        ValueError: If tasks wait for each other in a circle.
    """
    ready, start, end = (np.zeros(graph.num_tasks, np.int64) for _ in range(3))
    num_done = whole.simulate(
        graph.capacity,
        graph.run_time_ns,
        graph.alone_time_ns,
        graph.resource_offsets,
        graph.resources,
        graph.successor_offsets,
        graph.successors,
        ready,
        start,
        end,
    )
    if num_done < graph.num_tasks:
        raise ValueError(f"{graph.num_tasks - num_done} tasks wait for each other in a circle")
    return Timeline(ready, start, end)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a strategy costs.

    Attributes:
        step_time_ns: Simulated time of one step; if `exceeds`, a time below it.
        exceeds: Whether it takes longer than the limit that was given.
        communication_bytes: What all devices together send in a step.
        excess_bytes: By how much devices exceed their memory, summed over them.
    """

    step_time_ns: int
    exceeds: bool
    communication_bytes: int
    excess_bytes: int


@dataclass(frozen=True, slots=True)
class Walked:
    """Where a chain has been.

    Attributes:
        strategy: The best that it has seen.
        outcome: What that costs.
        proposals: How many it made.
        accepted: How many of them it went to.
    """

    strategy: Strategy
    outcome: Outcome
    proposals: int = 0
    accepted: int = 0


class Simulator:
    """A strategy with its timeline, and how a change would change it."""

    def __init__(self, costs: Costs, training: bool = True):
        """Holds no strategy yet.

        Args:
            costs: Of the operators on the topology.
            training: Whether a step is one of training.
        """
        if not (is_compiled(kernel.propose) and is_compiled(walk)):
            logging.warning("Compiling the simulator's kernel. Once; it takes about a minute.")
        self.costs = costs
        self.training = training
        self.strategy: Strategy | None = None
        self._machine, links = make_machine(costs)
        self._model = make_model(costs, training)
        self._maker = TableMaker(costs, training)
        self._state = empty_state(self._machine, self._model, links)
        self._pending: Strategy | None = None
        self._numbers: tuple[np.ndarray, np.ndarray]
        self._numbers_of: SearchSpace | None = None
        self._refusals: Refusals
        # Analytic times cost nothing, so fill in many at once; measured ones are measured.
        self._fill_rows = 4096 if costs.profile.source == "analytic" else 0

    def set(self, strategy: Strategy) -> Outcome:
        """Takes a strategy, which must have passed `check_strategy`, from nothing."""
        self.strategy = strategy
        outcome = self.propose(dict(enumerate(strategy.configs)))
        self.accept()
        return outcome

    def propose(self, change: Mapping[int, ParallelConfig], limit_ns: int | None = None) -> Outcome:
        """Tries new configurations, by operator. `accept` or `reject` must follow.

        Args:
            change: Operators on the same weights must change together.
            limit_ns: What a longer time than this is, need not be found out.
        """
        assert self.strategy is not None, "set a strategy first"
        assert self._pending is None, "accept or reject the last proposal first"
        numbers = {n: self._maker.numbers(n, [config.degrees])[0] for n, config in change.items()}
        limit = NEVER if limit_ns is None else min(limit_ns, NEVER)
        while True:
            state = self._state
            for i, (n, config) in enumerate(change.items()):
                state.changed[i] = n
                state.wanted_config[n] = numbers[n]
                state.wanted_devices[n, : len(config.devices)] = config.devices
            state.scalar[NUM_CHANGED] = len(change)
            state.scalar[MOST_PAIRS] = NEVER if limit_ns is None else PAIRS_OF_PROPOSAL
            done = kernel.propose(self._machine, self._model, self._maker.tables, state, limit)
            if done == DONE or done == EXCEEDED:
                break
            self._supply(done)
        self._pending = self.strategy.replace(change)
        scalar = self._state.scalar
        return Outcome(
            int(scalar[NEW_STEP_NS]),
            bool(done == EXCEEDED),
            int(scalar[NEW_MOVED_BYTES]),
            int(scalar[NEW_EXCESS_BYTES]),
        )

    def walk(
        self,
        space: SearchSpace,
        best: Walked,
        rng: np.random.Generator,
        beta_per_ns: float,
        proposals: int | None,
        seconds: float | None,
        shares: moves.Shares = moves.USUAL,
    ) -> Walked:
        """Runs a Markov chain from the strategy, as `search.metropolis.step` would.

        Args:
            space: What to propose from. The strategy is in it.
            best: The best that the chain has seen.
            rng: Where chance comes from.
            beta_per_ns: How much longer steps are refused.
            proposals: How many to make.
            seconds: When to stop before, checked every few hundredths of a second.
            shares: Which changes to make how often.
        """
        assert self.strategy is not None, "set a strategy first"
        assert self._pending is None, "accept or reject the last proposal first"
        of, scalar = space.moves, self._state.scalar
        moves.stand_at(of, space, self.strategy)
        of.shares[:] = shares
        self.prepare(space)
        moves.refill(of, rng)
        scalar[NUM_ACCEPTED], scalar[PATIENCE_NS] = 0, -1
        scalar[BEST_STEP_NS] = best.outcome.step_time_ns
        scalar[BEST_EXCESS_BYTES] = best.outcome.excess_bytes
        of.best_choice[0] = -1  # Until the chain finds a better one than `best`.
        end = math.inf if seconds is None else time.perf_counter() + seconds
        made = 0
        at_once = _FIRST_AT_ONCE
        while proposals is None or made < proposals:
            left = at_once if proposals is None else min(at_once, proposals - made)
            before = time.perf_counter()
            self._make_proposals(of, rng, beta_per_ns, left)
            made += left
            now = time.perf_counter()
            if now >= end:
                break
            if now - before < _SECONDS_AT_ONCE / 2:
                at_once *= 2
        self.strategy = space.strategy_of(of.choice, of.devices)
        if of.best_choice[0] < 0:
            return Walked(best.strategy, best.outcome, made, int(scalar[NUM_ACCEPTED]))
        outcome = Outcome(
            int(scalar[BEST_STEP_NS]),
            False,
            int(scalar[BEST_MOVED_BYTES]),
            int(scalar[BEST_EXCESS_BYTES]),
        )
        best_strategy = space.strategy_of(of.best_choice, of.best_devices)
        return Walked(best_strategy, outcome, made, int(scalar[NUM_ACCEPTED]))

    def _make_proposals(self, of: moves.Moves, rng, beta_per_ns: float, count: int) -> None:
        """Makes `count` proposals; none compiles the kernel."""
        while True:
            made, done = walk(
                self._machine,
                self._model,
                self._maker.tables,
                self._state,
                of,
                self._refusals,
                *self._numbers,
                beta_per_ns,
                count,
            )
            count -= made
            if done == DONE:
                return
            if done == MISSES_RANDOM:
                moves.refill(of, rng)
            else:
                self._supply(done)

    def prepare(self, space: SearchSpace) -> None:
        """Makes ready for walks in a space: so that the first takes no longer than others."""
        if self._numbers_of is space:
            return
        numbers: list[int] = []
        first_number = np.zeros(len(space.family_of), np.int64)
        first_choice = 0
        for members, by_parts in zip(space.families, space.by_parts, strict=True):
            degrees = [one for of_size in by_parts.values() for one in of_size]
            for n in members:
                first_number[n] = len(numbers) - first_choice
                numbers += self._maker.numbers(n, degrees)
            first_choice += len(degrees)
        self._numbers = (np.array(numbers, np.int64), first_number)
        self._numbers_of = space
        self._refusals = no_refusals()
        self._make_proposals(space.moves, None, 1.0, 0)

    def accept(self) -> None:
        """Makes the proposal the strategy. It must not have exceeded its limit."""
        assert self._pending is not None
        kernel.accept(self._model, self._state)
        self.strategy, self._pending = self._pending, None

    def reject(self) -> None:
        """Forgets the proposal."""
        kernel.reject(self._model, self._maker.tables, self._state)
        self._pending = None

    @property
    def outcome(self) -> Outcome:
        """What the strategy costs."""
        scalar = self._state.scalar
        return Outcome(
            int(scalar[STEP_NS]), False, int(scalar[MOVED_BYTES]), int(scalar[EXCESS_BYTES])
        )

    @property
    def peak_memory_bytes(self) -> np.ndarray:
        """int64 (devices,): as `tasks.memory.peak_memory_bytes` of the strategy."""
        return self._state.memory[0].copy()

    @property
    def proposed_memory_bytes(self) -> np.ndarray:
        """int64 (devices,): likewise of the proposal."""
        return self._state.memory[1].copy()

    @property
    def num_tasks(self) -> int:
        """Tasks of the strategy."""
        return int(self._state.scalar[LOG_USED])

    @property
    def tasks_simulated(self) -> int:
        """Tasks that were run by all proposals so far."""
        return int(self._state.scalar[TASKS_SIMULATED])

    def task_graph(self) -> TaskGraph:
        """The tasks of the strategy."""
        assert self.strategy is not None
        return build(self.costs, self.strategy, self.training)

    def ready_and_end_ns(self) -> tuple[np.ndarray, np.ndarray]:
        """When the tasks of `task_graph()` are ready and when they end, in the same order."""
        log = self._state.log[: self.num_tasks]
        log = log[np.argsort(log[:, LOG_CODE])]
        return log[:, LOG_READY].copy(), log[:, LOG_END].copy()

    def _supply(self, missing: int) -> None:
        if missing == MISSES_CONFIG:
            self._maker.fill(int(self._state.scalar[NEED]), self._fill_rows)
        else:
            self._state = grow(self._state)
