"""Exhaustive search of a chain of operators: simulates whatever `chain_bounds` leaves.

1. States of strategies that may be faster than the best known one are found, operator by operator.
2. The strategies that led to the last of them are simulated, those of the least bound first.
3. Bounds know all symmetries of the topology. The simulator does not: the report of the loss goes
   to a certain device, and rings go by the numbers of devices. So each strategy is simulated with
   its devices renamed in all ways that are not alike for its reductions and the report.
"""

import functools

from keras_soap.graph.operator_graph import Edge, OperatorGraph
from keras_soap.search.chain_bounds import ChainBounds, Level, Placed
from keras_soap.search.domain import Domain
from keras_soap.search.path_bounds import PathBounds
from keras_soap.search.problem import Problem
from keras_soap.search.sweep import BudgetSpent, Sweep
from keras_soap.search.symmetry import (
    Permutation,
    Reduction,
    cosets,
    reductions_of,
    stabilizer,
    with_same_reductions,
)
from keras_soap.search.tracker import Tracker
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.tasks.build import REPORT_DEVICE

BISECTIONS = 8
"""To find what bounds show where they leave too much; each halves what is open."""


def reporting_devices(graph: OperatorGraph) -> tuple[int, ...]:
    """Devices that no symmetry may exchange, since losses are reported to them."""
    reports = any(operator.attributes.get("report_bytes") for operator in graph.operators)
    return (REPORT_DEVICE,) if reports else ()


class ChainSearch:
    """Searches one chain.

    Attributes:
        lower_bound_ns: No strategy is faster.
    """

    def __init__(
        self,
        problem: Problem,
        tracker: Tracker,
        bounds: PathBounds,
        edges: list[Edge],
        group: tuple[Permutation, ...],
    ):
        """Prepares the bounds.

        Args:
            problem: What is searched for.
            tracker: Has a feasible strategy.
            bounds: Of the configurations to consider.
            edges: The chain.
            group: Symmetries of the topology under which reductions take as long.
        """
        self.tracker = tracker
        self.bounds = bounds
        self.chain_bounds = ChainBounds(bounds, edges, group)
        self.problem = problem
        self.group = group
        self.reporting = reporting_devices(problem.graph)
        self._images = functools.cache(self._find_images)
        self._reductions = functools.cache(functools.partial(reductions_of, problem.lowering))
        self.lower_bound_ns = 0
        self.sweep = Sweep(problem, tracker)

    def run(self) -> bool:
        """Whether nothing faster than `tracker.best` is left; if not, there is too much to try."""
        levels = self._levels(self._limit_ns())
        if levels is None:
            self._raise_bound()
            return False
        least_ns = levels[-1].least_ns
        for state in least_ns.argsort(kind="stable").tolist():
            if least_ns[state] >= self._limit_ns():
                break
            self.lower_bound_ns = int(least_ns[state])
            for placed in self.chain_bounds.strategies(levels, state):
                for image in self._images(self._reductions_of(placed)):
                    self._simulate(placed, image)
        self.lower_bound_ns = self._limit_ns()
        return True

    def _raise_bound(self) -> None:
        """Bisects for what the bounds show, to a few parts in a thousand of what is open."""
        high = self._limit_ns()
        for _ in range(BISECTIONS):
            middle = (self.lower_bound_ns + high) // 2
            levels = self._levels(middle)
            if levels is None:
                high = middle
            else:
                self.lower_bound_ns = min([middle, *levels[-1].least_ns.tolist()])

    def _limit_ns(self) -> int:
        return self.tracker.best.step_time_ns

    def _levels(self, limit_ns: int) -> list[Level] | None:
        return self.chain_bounds.levels(limit_ns, self._check)

    def _check(self) -> None:
        if self.tracker.spent():
            raise BudgetSpent

    def _reductions_of(self, placed: Placed) -> frozenset[Reduction]:
        return frozenset[Reduction]().union(
            *(
                self._reductions(number, self._domain(number).configs[row].degrees)
                for number, (row, _) in placed.items()
            )
        )

    def _find_images(self, reductions: frozenset[Reduction]) -> tuple[Permutation, ...]:
        """How devices are to be renamed in strategies with certain reductions."""
        same = with_same_reductions(self.problem.topology, self.group, reductions)
        return cosets(self.group, stabilizer(same, self.reporting))

    def _simulate(self, placed: Placed, image: Permutation) -> None:
        chosen = {
            number: self._renamed(number, row, renamed, image)
            for number, (row, renamed) in placed.items()
        }
        self.sweep.run(chosen)

    def _domain(self, number: int) -> Domain:
        return self.bounds.domains[self.bounds.family_of[number]]

    def _renamed(
        self, number: int, row: int, renamed: Permutation, image: Permutation
    ) -> ParallelConfig:
        config = self._domain(number).configs[row]
        return ParallelConfig(config.degrees, tuple(image[renamed[d]] for d in config.devices))
