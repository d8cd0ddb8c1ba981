"""What a search gives back."""

from dataclasses import dataclass
from enum import StrEnum

from keras_soap.costs.cost_profile import CostSource
from keras_soap.objective import Evaluation
from keras_soap.strategy.strategy import Strategy


class StopReason(StrEnum):
    """Why a search ended."""

    TIME = "time budget"
    PROPOSALS = "proposal budget"
    NO_IMPROVEMENT = "no improvement in half of the search"
    COMPLETE = "search space exhausted"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a search is. What callbacks get, and what the history is made of.

    Attributes:
        seconds: Since the search began.
        proposals: Strategies evaluated so far.
        best_ns: Step time of the best strategy so far.
    """

    seconds: float
    proposals: int
    best_ns: int


@dataclass(frozen=True)
class SearchResult:
    """The outcome of a search.

    Attributes:
        strategy: The best strategy found.
        evaluation: What it costs.
        baselines: What the baselines cost, by name.
        proposals: Strategies evaluated.
        proposals_per_second: The same over `search_seconds`.
        search_seconds: Wall time.
        stopped_by: Why it ended.
        history: A `Progress` for every improvement, and for the end.
        seed: The seed.
        method: Name of the search.
        cost_source: Whether the times of parts are analytic or measured.
        proved: Whether no strategy of the space is faster.
        lower_bound_ns: A time that no strategy of the space is faster than, for all that the search
            has shown; 0 if it shows nothing of the kind.
        locally_optimal: Whether no change of one operator improves it, as far as was tried.
    """

    strategy: Strategy
    evaluation: Evaluation
    baselines: dict[str, Evaluation]
    proposals: int
    search_seconds: float
    stopped_by: StopReason
    history: tuple[Progress, ...]
    seed: int
    method: str
    cost_source: CostSource
    proved: bool = False
    lower_bound_ns: int = 0
    locally_optimal: bool = False

    @property
    def proposals_per_second(self) -> float:
        return self.proposals / max(self.search_seconds, 1e-9)
