"""Metropolis–Hastings from several starts, then a greedy descent.

1. Chains start from data parallelism, the expert's and other given strategies, and a random one.
   Long searches have more of them, rather than longer ones: see `CHAIN_PROPOSALS`.
2. First they are annealed (`Stage`): which layers share devices and which are apart decides the
   most, and is hard to change later, one operator at a time. Within a node and without O, chains
   change mostly whole layers. On several nodes they begin with layers on whole nodes, the heaviest
   layer somewhere else in each, and go on to details; most chains then begin again where those did
   that found the best.
3. Then generations follow each other. In each, every chain is annealed shortly, from a sharpness of
   its own to `COLD` over the best step time so far, and now and then takes over a part of what
   another chain found. `Generations` says where they begin.
4. The search ends with the budget, or when the best has not improved for half of what was spent.
5. What is left of the budget, and at least `DESCENT_SHARE` of it, goes into a greedy descent.
6. With a budget of proposals everything depends on the seed alone, not on clocks or cores.
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Literal

import numpy as np

from keras_soap.objective import Evaluation
from keras_soap.search import checkpoint, descent
from keras_soap.search.chains import Chain, Phase, advance
from keras_soap.search.generations import Generations
from keras_soap.search.metropolis import ChainState, beta_per_ns
from keras_soap.search.problem import MOST_PAIRS, NO_OPTIONS, Budget, Problem, RunOptions
from keras_soap.search.result import SearchResult, StopReason
from keras_soap.search.tracker import Tracker
from keras_soap.search.workers import Workers
from keras_soap.strategy.moves import Shares
from keras_soap.strategy.parallel_config import ParallelConfig

FEWEST_CHAINS = 4
MOST_CHAINS = 16
CHAIN_PROPOSALS = 30_000
"""Of a chain, in a long search: longer annealings gain less than more of them do."""
DESCENT_SHARE = 0.15
ROUNDS = 128
ROUND_SECONDS = 0.25
ROUND_PROPOSALS = 2000
CYCLES = 12
"""What the budget of all chains is divided into."""
COLD = 4000.0
"""Sharpness: a step slower by 1/4000 is accepted with probability 1/e."""
HOT = 20.0
GENERATION_HOT = 60.0, 1000.0
"""Where the first chain starts in a generation, and the last."""
GENERATION_PROPOSALS = 3000
"""Of a chain in a generation, which takes no longer than a cycle."""
IN_GENERATIONS = Shares(crossover=0.03)
"""With many more, chains are alike before they have found much."""
LAST_CYCLES = 10.5
"""How many are over when all that was found is brought together."""
LAYERS, LAYERS_COLD = Shares(layers=0.8), 1000.0
LAYERS_IN_PLACE, LAYERS_IN_PLACE_COLD = Shares(layers=0.5), COLD


@dataclasses.dataclass(frozen=True)
class Stage:
    """What chains do before generations.

    Attributes:
        cycles: How many cycles of the search are over at its end.
        shares: Of changes.
        hot, cold: From which sharpness to which chains are annealed.
        then: Where they stand at its end: `"origin"`, at the best that each saw, and that is where
            they may begin again; `"again"`, where the best of them began.
    """

    cycles: float
    shares: Shares
    hot: float
    cold: float
    then: Literal["origin", "again"]


STAGES_CYCLES = 3.5
"""How many are over when generations begin."""
ON_LAYERS = (Stage(STAGES_CYCLES, LAYERS, HOT, LAYERS_COLD, "origin"),)
"""Which layers share devices is settled before details are."""
IN_PLACE = (Stage(STAGES_CYCLES, LAYERS_IN_PLACE, HOT, LAYERS_IN_PLACE_COLD, "origin"),)
"""The same without O, where layers only split in other ways."""
ON_NODES = (
    Stage(0.5, Shares(nodes=1.0), HOT, 300.0, "origin"),
    Stage(1.75, Shares(layers=0.1), 300.0, COLD, "again"),
    Stage(STAGES_CYCLES, Shares(layers=0.1), 200.0, COLD, "origin"),
)
"""Layers on whole nodes first; then details, shortly, to see what comes of these; then at length
those of which most came."""
ORIGINS = 4
"""Of so many chains, one began where others begin again."""
STARTS_SHARE = 0.05
"""Of a budget of seconds, to simulate starts on whole nodes: with a thousand devices each takes
long."""
LEAST_SHARE = 0.8
"""Of the budget that is spent before a lack of improvement ends the search: by then all that was
found has been brought together."""


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
    """Chains from given strategies by turns, and one from anywhere; on nodes, from whole ones."""
    most = max(MOST_CHAINS, num_cores)
    plans = _plans(problem, most)
    on_nodes = _starts_on_nodes(problem, tracker) if ON_NODES in plans else []
    chains = []
    for number, sequence in enumerate(np.random.SeedSequence(seed).spawn(most)):
        starts = (on_nodes if plans[number] is ON_NODES else ()) or problem.starts
        start = starts[plans[:number].count(plans[number]) % len(starts)]
        state = ChainState(start, start)
        chains.append(Chain(number, np.random.default_rng(sequence), state, 0, start))
    if tracker.budget.proposals is not None:
        count = min(MOST_CHAINS, max(FEWEST_CHAINS, tracker.budget.proposals // CHAIN_PROPOSALS))
    else:
        expected = _expected_proposals(problem, tracker, chains, num_cores)
        count = min(most, max(FEWEST_CHAINS, num_cores, expected // CHAIN_PROPOSALS))
    last = max(number for number in range(count) if plans[number] is plans[0])
    start = _random_start(problem, tracker, chains[last].rng)
    chains[last] = dataclasses.replace(chains[last], state=ChainState(start, start))
    return chains[:count]


def _starts_on_nodes(problem: Problem, tracker: Tracker) -> list[Evaluation]:
    """Everything over the samples on all nodes, but for the heaviest layer, which is elsewhere.

    By number of nodes and by what is split across them; the fastest first.
    """
    space, found = problem.space, []
    everywhere = space.all_on_nodes(len(space.on_nodes) - 2)
    most_seconds = STARTS_SHARE * (tracker.budget.seconds or math.inf)
    for where, place in enumerate(space.on_nodes):
        if place.start or tracker.spent() is not None or tracker.seconds > most_seconds:
            continue
        strategy = space.layer_on_nodes(everywhere, space.heaviest, where)
        if problem.lowering.num_pairs(strategy) <= MOST_PAIRS:
            found.append(problem.objective.evaluate(strategy))
            tracker.offer(found[-1])
    return sorted(found, key=lambda evaluation: evaluation.rank)


def _plans(problem: Problem, num_chains: int) -> list[tuple[Stage, ...]]:
    """What chains do before generations, by number of the chain.

    On several nodes all but two start from whole nodes.
    """
    if problem.space.on_nodes:
        return [ON_LAYERS if n in (0, 2) else ON_NODES for n in range(num_chains)]
    return [ON_LAYERS if problem.space.places else IN_PLACE] * num_chains


def _expected_proposals(
    problem: Problem, tracker: Tracker, chains: list[Chain], num_cores: int
) -> int:
    """How many a budget of seconds will do for, by the first chain's first round, made here."""
    seconds = tracker.budget.seconds
    if seconds is None or tracker.spent() is not None:
        return 0
    started = time.perf_counter()
    first = _plans(problem, 1)[0][0]
    phase = Phase(beta_per_ns(tracker.best, first.hot), first.shares)
    most_seconds = min(ROUND_SECONDS, seconds / ROUNDS)
    chains[0] = advance(problem, chains[0], phase, None, most_seconds)
    rate = chains[0].proposals / (time.perf_counter() - started)
    tracker.proposals += chains[0].proposals
    tracker.offer(chains[0].state.best)
    return int(rate * seconds * num_cores)


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
        self.plans = _plans(problem, len(chains))
        self.cycles_over = self._cycles()
        self.generations = Generations()
        self.generation_from = self._made(), self.cycles_over
        self.improved_at = self._spent_so_far()
        self.best: Evaluation = tracker.best

    def round(self, workers: Workers) -> StopReason | None:
        """One round of all chains; says why it was the last, if it was."""
        proposals, seconds = self._size()
        before = self._made()
        phases = [self._phase(chain) for chain in self.chains]
        self.chains = workers.advance(self.chains, phases, proposals, seconds)
        self.tracker.proposals += self._made() - before
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
        before, self.cycles_over = self.cycles_over, self._cycles()
        for plan in dict.fromkeys(self.plans):
            for stage in plan:
                if before < stage.cycles <= self.cycles_over:
                    self._leave(stage, [n for n, other in enumerate(self.plans) if other is plan])
        if self.cycles_over >= STAGES_CYCLES and (
            before < STAGES_CYCLES or self._passed_of_generation() >= 1
        ):
            self._begin_generation()
        return None

    def _cycles(self) -> float:
        """How many cycles are over, with the share of the present one."""
        return self._fraction() / (1 - DESCENT_SHARE) * CYCLES

    def _phase(self, chain: Chain) -> Phase:
        """How a chain moves in the next round."""
        cycles, begin = self._cycles(), 0.0
        for stage in self.plans[chain.number]:
            if cycles < stage.cycles:
                passed = (cycles - begin) / (stage.cycles - begin)
                sharpness = stage.hot * (stage.cold / stage.hot) ** passed
                return Phase(beta_per_ns(self.tracker.best, sharpness), stage.shares)
            begin = stage.cycles
        hottest, coldest = GENERATION_HOT
        hot = hottest * (coldest / hottest) ** (chain.number / max(1, len(self.chains) - 1))
        sharpness = hot * (COLD / hot) ** min(1.0, self._passed_of_generation())
        # By the chain's own chance, so that it is the same however many cores there are.
        partner = self.chains[int(chain.rng.integers(len(self.chains)))].state.best.strategy
        return Phase(beta_per_ns(self.tracker.best, sharpness), IN_GENERATIONS, partner)

    def _passed_of_generation(self) -> float:
        """Its share that is over."""
        made, cycles = self.generation_from
        by_proposals = (self._made() - made) / (GENERATION_PROPOSALS * len(self.chains))
        return max(by_proposals, self._cycles() - cycles)

    def _begin_generation(self) -> None:
        """Puts chains where `Generations` says, in turn."""
        last = self.cycles_over >= LAST_CYCLES
        starts = self.generations.starts(self.chains, self.tracker.best, last)
        for chain in self.chains:
            start = starts[chain.number % len(starts)]
            self.chains[chain.number] = dataclasses.replace(chain, state=ChainState(start, start))
        self.generation_from = self._made(), self._cycles()

    def _made(self) -> int:
        """Proposals of all chains."""
        return sum(chain.proposals for chain in self.chains)

    def _leave(self, stage: Stage, numbers: Sequence[int]) -> None:
        """Puts chains where the end of a stage says."""
        origins = self._best_origins(numbers) if stage.then == "again" else []
        for turn, number in enumerate(numbers):
            chain = self.chains[number]
            start = chain.state.best if stage.then == "origin" else origins[turn % len(origins)]
            state = ChainState(start, start)
            self.chains[number] = dataclasses.replace(chain, state=state, origin=start)

    def _best_origins(self, numbers: Sequence[int]) -> list[Evaluation]:
        """Of the chains that found the best; of no more than half the heaviest layer lies alike."""
        ranked = sorted(numbers, key=lambda number: (self.chains[number].state.best.rank, number))
        heaviest = self.problem.space.families[self.problem.space.heaviest][0]
        wanted = -(-len(ranked) // ORIGINS)
        found: dict[ParallelConfig, list[Evaluation]] = {}
        for number in ranked:
            origin = self.chains[number].origin
            alike = found.setdefault(origin.strategy.configs[heaviest], [])
            if len(alike) < -(-wanted // 2) and sum(map(len, found.values())) < wanted:
                alike.append(origin)
        return [origin for alike in found.values() for origin in alike]

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
