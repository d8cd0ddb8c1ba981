"""Markov chain Monte Carlo over strategies, as in the paper.

1. p(S) ∝ exp(-β · cost(S)). A change of one operator is proposed; from S to S* it is accepted with
   probability min(1, exp(β · (cost(S) - cost(S*)))) (N. Metropolis et al., 1953).
2. β is per step time: β = `SHARPNESS` / cost(first strategy), so it means the same for any model.
3. Proposals are drawn from the space's own distribution q, and taken as symmetric: so what is
   sampled is q(S) · exp(-β · cost(S)), and q says which placements are worth more tries.
4. The random number that decides is drawn before the strategy is evaluated. So the evaluation may
   stop as soon as the partial timeline is too long, and the chain is the same.
5. This is the definition; `simulator.walk` does the same in compiled code, and searches run that.
6. Strategies over a device's memory are never accepted, except on the way down to those that fit.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from keras_soap.objective import Evaluation, Evaluator
from keras_soap.strategy.moves import USUAL, Shares
from keras_soap.strategy.search_space import Change
from keras_soap.strategy.strategy import Strategy

SHARPNESS = 1500.0
"""A step slower by 1/1500 of the step time is accepted with probability 1/e."""


class Proposer(Protocol):
    """What a chain asks of a search space."""

    def random_change(
        self, rng: np.random.Generator, strategy: Strategy, shares: Shares
    ) -> Change: ...


@dataclass(frozen=True, slots=True)
class ChainState:
    """Where a chain stands.

    Attributes:
        current: The strategy that it is at.
        best: The best that it has seen.
    """

    current: Evaluation
    best: Evaluation


@dataclass(frozen=True, slots=True)
class StepInfo:
    """What a step did.

    Attributes:
        change: What it proposed.
        accepted: Whether the chain moved there.
        improved: Whether that is the best that the chain has seen.
    """

    change: Change
    accepted: bool
    improved: bool


def step(
    rng: np.random.Generator,
    state: ChainState,
    space: Proposer,
    objective: Evaluator,
    beta_per_ns: float,
    shares: Shares = USUAL,
) -> tuple[ChainState, StepInfo]:
    """One proposal, accepted or not."""
    current = state.current
    # u < exp(-β · slowdown) is slowdown < -ln(u) / β; 1 - random() is never 0.
    patience_ns = -math.log(1.0 - rng.random()) / beta_per_ns
    limit_ns = current.step_time_ns + int(min(patience_ns, 2.0**61))
    change = space.random_change(rng, current.strategy, shares)
    proposed = objective.update(current, change, limit_ns if current.feasible else None)
    if current.feasible:
        accepted = proposed.feasible and proposed.step_time_ns <= limit_ns
    else:
        accepted = proposed.rank <= current.rank
    if not accepted:
        return state, StepInfo(change, False, False)
    improved = proposed.rank < state.best.rank
    return ChainState(proposed, proposed if improved else state.best), StepInfo(
        change, True, improved
    )


def beta_per_ns(start: Evaluation, sharpness: float = SHARPNESS) -> float:
    """β for a search whose first strategy is `start`."""
    return sharpness / max(start.step_time_ns, 1)
