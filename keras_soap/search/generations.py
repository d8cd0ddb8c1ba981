"""At which strategies the generations of a search begin.

1. A generation begins at the best of what all chains found, half as many strategies as there are
   chains. None counts twice: two that take equally long are one.
2. So chains become alike. When generations gain no more, an epoch is over, and the next one begins
   where the first generation did: where such a search ends is chance to a good part, and what it
   ends at is hard to leave, since several operators would have to change at once.
3. While some of them do not fit into memory, what is gained is not time, and an epoch goes on.
4. The last generations begin at what all epochs found: crossovers may put it together. Of a search
   that was resumed, that is what it found since, and the best.
"""

from collections.abc import Iterable, Sequence

from keras_soap.objective import Evaluation
from keras_soap.search.chains import Chain

PATIENCE = 3
"""Over so many generations an epoch must gain something."""
LEAST_GAIN = 0.002
"""Of the mean step time of what generations begin at."""


class Generations:
    """What is known of those of a search.

    Attributes:
        found: The best of each epoch that is over.
    """

    def __init__(self):
        self.found: list[Evaluation] = []
        self._mean_ns: list[float] = []
        self._are_last = False

    def starts(self, chains: Sequence[Chain], best: Evaluation, last: bool) -> list[Evaluation]:
        """The strategies that the next generation begins at, the best first.

        Args:
            chains: At the end of the generation before.
            best: Of the search so far.
            last: Whether no epoch may begin any more.
        """
        most = (len(chains) + 1) // 2
        starts = _best(most, (chain.state.best for chain in chains))
        if last:
            if not self._are_last:
                starts = _best(most, [*starts, *self.found, best])
            self._are_last = True
            return starts
        if not all(start.feasible for start in starts):
            self._mean_ns = []
            return starts
        self._mean_ns.append(sum(start.step_time_ns for start in starts) / len(starts))
        before = self._mean_ns[-1 - PATIENCE :]
        if len(before) <= PATIENCE or before[0] > before[-1] * (1 + LEAST_GAIN):
            return starts
        self.found.append(starts[0])
        self._mean_ns = []
        return _best(most, (chain.origin for chain in chains))


def _best(most: int, evaluations: Iterable[Evaluation]) -> list[Evaluation]:
    found: dict[tuple[int, int], Evaluation] = {}
    for evaluation in evaluations:
        found.setdefault(evaluation.rank, evaluation)
    return sorted(found.values(), key=lambda evaluation: evaluation.rank)[:most]
