"""One chain of a search, as it is handed from process to process."""

import time
from dataclasses import dataclass

import numpy as np

from keras_soap.search.metropolis import ChainState, step
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
    space, objective, state, rng = problem.space, problem.objective, chain.state, chain.rng
    end = None if seconds is None else time.perf_counter() + seconds
    made = 0
    while proposals is None or made < proposals:
        state, _ = step(rng, state, space, objective, beta_per_ns)
        made += 1
        if end is not None and time.perf_counter() >= end:
            break
    return Chain(chain.number, rng, state, chain.proposals + made)
