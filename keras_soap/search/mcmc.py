"""Metropolis–Hastings from several starts, then a greedy descent.

1. Chains start from data parallelism, the expert's and other given strategies, and a random one.
   Long searches have more of them, rather than longer ones: see `CHAIN_PROPOSALS`.
2. They run in rounds, and the rounds in `CYCLES`. In each cycle β rises to `COLD` over the best
   step time so far; it starts hotter after a cycle that gained little, and colder after one that
   gained much. Between cycles the worse half of the chains restarts from the best.
3. Through the first `LAYER_CYCLES` chains are annealed once, and most of what they change, or half
   of it without O, are whole layers: which share devices and which are apart decides the most, is
   hard to change later, one operator at a time, and takes a long annealing to find.
4. The search ends with the budget, or when the best has not improved for half of what was spent.
5. What is left of the budget, and at least `DESCENT_SHARE` of it, goes into a greedy descent.
6. With a budget of proposals everything depends on the seed alone, not on clocks or cores.
"""

import dataclasses
import math
import time

import numpy as np

from keras_soap.objective import Evaluation
from keras_soap.search import checkpoint, descent
from keras_soap.search.chains import Chain, Phase, advance
from keras_soap.search.metropolis import ChainState, beta_per_ns
from keras_soap.search.problem import MOST_PAIRS, NO_OPTIONS, Budget, Problem, RunOptions
from keras_soap.search.result import SearchResult, StopReason
from keras_soap.search.tracker import Tracker
from keras_soap.search.workers import Workers
from keras_soap.strategy.moves import Shares

FEWEST_CHAINS = 4
MOST_CHAINS = 16
CHAIN_PROPOSALS = 100_000
"""Of a chain, in a long search: longer annealings gain less than more of them do."""
DESCENT_SHARE = 0.15
ROUNDS = 128
ROUND_SECONDS = 0.25
ROUND_PROPOSALS = 2000
CYCLES = 12
COLD = 4000.0
WARM = 1500.0
"""Where β starts in the first cycle; a step slower by 1/1500 is accepted with probability 1/e."""
HOT = 20.0
LAYER_CYCLES = 6
LAYERS, LAYERS_COLD = Shares(layers=0.8), 1000.0
"""Changes in these, and how cold they become: which layers share devices is settled before."""
LAYERS_IN_PLACE, LAYERS_IN_PLACE_COLD = Shares(layers=0.5), COLD
"""The same without O, where layers only split in other ways."""
LITTLE_GAIN = 0.003
LEAST_SHARE = 0.7
"""Of the budget that is spent before a lack of improvement ends the search."""


def search(
    problem: Problem, budget: Budget, seed: int, options: RunOptions = NO_OPTIONS
) -> SearchResult:
    """Looks for the fastest strategy; see the rules of this module."""
    saved = checkpoint.load(options.checkpoint, problem, "mcmc", seed)
    tracker = Tracker(problem, budget, options, saved.seconds if saved else 0.0)
    if saved:
        tracker.resume(problem, saved)
    chains = saved.chains if saved else _start(problem, tracker, seed, options.num_cores)
    sampling = _Sampling(problem, tracker, budget, chains, options.num_cores)
    stopped_by = tracker.spent()
    try:
        with Workers(problem, min(options.num_cores, len(chains))) as workers:
            while stopped_by is None:
                stopped_by = sampling.round(workers)
                checkpoint.save(options.checkpoint, problem, "mcmc", seed, tracker, sampling.chains)
        locally_optimal = descent.descend(tracker.best, problem.space, problem.objective, tracker)
        stopped_by = stopped_by if locally_optimal else tracker.spent() or stopped_by
    except KeyboardInterrupt:
        stopped_by, locally_optimal = StopReason.INTERRUPTED, False
    checkpoint.save(options.checkpoint, problem, "mcmc", seed, tracker, sampling.chains, True)
    return tracker.result(problem, "mcmc", seed, stopped_by, locally_optimal=locally_optimal)


def _start(problem: Problem, tracker: Tracker, seed: int, num_cores: int) -> list[Chain]:
    """Chains from the best start, from other starts by turns, and the last from a random one."""
    most = max(MOST_CHAINS, num_cores)
    chains = []
    for number, sequence in enumerate(np.random.SeedSequence(seed).spawn(most)):
        start = problem.starts[number % len(problem.starts)]
        chains.append(Chain(number, np.random.default_rng(sequence), ChainState(start, start), 0))
    if tracker.budget.proposals is not None:
        count = min(MOST_CHAINS, max(FEWEST_CHAINS, tracker.budget.proposals // CHAIN_PROPOSALS))
    else:
        expected = _expected_proposals(problem, tracker, chains, num_cores)
        count = min(most, max(FEWEST_CHAINS, num_cores, expected // CHAIN_PROPOSALS))
    last = chains[count - 1]
    start = _random_start(problem, tracker, last.rng)
    return [*chains[: count - 1], dataclasses.replace(last, state=ChainState(start, start))]


def _expected_proposals(
    problem: Problem, tracker: Tracker, chains: list[Chain], num_cores: int
) -> int:
    """How many a budget of seconds will do for, by the first chain's first round, made here."""
    seconds = tracker.budget.seconds
    if seconds is None or tracker.spent() is not None:
        return 0
    started = time.perf_counter()
    phase, most_seconds = _layers(problem, tracker.best, 0.0), min(ROUND_SECONDS, seconds / ROUNDS)
    chains[0] = advance(problem, chains[0], phase, None, most_seconds)
    rate = chains[0].proposals / (time.perf_counter() - started)
    tracker.proposals += chains[0].proposals
    tracker.offer(chains[0].state.best)
    return int(rate * seconds * num_cores)


def _layers(problem: Problem, best: Evaluation, passed: float) -> Phase:
    """How chains move while they change layers, when the share `passed` of that is over."""
    shares, cold = (
        (LAYERS, LAYERS_COLD) if problem.space.places else (LAYERS_IN_PLACE, LAYERS_IN_PLACE_COLD)
    )
    return Phase(beta_per_ns(best, HOT * (cold / HOT) ** passed), shares)


def _random_start(problem: Problem, tracker: Tracker, rng: np.random.Generator) -> Evaluation:
    """Somewhere in the space; the best so far, if the budget or memory does not suffice for it."""
    strategy = problem.space.random_strategy(rng)
    if tracker.spent() is not None or problem.lowering.num_pairs(strategy) > MOST_PAIRS:
        return tracker.best
    start = problem.objective.evaluate(strategy)
    tracker.offer(start)
    return start


class _Sampling:
    """The rounds of all chains."""

    def __init__(
        self,
        problem: Problem,
        tracker: Tracker,
        budget: Budget,
        chains: list[Chain],
        num_cores: int,
    ):
        self.problem = problem
        self.tracker = tracker
        self.budget = budget
        self.chains = chains
        self.num_cores = num_cores
        self.cycle = int(self._cycles())
        self.start_sharpness = WARM
        self.gained_little = False
        self.best_before_ns = tracker.best.step_time_ns
        self.improved_at = self._spent_so_far()
        self.best: Evaluation = tracker.best

    def round(self, workers: Workers) -> StopReason | None:
        """One round of all chains; says why it was the last, if it was."""
        proposals, seconds = self._size()
        before = sum(chain.proposals for chain in self.chains)
        phases = [self._phase(chain) for chain in self.chains]
        self.chains = workers.advance(self.chains, phases, proposals, seconds)
        self.tracker.proposals += sum(chain.proposals for chain in self.chains) - before
        for chain in self.chains:
            self.tracker.offer(chain.state.best)
        self.tracker.report()
        if self.tracker.best.rank < self.best.rank:
            self.best, self.improved_at = self.tracker.best, self._spent_so_far()
        spent, fraction = self._spent_so_far(), self._fraction()
        if fraction >= 1 - DESCENT_SHARE:
            return self.tracker.spent() or (
                StopReason.TIME if self.budget.proposals is None else StopReason.PROPOSALS
            )
        if fraction > LEAST_SHARE and spent - self.improved_at > spent / 2:
            return StopReason.NO_IMPROVEMENT
        if int(self._cycles()) > self.cycle:
            self.cycle = int(self._cycles())
            if self.cycle > LAYER_CYCLES:
                self._set_heat()
                self._restart()
            elif self.cycle == LAYER_CYCLES:
                self._leave_layers()
        return None

    def _cycles(self) -> float:
        """How many cycles are over, with the share of the present one."""
        return self._fraction() / (1 - DESCENT_SHARE) * CYCLES

    def _phase(self, chain: Chain) -> Phase:
        """How a chain moves in the next round."""
        cycles = self._cycles()
        if cycles < LAYER_CYCLES:
            return _layers(self.problem, self.tracker.best, cycles / LAYER_CYCLES)
        start = self.start_sharpness
        sharpness = start * (COLD / start) ** (cycles % 1.0)
        return Phase(beta_per_ns(self.tracker.best, sharpness))

    def _set_heat(self) -> None:
        best_ns = self.tracker.best.step_time_ns
        self.gained_little = best_ns > (1 - LITTLE_GAIN) * self.best_before_ns
        if self.gained_little:
            self.start_sharpness = max(HOT, self.start_sharpness / 3)
        else:
            self.start_sharpness = min(COLD, self.start_sharpness * 1.5)
        self.best_before_ns = best_ns

    def _restart(self) -> None:
        ranked = sorted(self.chains, key=lambda chain: (chain.state.best.rank, chain.number))
        for chain in ranked[(len(ranked) + 1) // 2 :]:
            start = self.tracker.best
            if self.gained_little and chain is ranked[-1]:
                start = _random_start(self.problem, self.tracker, chain.rng)
            state = ChainState(start, start)
            self.chains[chain.number] = Chain(chain.number, chain.rng, state, chain.proposals)

    def _leave_layers(self) -> None:
        """Each chain goes on from the best that it saw; a cycle later they can be compared."""
        for chain in self.chains:
            state = ChainState(chain.state.best, chain.state.best)
            self.chains[chain.number] = dataclasses.replace(chain, state=state)
        self.best_before_ns = self.tracker.best.step_time_ns

    def _size(self) -> tuple[int | None, float | None]:
        """Proposals and seconds for each chain in the next round."""
        proposals = seconds = None
        if self.budget.proposals is not None:
            share = self.budget.proposals * (1 - DESCENT_SHARE) / len(self.chains)
            proposals = max(1, min(ROUND_PROPOSALS, math.ceil(share / ROUNDS)))
        if self.budget.seconds is not None:
            at_once = math.ceil(len(self.chains) / self.num_cores)
            seconds = min(ROUND_SECONDS, self.budget.seconds / ROUNDS / at_once)
        return proposals, seconds

    def _spent_so_far(self) -> float:
        """In proposals where they are what is limited, else in seconds."""
        if self.budget.proposals is not None:
            return self.tracker.proposals
        return self.tracker.seconds

    def _fraction(self) -> float:
        """Of the budget."""
        fractions = []
        if self.budget.proposals is not None:
            fractions.append(self.tracker.proposals / max(self.budget.proposals, 1))
        if self.budget.seconds is not None:
            fractions.append(self.tracker.seconds / max(self.budget.seconds, 1e-9))
        return max(fractions)
