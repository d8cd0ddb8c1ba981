"""Branch and bound over the whole space: proves which strategy is the fastest.

1. A first, short MCMC gives a strategy to beat.
2. Configurations that no faster strategy can have, by `path_bounds`, are removed.
3. In a chain, `chain_search` finds all strategies that may be faster, unless they are too many.
4. Else families get their degrees one after the other, along the graph, and then their devices. A
   branch is left when its bound reaches the best step time; the most promising goes first.
5. Devices that the choices so far do not tell apart are tried once (`symmetry`), and so are parts
   of operators (`part_symmetry`).
6. Strategies that no bound excludes are simulated.

For small problems: the number of configurations grows as the factorial of the number of devices.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from keras_soap.errors import SearchError
from keras_soap.graph.operator_graph import Edge
from keras_soap.search import mcmc
from keras_soap.search.branch_bounds import BranchBounds, Occupied
from keras_soap.search.chain_bounds import chain
from keras_soap.search.chain_search import ChainSearch, reporting_devices
from keras_soap.search.domain import Domain
from keras_soap.search.part_symmetry import Degrees, PartSymmetries
from keras_soap.search.path_bounds import PathBounds
from keras_soap.search.problem import NO_OPTIONS, Budget, Problem, RunOptions
from keras_soap.search.result import SearchResult, StopReason
from keras_soap.search.sweep import BudgetSpent, Sweep
from keras_soap.search.symmetry import (
    Permutation,
    Reduction,
    reductions_of,
    stabilizer,
    symmetries,
    with_equal_reductions,
    with_same_reductions,
)
from keras_soap.search.tracker import Tracker

WARM_UP_SHARE = 0.2
MOST_WARM_UP_SECONDS = 20.0
"""Problems that can be searched exhaustively are so small that more is of no use."""
BISECTIONS = 8
"""To find what bounds show; each halves what is open."""
MOST_NODES = 500
"""Branches that each of them looks at."""
MOST_PAIRS = 2_000_000
"""Pairs of configurations on an edge: beyond this the tables do not fit into memory."""


def search(
    problem: Problem, budget: Budget, seed: int, options: RunOptions = NO_OPTIONS
) -> SearchResult:
    """Finds the fastest strategy, and proves that if the budget is enough (`proved`).

    Raises:
        SearchError: If the problem is too large to try, or devices share what they compute with.
    """
    pools = {device.pool for device in problem.topology.devices if device.pool}
    if pools:
        raise SearchError(
            f"Devices of topology {problem.topology.name!r} share what they compute with (pool "
            f"{min(pools)!r}), which the bounds of an exhaustive search do not know. Use "
            "method='mcmc', or a topology without pools."
        )
    sizes = [problem.space.num_configs(family) for family in range(len(problem.space.families))]
    pairs = max(
        (
            sizes[problem.space.family_of[edge.producer.operator]]
            * sizes[problem.space.family_of[edge.consumer]]
            for edge in problem.graph.edges
        ),
        default=0,
    )
    if pairs > MOST_PAIRS or max(sizes) > MOST_PAIRS:
        raise SearchError(
            f"Model {problem.graph.name!r} on {problem.topology.num_devices} devices has operators "
            f"with up to {max(sizes):,} configurations: too many for an exhaustive search. Use "
            "fewer devices, fewer dims, or method='mcmc'."
        )
    tracker = Tracker(problem, budget, options)
    stopped_by = tracker.spent()
    branching: _Search | None = None
    proved = False
    try:
        if stopped_by is None:
            _warm_up(problem, budget, seed, tracker)
            branching = _Search(problem, tracker)
            branching.run()
            stopped_by, proved = StopReason.COMPLETE, True
    except BudgetSpent:
        stopped_by = tracker.spent()
    except KeyboardInterrupt:
        stopped_by = StopReason.INTERRUPTED
    assert stopped_by is not None
    best_ns = tracker.best.step_time_ns
    lower_bound_ns = min(branching.lower_bound_ns, best_ns) if branching else 0
    return tracker.result(
        problem,
        "exhaustive",
        seed,
        stopped_by,
        proved=proved,
        lower_bound_ns=best_ns if proved else lower_bound_ns,
        locally_optimal=proved,
    )


def _warm_up(problem: Problem, budget: Budget, seed: int, tracker: Tracker) -> None:
    share = Budget(
        None
        if budget.seconds is None
        else min(budget.seconds * WARM_UP_SHARE, MOST_WARM_UP_SECONDS),
        None if budget.proposals is None else int(budget.proposals * WARM_UP_SHARE),
    )
    found = mcmc.search(problem, share, seed)
    tracker.proposals += found.proposals
    tracker.offer(found.evaluation)


class _MayBeFaster(Exception):
    """Ends the question whether anything is faster than a certain time."""


class _Search:
    def __init__(self, problem: Problem, tracker: Tracker):
        self.problem = problem
        self.graph = problem.graph
        self.tracker = tracker
        space = problem.space
        domains = [
            Domain.of(list(space.configs(family, anywhere=True)), problem.topology.num_devices)
            for family in range(len(space.families))
        ]
        self.bounds = PathBounds(problem, domains)
        self.lower_bound_ns = self.bounds.least_ns()
        self.order = [family for family, fed in enumerate(space.is_input) if not fed]
        self.symmetries = symmetries(problem.topology)
        if not space.places:
            self.symmetries = self.symmetries[:1]
        self.part_symmetries = PartSymmetries(problem)
        self.sweep = Sweep(problem, tracker)
        # While it is only asked whether anything is faster than that, and the branches left to see.
        self.probe_ns: int | None = None
        self.num_nodes = 0

    def run(self) -> None:
        """Returns when nothing faster than `tracker.best` is left."""
        edges = chain(self.bounds)
        if edges and self.tracker.best.feasible and self._search_chain(edges):
            return
        if self.tracker.best.feasible:
            self.bounds.tighten(self.tracker.best.step_time_ns)
        if not all(domain.configs for domain in self.bounds.domains):
            return
        if self.tracker.best.feasible:
            self._raise_bound()
        self._divide(self.bounds, {})

    def _raise_bound(self) -> None:
        """Bisects for what bounds show, to a few parts in a thousand of what is open."""
        high = self._limit_ns()
        for _ in range(BISECTIONS):
            self.probe_ns = (self.lower_bound_ns + high) // 2
            self.num_nodes = 0
            try:
                self._divide(self.bounds, {})
                self.lower_bound_ns = self.probe_ns
            except _MayBeFaster:
                high = self.probe_ns
        self.probe_ns = None

    def _search_chain(self, edges: list[Edge]) -> bool:
        """Whether that was enough."""
        lowering, space = self.problem.lowering, self.problem.space
        reductions = frozenset[Reduction]().union(
            *(
                reductions_of(lowering, number, degrees)
                for family, members in enumerate(space.families)
                for number, degrees in itertools.product(members, space.degrees[family])
            )
        )
        group = with_equal_reductions(self.problem.topology, self.symmetries, reductions)
        search = ChainSearch(self.problem, self.tracker, self.bounds, edges, group)
        try:
            return search.run()
        finally:
            self.lower_bound_ns = max(self.lower_bound_ns, search.lower_bound_ns)

    def _limit_ns(self) -> int:
        best = self.tracker.best
        limit_ns = best.step_time_ns if best.feasible else 1 << 62
        return limit_ns if self.probe_ns is None else min(limit_ns, self.probe_ns)

    def _look(self) -> None:
        """Before each branch."""
        if self.tracker.spent():
            raise BudgetSpent
        if self.probe_ns is not None:
            self.num_nodes += 1
            if self.num_nodes > MOST_NODES:
                raise _MayBeFaster

    def _divide(self, bounds: PathBounds, degrees: dict[int, Degrees]) -> None:
        """Gives the next family its degrees; `degrees` are those of the families before."""
        self._look()
        if len(degrees) == len(self.order):
            self._place(bounds, degrees)
            return
        family = self.order[len(degrees)]
        narrowed = {
            each: bounds.only(family, each)
            for each in dict.fromkeys(config.degrees for config in bounds.domains[family].configs)
        }
        least_ns = {each: of_each.least_ns() for each, of_each in narrowed.items()}
        for each in sorted(narrowed, key=least_ns.__getitem__):
            if least_ns[each] >= self._limit_ns():
                break
            if not degrees and self.probe_ns is None:
                self.lower_bound_ns = max(self.lower_bound_ns, least_ns[each])
            narrowed[each].tighten(self._limit_ns())
            if all(domain.configs for domain in narrowed[each].domains):
                self._divide(narrowed[each], {**degrees, family: each})

    def _place(self, bounds: PathBounds, degrees: dict[int, Degrees]) -> None:
        """Gives all families their devices."""
        lowering, space = self.problem.lowering, self.problem.space
        reductions = frozenset[Reduction]().union(
            *(
                reductions_of(lowering, number, degrees[family])
                for family in self.order
                for number in space.families[family]
            )
        )
        group = with_same_reductions(self.problem.topology, self.symmetries, reductions)
        branch = _Branch(
            BranchBounds(self.problem, bounds), self.part_symmetries.groups(degrees, self.order)
        )
        self._choose(
            branch, 0, stabilizer(group, reporting_devices(self.graph)), branch.bounds.nothing
        )

    def _choose(
        self, branch: "_Branch", depth: int, group: tuple[Permutation, ...], occupied: Occupied
    ) -> None:
        """Gives the next family its devices."""
        self._look()
        if depth == len(self.order):
            if self.probe_ns is not None:
                raise _MayBeFaster
            self._simulate(branch.bounds)
            return
        family = self.order[depth]
        options = branch.bounds.options(family, occupied, self.order[depth + 1 :])
        configs = branch.bounds.bounds.domains[family].configs
        for row in np.argsort(options.bound_ns, kind="stable").tolist():
            if options.bound_ns[row] >= self._limit_ns():
                break
            devices = configs[row].devices
            if _is_image(devices, group, branch.parts[depth]):
                continue
            now = branch.bounds.choose(family, options, row)
            self._choose(branch, depth + 1, stabilizer(group, devices), now)
        branch.bounds.forget(family)

    def _simulate(self, bounds: BranchBounds) -> None:
        """The strategy that has been chosen."""
        families = self.problem.space.families
        chosen = {
            number: bounds.bounds.domains[family].configs[row]
            for family, row in bounds.chosen.items()
            for number in families[family]
        }
        self.sweep.run(chosen)


@dataclass(frozen=True)
class _Branch:
    """Strategies of the same degrees.

    Attributes:
        bounds: Of them.
        parts: By the place of a family in the order of choices: the permutations of its parts that
            change nothing, as long as the devices of later families are open.
    """

    bounds: BranchBounds
    parts: list[tuple[Permutation, ...]]


def _is_image(
    devices: tuple[int, ...], group: tuple[Permutation, ...], parts: tuple[Permutation, ...]
) -> bool:
    """Whether symmetries exchange these with devices that are tried instead."""
    return any(
        tuple(image[devices[part]] for part in renumbered) < devices
        for renumbered in parts
        for image in group
    )
