"""One chain of a search, as it is handed from process to process."""

from dataclasses import dataclass

import numpy as np

from keras_soap.search.metropolis import ChainState
from keras_soap.search.problem import Problem


@dataclass(frozen=True)
class Chain:
    """A chain between two rounds.

    Attributes:
        number: Which of the search's chains it is.
        rng: Its own random numbers.
        state: Where it stands.
        proposals: How many it has made.
    """

    number: int
    rng: np.random.Generator
    state: ChainState
    proposals: int


def advance(
    problem: Problem,
    chain: Chain,
    beta_per_ns: float,
    proposals: int | None,
    seconds: float | None,
) -> Chain:
    """The chain after `proposals` more, or after `seconds` if that comes first."""
    current, best, made = problem.objective.walk(
        chain.state.current,
        chain.state.best,
        problem.space,
        chain.rng,
        beta_per_ns,
        proposals,
        seconds,
    )
    return Chain(chain.number, chain.rng, ChainState(current, best), chain.proposals + made)
