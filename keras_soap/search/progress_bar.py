"""Shows on stderr how a search is getting on."""

from tqdm import tqdm

from keras_soap.search.problem import Budget
from keras_soap.search.result import Progress


class ProgressBar:
    """A callback that draws a bar: the budget spent, the best cost, and proposals per second."""

    def __init__(self, budget: Budget, enabled: bool = True):
        self._by_proposals = budget.proposals is not None
        total = budget.proposals if self._by_proposals else budget.seconds
        self._bar = tqdm(
            total=total,
            desc="search",
            disable=not enabled,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
        )

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def __call__(self, progress: Progress) -> None:
        spent = progress.proposals if self._by_proposals else progress.seconds
        rate = progress.proposals / max(progress.seconds, 1e-9)
        self._bar.set_postfix_str(
            f"best {progress.best_ns / 1e6:.3f} ms, {rate:,.0f} proposals/s", refresh=False
        )
        self._bar.update(min(spent, self._bar.total) - self._bar.n)
