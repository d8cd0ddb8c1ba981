"""Branch and bound over the whole space: proves which strategy is the fastest.

1. A first, short MCMC gives a strategy to beat.
2. Configurations that no faster strategy can have, by `path_bounds`, are removed.
3. In a chain, `chain_search` finds all strategies that may be faster, unless they are too many.
4. Else families get their configurations one after the other, along the graph. A branch is
   left when its bound reaches the best step time; the most promising goes first.
5. Devices that the choices so far do not tell apart are tried once (`symmetry`).
6. When only inputs are left, those that no bound excludes are simulated, each with each.

For small problems: the number of configurations grows as the factorial of the number of devices.
"""

from dataclasses import dataclass

import numpy as np

from keras_soap.errors import SearchError
from keras_soap.graph.operator_graph import Edge
from keras_soap.search import mcmc
from keras_soap.search.chain_bounds import chain
from keras_soap.search.chain_search import ChainSearch
from keras_soap.search.path_bounds import Domain, PathBounds
from keras_soap.search.problem import NO_OPTIONS, Budget, Problem, RunOptions
from keras_soap.search.result import SearchResult, StopReason
from keras_soap.search.sweep import BudgetSpent, Sweep
from keras_soap.search.symmetry import Permutation, stabilizer, symmetries
from keras_soap.search.tracker import Tracker
from keras_soap.tasks.build import REPORT_DEVICE

WARM_UP_SHARE = 0.2
MOST_WARM_UP_SECONDS = 20.0
"""Problems that can be searched exhaustively are so small that more is of no use."""
BISECTIONS = 8
"""To find what bounds show; each halves what is open."""
MOST_NODES = 2_000
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


@dataclass(frozen=True)
class _Occupied:
    """What the choices so far occupy.

    Attributes:
        load_ns: int64 (resources,). In all.
        reduce_ns: int64 (resources,). Reductions of gradients alone.
        release_ns: int64 (resources,). When the first of those can start.
    """

    load_ns: np.ndarray
    reduce_ns: np.ndarray
    release_ns: np.ndarray


class _Search:
    def __init__(self, problem: Problem, tracker: Tracker):
        self.problem = problem
        self.graph = problem.graph
        self.tracker = tracker
        self.num_devices = problem.topology.num_devices
        space = problem.space
        domains = [
            Domain.of(list(space.configs(family, anywhere=True)), self.num_devices)
            for family in range(len(space.families))
        ]
        self.bounds = PathBounds(problem, domains)
        self.chosen: dict[int, int] = {}
        # By operator that has a configuration: when its parts can start, forward and both ways.
        self.start_ns: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        sources = [all(not self.graph.in_edges[n] for n in m) for m in space.families]
        self.lower_bound_ns = max(
            int(self.bounds.bound_ns(n, self.bounds.ready_ns[n], self.bounds.head_ns[n]).min())
            for n in range(len(self.graph.operators))
        )
        self.order = [family for family, source in enumerate(sources) if not source]
        self.sources = [family for family, source in enumerate(sources) if source]
        self.sweep = Sweep(problem, tracker)
        # Tails of operators, given what has been chosen behind; as long as that does not change.
        self.tails: dict[int, np.ndarray] = {}
        # While it is only asked whether anything is faster than that, and the branches left to see.
        self.probe_ns: int | None = None
        self.num_nodes = 0

    def run(self) -> None:
        """Returns when nothing faster than `tracker.best` is left."""
        if self.tracker.best.feasible:
            self.bounds.tighten(self.tracker.best.step_time_ns)
        if not all(domain.configs for domain in self.bounds.domains):
            return
        reports = any(operator.attributes.get("report_bytes") for operator in self.graph.operators)
        group = symmetries(self.problem.topology)
        fixed = symmetries(self.problem.topology, (REPORT_DEVICE,)) if reports else group
        if not self.problem.space.places:
            group = fixed = group[:1]
        edges = chain(self.bounds)
        if edges and self.tracker.best.feasible and self._search_chain(edges, group, fixed):
            return
        zeros = np.zeros(self.bounds.num_resources, np.int64)
        nothing = _Occupied(zeros, zeros, zeros + (1 << 61))
        if self.tracker.best.feasible:
            self._raise_bound(fixed, nothing)
        self._branch(0, fixed, nothing)

    def _raise_bound(self, group: tuple[Permutation, ...], nothing: _Occupied) -> None:
        """Bisects for what bounds show, to a few parts in a thousand of what is open."""
        high = self._limit_ns()
        for _ in range(BISECTIONS):
            self.probe_ns = (self.lower_bound_ns + high) // 2
            self.num_nodes = 0
            try:
                self._branch(0, group, nothing)
                self.lower_bound_ns = self.probe_ns
            except _MayBeFaster:
                high = self.probe_ns
        self.probe_ns = None
        self.chosen.clear()
        self.start_ns.clear()

    def _search_chain(
        self, edges: list[Edge], group: tuple[Permutation, ...], fixed: tuple[Permutation, ...]
    ) -> bool:
        """Whether that was enough."""
        search = ChainSearch(self.problem, self.tracker, self.bounds, edges, group, fixed)
        try:
            return search.run()
        finally:
            self.lower_bound_ns = max(self.lower_bound_ns, search.lower_bound_ns)

    def _limit_ns(self) -> int:
        best = self.tracker.best
        limit_ns = best.step_time_ns if best.feasible else 1 << 62
        return limit_ns if self.probe_ns is None else min(limit_ns, self.probe_ns)

    def _branch(self, depth: int, group: tuple[Permutation, ...], occupied: _Occupied) -> None:
        if self.tracker.spent():
            raise BudgetSpent
        self.tails.clear()
        if self.probe_ns is not None:
            self.num_nodes += 1
            if depth == len(self.order) or self.num_nodes > MOST_NODES:
                raise _MayBeFaster
        if depth == len(self.order):
            self._simulate(group, occupied)
            return
        family = self.order[depth]
        members = self.problem.space.families[family]
        starts = {number: self._starts(number) for number in members}
        taken = self._occupy(family, starts, occupied)
        bound = self._bound(starts, taken, [*self.order[depth + 1 :], *self.sources])
        domain = self.bounds.domains[family]
        for row in np.argsort(bound, kind="stable").tolist():
            if bound[row] >= self._limit_ns():
                break
            if depth == 0 and self.probe_ns is None:
                self.lower_bound_ns = max(self.lower_bound_ns, int(bound[row]))
            devices = domain.configs[row].devices
            if _is_image(devices, group):
                continue
            self.chosen[family] = row
            for number, (ready, head) in starts.items():
                self.start_ns[number] = ready[row], head[row]
            now = _Occupied(taken.load_ns[row], taken.reduce_ns[row], taken.release_ns[row])
            self._branch(depth + 1, stabilizer(group, devices), now)
        self.chosen.pop(family, None)
        for number in members:
            self.start_ns.pop(number, None)

    def _bound(
        self,
        starts: dict[int, tuple[np.ndarray, np.ndarray]],
        taken: _Occupied,
        open_families: list[int],
    ) -> np.ndarray:
        """int64 (configs,): lower bounds of the step time for each configuration of a family."""
        left = sum(
            int(self.bounds.load_ns[family][:, : self.num_devices].sum(axis=1).min())
            for family in open_families
        )
        work = taken.load_ns[:, : self.num_devices].sum(axis=1) + left
        reduced = np.where(taken.reduce_ns > 0, taken.reduce_ns + taken.release_ns, 0)
        bound = np.maximum(taken.load_ns.max(axis=1), reduced.max(axis=1))
        bound = np.maximum(bound, -(-work // self.num_devices))
        for number, (ready, head) in starts.items():
            tail = self._tails(number)
            bound = np.maximum(bound, (head + tail).max(axis=1))
            bound = np.maximum(bound, (ready + tail + self.bounds.sync_ns[number]).max(axis=1))
        return bound

    def _occupy(
        self,
        family: int,
        starts: dict[int, tuple[np.ndarray, np.ndarray]],
        occupied: _Occupied,
    ) -> _Occupied:
        """The same by configuration of `family`: arrays have an axis for it in front."""
        bounds = self.bounds
        load = occupied.load_ns + bounds.load_ns[family]
        for number in starts:
            for edge in self.graph.in_edges[number]:
                row = self.chosen.get(bounds.family_of[edge.producer.operator])
                if row is not None:
                    load = load + bounds.traffic_ns(edge)[row]
            for edge in self.graph.out_edges[number]:
                row = self.chosen.get(bounds.family_of[edge.consumer])
                if row is not None:
                    load = load + bounds.traffic_ns(edge)[:, row]
        # Gradients of a part are there when the chain has been down to the loss and back.
        release = np.minimum.reduce(
            [
                (ready + bounds.tail_ns[number]).min(
                    axis=1, where=self._real(number), initial=1 << 61
                )
                for number, (ready, _) in starts.items()
            ]
        )
        reduce = bounds.reduce_ns[family]
        return _Occupied(
            load,
            occupied.reduce_ns + reduce,
            np.where(
                reduce > 0, np.minimum(release[:, None], occupied.release_ns), occupied.release_ns
            ),
        )

    def _starts(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """int64 (configs, parts) twice: earliest starts, given what has been chosen before."""
        bounds = self.bounds
        ready = np.zeros_like(bounds.ready_ns[number])
        head = np.zeros_like(ready)
        for edge in self.graph.in_edges[number]:
            producer = edge.producer.operator
            row = self.chosen.get(bounds.family_of[producer])
            known = row is not None and producer in self.start_ns
            if not known:
                ready = np.maximum(ready, bounds.least_ready(edge))
            else:
                end = self.start_ns[producer][0] + bounds.forward_ns[producer][row]
                moved = end[None, :, None] + bounds.there_ns[edge.index][row]
                ready = np.maximum(ready, moved.max(axis=1))
            if not bounds.on_chain(edge):
                continue
            if not known:
                head = np.maximum(head, bounds.least_head(edge))
            else:
                end = self.start_ns[producer][1] + bounds.own_ns[producer][row]
                moved = end[None, :, None] + bounds.move_ns[edge.index][row]
                head = np.maximum(head, moved.max(axis=1))
        return ready, head

    def _tails(self, number: int) -> np.ndarray:
        """int64 (configs, parts): tails, given what has been chosen behind."""
        if number not in self.tails:
            bounds = self.bounds
            tail = bounds.tail_ns[number]
            for edge in filter(bounds.on_chain, self.graph.out_edges[number]):
                row = self.chosen.get(bounds.family_of[edge.consumer])
                if row is not None:
                    after = bounds.move_ns[edge.index][:, row] + self._tails(edge.consumer)[row]
                    tail = np.maximum(tail, bounds.own_ns[number] + after.max(axis=2))
            self.tails[number] = tail
        return self.tails[number]

    def _real(self, number: int) -> np.ndarray:
        """Bool (configs, parts): which parts there are."""
        return self.bounds.domains[self.bounds.family_of[number]].devices >= 0

    def _simulate(self, group: tuple[Permutation, ...], occupied: _Occupied) -> None:
        """All strategies with what has been chosen, and inputs that no bound excludes."""
        families = self.problem.space.families
        choices = []
        for family in self.sources:
            starts = {number: self._starts(number) for number in families[family]}
            taken = self._occupy(family, starts, occupied)
            bound = self._bound(starts, taken, [])
            domain = self.bounds.domains[family]
            configs = [domain.configs[row] for row in np.flatnonzero(bound < self._limit_ns())]
            if not choices:
                configs = [c for c in configs if not _is_image(c.devices, group)]
            choices.append((families[family], configs))
        chosen = {
            number: self.bounds.domains[family].configs[row]
            for family, row in self.chosen.items()
            for number in families[family]
        }
        self.sweep.run(chosen, choices)


def _is_image(devices: tuple[int, ...], group: tuple[Permutation, ...]) -> bool:
    """Whether a symmetry exchanges these with devices that are tried instead."""
    return any(tuple(image[d] for d in devices) < devices for image in group)
