"""Branch and bound over the whole space: proves which strategy is the fastest.

1. A first, short MCMC gives a strategy to beat.
2. Configurations that no faster strategy can have, by `path_bounds`, are removed.
3. Families get their configurations one after the other, along the graph, inputs last. A branch is
   left when its bound reaches the best step time; the most promising goes first.
4. Devices that the choices so far do not tell apart are tried once (`symmetry`).
5. Complete strategies are simulated.

For small problems: the number of configurations grows as the factorial of the number of devices.
"""

import numpy as np

from keras_soap.errors import SearchError
from keras_soap.search import mcmc
from keras_soap.search.path_bounds import NEVER, Domain, PathBounds
from keras_soap.search.problem import NO_OPTIONS, Budget, Problem, RunOptions
from keras_soap.search.result import SearchResult, StopReason
from keras_soap.search.symmetry import Permutation, stabilizer, symmetries
from keras_soap.search.tracker import Tracker
from keras_soap.strategy.strategy import Strategy
from keras_soap.tasks.build import REPORT_DEVICE

WARM_UP_SHARE = 0.2
MOST_PAIRS = 2_000_000
"""Pairs of configurations on an edge: beyond this the tables do not fit into memory."""


def search(
    problem: Problem, budget: Budget, seed: int, options: RunOptions = NO_OPTIONS
) -> SearchResult:
    """Finds the fastest strategy, and proves that if the budget is enough (`proved`).

    Raises:
        SearchError: If the problem is too large to try.
    """
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
    proved = False
    try:
        if stopped_by is None:
            _warm_up(problem, budget, seed, tracker)
            _Search(problem, tracker).run()
            stopped_by, proved = StopReason.COMPLETE, True
    except _BudgetSpent:
        stopped_by = tracker.spent()
    except KeyboardInterrupt:
        stopped_by = StopReason.INTERRUPTED
    assert stopped_by is not None
    return tracker.result(
        problem, "exhaustive", seed, stopped_by, proved=proved, locally_optimal=proved
    )


def _warm_up(problem: Problem, budget: Budget, seed: int, tracker: Tracker) -> None:
    share = Budget(
        None if budget.seconds is None else budget.seconds * WARM_UP_SHARE,
        None if budget.proposals is None else int(budget.proposals * WARM_UP_SHARE),
    )
    found = mcmc.search(problem, share, seed)
    tracker.proposals += found.proposals
    tracker.offer(found.evaluation)


class _BudgetSpent(Exception):
    pass


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
        self.chosen: dict[int, int] = {}
        # By operator that has a configuration: when its parts can start at the earliest.
        self.start_ns: dict[int, np.ndarray] = {}
        sources = [all(not self.graph.in_edges[n] for n in m) for m in space.families]
        self.order = sorted(range(len(space.families)), key=lambda family: sources[family])

    def run(self) -> None:
        """Returns when nothing faster than `tracker.best` is left."""
        if self.tracker.best.feasible:
            self.bounds.tighten(self.tracker.best.step_time_ns)
        if not all(domain.configs for domain in self.bounds.domains):
            return
        reports = any(operator.attributes.get("report_bytes") for operator in self.graph.operators)
        group = symmetries(self.problem.topology, (REPORT_DEVICE,) if reports else ())
        if not self.problem.space.places:
            group = group[:1]
        load = np.zeros(self.problem.topology.num_devices, np.int64)
        self._branch(0, group, load)

    def _limit_ns(self) -> int:
        best = self.tracker.best
        return best.step_time_ns if best.feasible else 1 << 62

    def _branch(self, depth: int, group: tuple[Permutation, ...], load: np.ndarray) -> None:
        if self.tracker.spent():
            raise _BudgetSpent
        if depth == len(self.order):
            self._evaluate()
            return
        family = self.order[depth]
        bound, starts = self._bound(family, load, self.order[depth + 1 :])
        domain = self.bounds.domains[family]
        for row in np.argsort(bound, kind="stable").tolist():
            if bound[row] >= self._limit_ns():
                return
            devices = domain.configs[row].devices
            if any(tuple(image[d] for d in devices) < devices for image in group):
                continue
            self.chosen[family] = row
            for number, start in starts.items():
                self.start_ns[number] = start[row]
            self._branch(
                depth + 1, stabilizer(group, devices), load + self.bounds.load_ns[family][row]
            )
        self.chosen.pop(family, None)
        for number in starts:
            self.start_ns.pop(number, None)

    def _bound(
        self, family: int, load: np.ndarray, open_families: list[int]
    ) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        """For each configuration of a family a bound, and when the parts of members start."""
        bounds = self.bounds
        left = sum(int(bounds.load_ns[other].sum(axis=1).min()) for other in open_families)
        loads = load + bounds.load_ns[family]
        bound = np.maximum(
            loads.max(axis=1, initial=0),
            -(-(loads.sum(axis=1) + left) // self.problem.topology.num_devices),
        )
        starts: dict[int, np.ndarray] = {}
        for number in self.problem.space.families[family]:
            start = self._starts(number)
            tail = bounds.tail_ns[number]
            for edge in bounds.out_edges(number):
                row = self.chosen.get(bounds.family_of[edge.consumer])
                if row is not None:
                    after = bounds.move_ns[edge.index][:, row] + self._tail(edge.consumer, row)
                    tail = np.maximum(tail, bounds.own_ns[number] + after.max(axis=2))
            bound = np.maximum(bound, (start + tail).max(axis=1, initial=NEVER))
            starts[number] = start
        return bound, starts

    def _starts(self, number: int) -> np.ndarray:
        """int64 (configs, parts): earliest starts, given what has been chosen before."""
        bounds = self.bounds
        start = np.zeros_like(bounds.head_ns[number])
        for edge in bounds.in_edges(number):
            producer = edge.producer.operator
            row = self.chosen.get(bounds.family_of[producer])
            if row is None or producer not in self.start_ns:
                arrival = bounds.least_head(edge)
            else:
                end = self.start_ns[producer] + bounds.own_ns[producer][row]
                arrival = (end[None, :, None] + bounds.move_ns[edge.index][row]).max(axis=1)
            start = np.maximum(start, arrival)
        return start

    def _tail(self, number: int, row: int) -> np.ndarray:
        """int64 (parts,): tail of an operator that has configuration `row`, as far as is chosen."""
        bounds = self.bounds
        tail = bounds.tail_ns[number][row]
        for edge in bounds.out_edges(number):
            after = self.chosen.get(bounds.family_of[edge.consumer])
            if after is not None:
                moved = bounds.move_ns[edge.index][row, after] + self._tail(edge.consumer, after)
                tail = np.maximum(tail, bounds.own_ns[number][row] + moved.max(axis=1))
        return tail

    def _evaluate(self) -> None:
        configs = tuple(
            self.bounds.domains[family].configs[self.chosen[family]]
            for family in self.problem.space.family_of
        )
        self.tracker.proposals += 1
        self.tracker.offer(self.problem.objective.evaluate(Strategy(configs)))
