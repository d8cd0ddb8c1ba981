"""One chain of a search, as it is handed from process to process."""

from dataclasses import dataclass, replace

import numpy as np

from keras_soap.objective import Evaluation
from keras_soap.search.metropolis import ChainState
from keras_soap.search.problem import Problem
from keras_soap.strategy.moves import USUAL, Shares, meet
from keras_soap.strategy.strategy import Strategy


@dataclass(frozen=True, slots=True)
class Phase:
    """How a chain moves in a round.

    Attributes:
        beta_per_ns: How much longer steps are refused.
        shares: Which changes it makes how often.
        partner: The strategy that crossovers take from, if there are any.
    """

    beta_per_ns: float
    shares: Shares = USUAL
    partner: Strategy | None = None


@dataclass(frozen=True)
class Chain:
    """A chain between two rounds.

    Attributes:
        number: Which of the search's chains it is.
        rng: Its own random numbers.
        state: Where it stands.
        proposals: How many it has made.
        origin: Where it may begin again.
    """

    number: int
    rng: np.random.Generator
    state: ChainState
    proposals: int
    origin: Evaluation


def advance(
    problem: Problem,
    chain: Chain,
    phase: Phase,
    proposals: int | None,
    seconds: float | None,
) -> Chain:
    """The chain after `proposals` more, or after `seconds` if that comes first."""
    if phase.partner is not None:
        meet(problem.space.moves, problem.space, phase.partner)
    current, best, made = problem.objective.walk(
        chain.state.current,
        chain.state.best,
        problem.space,
        chain.rng,
        phase.beta_per_ns,
        proposals,
        seconds,
        phase.shares,
    )
    return replace(chain, state=ChainState(current, best), proposals=chain.proposals + made)
