"""Metropolis–Hastings from several starts, then a greedy descent.

1. Chains start from data parallelism, the expert's and other given strategies, and random ones.
2. They run in rounds; between rounds the worse half now and then restarts from the best.
3. The search ends with the budget, or when the best has not improved for half of what was spent.
4. What is left of the budget, and at least `DESCENT_SHARE` of it, goes into a greedy descent.
5. With a budget of proposals everything depends on the seed alone, not on clocks or cores.
"""

import math

import numpy as np

from keras_soap.objective import Evaluation
from keras_soap.search import checkpoint, descent
from keras_soap.search.chains import Chain
from keras_soap.search.metropolis import ChainState, beta_per_ns
from keras_soap.search.problem import NO_OPTIONS, Budget, Problem, RunOptions
from keras_soap.search.result import SearchResult, StopReason
from keras_soap.search.tracker import Tracker
from keras_soap.search.workers import Workers

NUM_CHAINS = 4
DESCENT_SHARE = 0.15
ROUNDS = 64
ROUND_SECONDS = 0.5
ROUND_PROPOSALS = 2000
RESTARTS = 8


def search(
    problem: Problem, budget: Budget, seed: int, options: RunOptions = NO_OPTIONS
) -> SearchResult:
    """Looks for the fastest strategy; see the rules of this module."""
    saved = checkpoint.load(options.checkpoint, problem, "mcmc", seed)
    tracker = Tracker(problem, budget, options, saved.seconds if saved else 0.0)
    if saved:
        tracker.resume(problem, saved)
    chains = saved.chains if saved else _start(problem, tracker, seed, _num_chains(budget, options))
    sampling = _Sampling(problem, tracker, budget, chains)
    stopped_by = None
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


def _num_chains(budget: Budget, options: RunOptions) -> int:
    return NUM_CHAINS if budget.proposals is not None else max(NUM_CHAINS, options.num_cores)


def _start(problem: Problem, tracker: Tracker, seed: int, num_chains: int) -> list[Chain]:
    """Chains from the best start, from other starts by turns, and the last from a random one."""
    chains = []
    for number, sequence in enumerate(np.random.SeedSequence(seed).spawn(num_chains)):
        rng = np.random.default_rng(sequence)
        if number == num_chains - 1 and num_chains > 1:
            start = problem.objective.evaluate(problem.space.random_strategy(rng))
            tracker.offer(start)
        else:
            start = problem.starts[number % len(problem.starts)]
        chains.append(Chain(number, rng, ChainState(start, start), 0))
    return chains


class _Sampling:
    """The rounds of all chains."""

    def __init__(self, problem: Problem, tracker: Tracker, budget: Budget, chains: list[Chain]):
        self.tracker = tracker
        self.budget = budget
        self.chains = chains
        self.beta = beta_per_ns(problem.starts[0])
        self.next_restart = (int(self._fraction() * RESTARTS) + 1) / RESTARTS
        self.improved_at = self._spent_so_far()
        self.best: Evaluation = tracker.best

    def round(self, workers: Workers) -> StopReason | None:
        """One round of all chains; says why it was the last, if it was."""
        proposals, seconds = self._size()
        before = sum(chain.proposals for chain in self.chains)
        self.chains = workers.advance(self.chains, self.beta, proposals, seconds)
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
        if fraction > 0.1 and spent - self.improved_at > spent / 2:
            return StopReason.NO_IMPROVEMENT
        if fraction >= self.next_restart:
            self.next_restart += 1 / RESTARTS
            self._restart()
        return None

    def _restart(self) -> None:
        ranked = sorted(self.chains, key=lambda chain: (chain.state.best.rank, chain.number))
        for chain in ranked[(len(ranked) + 1) // 2 :]:
            state = ChainState(self.tracker.best, self.tracker.best)
            self.chains[chain.number] = Chain(chain.number, chain.rng, state, chain.proposals)

    def _size(self) -> tuple[int | None, float | None]:
        """Proposals and seconds for each chain in the next round."""
        proposals = seconds = None
        if self.budget.proposals is not None:
            share = self.budget.proposals * (1 - DESCENT_SHARE) / len(self.chains)
            proposals = max(1, min(ROUND_PROPOSALS, math.ceil(share / ROUNDS)))
        if self.budget.seconds is not None:
            seconds = min(ROUND_SECONDS, self.budget.seconds / ROUNDS)
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
