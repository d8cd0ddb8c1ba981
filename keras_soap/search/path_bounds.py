"""Lower bounds of the step time, for branch and bound.

A step takes at least as long as any chain of tasks that wait for each other. For part p of operator
v under configuration a, along one chain of operators forward and the same chain back:

    tail_v(a, p) = own_v(a, p) + max over edges v → w of
                   min over b of max over parts c that read p of move(a, p, b, c) + tail_w(b, c)
    head_v(a, p) = max over edges u → v of
                   min over b of max over parts c that p reads of head_u(b, c) + own_u(b, c) + move

so head_v(a, p) + tail_v(a, p) bounds every strategy in which v has configuration a. With heads of
the forward pass alone, ready_v + tail_v is when the gradients of v are there, and their reduction
and the update follow. Nothing of contention is in it, so it holds however tasks queue.

Likewise no device or link can do its work faster than one task after the other; and reductions on a
link not before the first of them is ready.
"""

import copy
import itertools

import numpy as np

from keras_soap.graph.operator_graph import Edge
from keras_soap.search.domain import NEVER, Domain, moves_ns
from keras_soap.search.problem import Problem
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.tasks import all_reduce

BY_FAMILY = ("load_ns", "reduce_ns")
BY_OPERATOR = (
    "forward_ns",
    "own_ns",
    "backward_ns",
    "busy_ns",
    "gradient_ns",
    "reduce_path_ns",
    "update_ns",
    "reduces",
    "sync_ns",
)
BY_EDGE = ("there_ns", "move_ns")
"""Attributes with an entry for each configuration."""


class PathBounds:
    """Bounds for all configurations of all families, tightened against a known step time.

    Attributes:
        domains: By family. `tighten` removes what cannot be part of anything faster.
        forward_ns, own_ns: By operator, int64 (configs, parts): time of each part forward, and both
            ways; where the backward pass ends, the latter with `sync_ns`.
        backward_ns, busy_ns: By operator, int64 (configs, parts): time of each part backward, and
            for how much of it the part's device is occupied.
        gradient_ns, reduce_path_ns, update_ns: By operator, int64 (configs, parts): gradients of
            weights, their reductions, update of weights; none where the backward pass is not.
        reduces: By operator, bool (configs, parts): whether the update waits for a reduction.
        sync_ns: By operator, int64 (configs, parts): gradients, reductions and update together.
        load_ns: By family, int64 (configs, resources): what it occupies of devices and links.
        reduce_ns: By family, the same of reductions alone.
        there_ns, move_ns: By edge, int64 (producer configs, consumer configs, producer parts,
            consumer parts): time of the transfer forward, and both ways; `NEVER` where nothing
            is read.
        ready_ns, head_ns, tail_ns: By operator, int64 (configs, parts).
    """

    def __init__(self, problem: Problem, domains: list[Domain]):
        self.problem = problem
        self.graph = problem.graph
        self.topology = problem.topology
        self.family_of = problem.space.family_of
        self.domains = domains
        self.num_resources = self.topology.num_devices + len(self.topology.links)
        self.forward_ns: list[np.ndarray] = []
        self.own_ns: list[np.ndarray] = []
        self.backward_ns: list[np.ndarray] = []
        self.busy_ns: list[np.ndarray] = []
        self.gradient_ns: list[np.ndarray] = []
        self.reduce_path_ns: list[np.ndarray] = []
        self.update_ns: list[np.ndarray] = []
        self.reduces: list[np.ndarray] = []
        self.sync_ns: list[np.ndarray] = []
        shapes = [(len(domain.configs), self.num_resources) for domain in domains]
        self.load_ns = [np.zeros(shape, np.int64) for shape in shapes]
        self.reduce_ns = [np.zeros(shape, np.int64) for shape in shapes]
        for number in range(len(self.graph.operators)):
            self._measure(number)
        self.there_ns, self.move_ns = [], []
        for edge in self.graph.edges:
            ends = edge.producer.operator, edge.consumer
            there, back = moves_ns(problem, edge, *(domains[self.family_of[n]] for n in ends))
            self.there_ns.append(there)
            self.move_ns.append(there + back if self.returns(edge) else there)
        self._traffic: dict[int, np.ndarray] = {}
        self._propagate()

    def tighten(self, limit_ns: int) -> None:
        """Removes configurations that no strategy faster than `limit_ns` has, as far as bounds say.

        A domain may end empty: then there is no such strategy.
        """
        while True:
            keep = [np.ones(len(domain.configs), bool) for domain in self.domains]
            for number, family in enumerate(self.family_of):
                bound = self.bound_ns(number, self.ready_ns[number], self.head_ns[number])
                keep[family] &= bound < limit_ns
            num_devices = self.topology.num_devices
            least = [load[:, :num_devices].sum(axis=1).min() for load in self.load_ns]
            for family, load in enumerate(self.load_ns):
                total = sum(least) - least[family] + load[:, :num_devices].sum(axis=1)
                keep[family] &= (load.max(axis=1, initial=0) < limit_ns) & (
                    total < limit_ns * num_devices
                )
            if all(kept.all() for kept in keep):
                return
            self._traffic.clear()
            self._restrict(keep)
            if not all(kept.any() for kept in keep):
                return
            self._propagate()

    def only(self, family: int, degrees: tuple[int, ...]) -> "PathBounds":
        """The bounds of strategies in which a family has these degrees."""
        narrowed = copy.copy(self)
        for name in ("domains", *BY_FAMILY, *BY_OPERATOR, *BY_EDGE):
            setattr(narrowed, name, list(getattr(self, name)))
        narrowed._traffic = {}
        keep = [np.ones(len(domain.configs), bool) for domain in self.domains]
        keep[family] = np.array([c.degrees == degrees for c in self.domains[family].configs])
        narrowed._restrict(keep)
        narrowed._propagate()
        return narrowed

    def least_ns(self) -> int:
        """What every strategy takes at least."""
        work = sum(
            int(load[:, : self.topology.num_devices].sum(axis=1).min()) for load in self.load_ns
        )
        return max(
            -(-work // self.topology.num_devices),
            *(int(load.max(axis=1).min()) for load in self.load_ns),
            *(
                int(self.bound_ns(n, self.ready_ns[n], self.head_ns[n]).min())
                for n in range(len(self.graph.operators))
            ),
        )

    def _restrict(self, keep: list[np.ndarray]) -> None:
        for family, kept in enumerate(keep):
            domain = self.domains[family]
            self.domains[family] = Domain(
                list(itertools.compress(domain.configs, kept)), domain.devices[kept]
            )
            for name in BY_FAMILY:
                getattr(self, name)[family] = getattr(self, name)[family][kept]
        for number, family in enumerate(self.family_of):
            for name in BY_OPERATOR:
                getattr(self, name)[number] = getattr(self, name)[number][keep[family]]
        for edge in self.graph.edges:
            producer = keep[self.family_of[edge.producer.operator]]
            consumer = keep[self.family_of[edge.consumer]]
            for name in BY_EDGE:
                times = getattr(self, name)[edge.index]
                getattr(self, name)[edge.index] = times[producer][:, consumer]

    def bound_ns(self, number: int, ready: np.ndarray, head: np.ndarray) -> np.ndarray:
        """int64 (configs,): bound by operator `number`, if its parts have these heads."""
        tail = self.tail_ns[number]
        return np.maximum(head + tail, ready + tail + self.sync_ns[number]).max(axis=1)

    def _propagate(self) -> None:
        operators = range(len(self.graph.operators))
        self.ready_ns = [np.zeros_like(own) for own in self.own_ns]
        self.head_ns = [np.zeros_like(own) for own in self.own_ns]
        self.tail_ns = [own.copy() for own in self.own_ns]
        for number in operators:
            for edge in self.graph.in_edges[number]:
                self.ready_ns[number] = np.maximum(self.ready_ns[number], self.least_ready(edge))
                if self.on_chain(edge):
                    self.head_ns[number] = np.maximum(self.head_ns[number], self.least_head(edge))
        for number in reversed(operators):
            for edge in filter(self.on_chain, self.graph.out_edges[number]):
                tail = self.tail_ns[edge.consumer][None, :, None, :]
                longest = (self.move_ns[edge.index] + tail).max(axis=3).min(axis=1)
                self.tail_ns[number] = np.maximum(
                    self.tail_ns[number], self.own_ns[number] + longest
                )

    def traffic_ns(self, edge: Edge) -> np.ndarray:
        """int64 (producer configs, consumer configs, resources): what its transfers occupy."""
        if edge.index not in self._traffic:
            self._traffic[edge.index] = self._find_traffic(edge)
        return self._traffic[edge.index]

    def _find_traffic(self, edge: Edge) -> np.ndarray:
        producer = self.domains[self.family_of[edge.producer.operator]].devices
        consumer = self.domains[self.family_of[edge.consumer]].devices
        there = self.there_ns[edge.index]
        traffic = np.zeros((len(producer), len(consumer), self.num_resources), np.int64)
        for p in range(self.topology.num_devices):
            for c in range(self.topology.num_devices):
                for a in range(self.topology.num_devices):
                    for b in range(self.topology.num_devices):
                        if a == b:
                            continue
                        moves = (producer[:, p] == a)[:, None] & (consumer[:, c] == b)[None, :]
                        moves &= there[:, :, p, c] > NEVER
                        if not moves.any():
                            continue
                        ways = [(a, b, there[:, :, p, c])]
                        if self.returns(edge):
                            back = self.move_ns[edge.index][:, :, p, c] - there[:, :, p, c]
                            ways.append((b, a, back))
                        for source, target, time in ways:
                            for link in self.topology.route(source, target).links:
                                traffic[..., self.topology.num_devices + link] += moves * time
        return traffic

    def least_ready(self, edge: Edge) -> np.ndarray:
        """int64 (consumer configs, parts): earliest start, whatever the producer's configs."""
        producer = edge.producer.operator
        end = self.ready_ns[producer] + self.forward_ns[producer]
        return (end[:, None, :, None] + self.there_ns[edge.index]).max(axis=2).min(axis=0)

    def least_head(self, edge: Edge) -> np.ndarray:
        """The same both ways."""
        producer = edge.producer.operator
        end = self.head_ns[producer] + self.own_ns[producer]
        return (end[:, None, :, None] + self.move_ns[edge.index]).max(axis=2).min(axis=0)

    def on_chain(self, edge: Edge) -> bool:
        """Whether the producer's backward tasks, if it has any, wait for those of the consumer."""
        return not self._trains(edge.producer.operator) or self.returns(edge)

    def returns(self, edge: Edge) -> bool:
        """Whether a gradient goes back along the edge."""
        return self.problem.training and self.graph.sends_back[edge.index]

    def _trains(self, number: int) -> bool:
        return self.problem.training and self.graph.has_backward[number]

    def _measure(self, number: int) -> None:
        """Fills in times of an operator."""
        leads = number == self.graph.sharers[number][0]
        family = self.family_of[number]
        domain = self.domains[family]
        shape = domain.devices.shape
        forward, busy, combined = (np.zeros(shape, np.int64) for _ in range(3))
        gradient, reduced, update = (np.zeros(shape, np.int64) for _ in range(3))
        reduces = np.zeros(shape, bool)
        for row, config in enumerate(domain.configs):
            parts = row, slice(config.num_parts)
            forward[parts], back, weights = self._part_times(number, config)
            if self._trains(number):
                busy[parts] = back
                if self.graph.has_weight_gradients[number]:
                    gradient[parts] = weights
            if self._trains(number) and leads:
                update[parts] = update_times_ns(self.problem, number, config)
                reduced[parts] = self._reduce_weights(number, row)
                for each in self.problem.lowering.operator(number, config.degrees).reductions:
                    reduces[row, list(each.members)] = True
            works = forward[parts] + busy[parts] + gradient[parts] + update[parts]
            np.add.at(self.load_ns[family][row], list(config.devices), works)
            for time, both in zip((forward, combined), (False, True), strict=True):
                for members, cost in self._combines(number, config, both):
                    time[row, members] += cost.time_ns
                    self.load_ns[family][row, self._links(cost)] += cost.time_ns
        if leads:
            self.load_ns[family] += self.reduce_ns[family]
        sync = (gradient + reduced + update) * leads
        ends = self._trains(number) and not any(map(self.returns, self.graph.in_edges[number]))
        self.forward_ns.append(forward)
        self.backward_ns.append(busy + combined)
        self.busy_ns.append(busy)
        self.gradient_ns.append(gradient)
        self.reduce_path_ns.append(reduced)
        self.update_ns.append(update)
        self.reduces.append(reduces)
        self.own_ns.append(forward + busy + combined + ends * sync)
        self.sync_ns.append((not ends) * sync)

    def _reduce_weights(self, number: int, row: int) -> np.ndarray:
        """int64 (parts,): from when a part's gradients are there, what its reductions take.

        Those among the same devices take turns.
        """
        family = self.family_of[number]
        config = self.domains[family].configs[row]
        among: dict[tuple[int, ...], int] = {}
        for members, cost in self._reductions(number, config):
            among[tuple(members)] = among.get(tuple(members), 0) + cost.time_ns
            self.reduce_ns[family][row, self._links(cost)] += cost.time_ns
        longest = np.zeros(config.num_parts, np.int64)
        for members, time_ns in among.items():
            longest[list(members)] = np.maximum(longest[list(members)], time_ns)
        return longest

    def _links(self, cost: all_reduce.Plan) -> list[int]:
        """Numbers of its links among the resources."""
        return [self.topology.num_devices + link for link in cost.links]

    def _part_times(self, number: int, config: ParallelConfig) -> np.ndarray:
        """int64 (3, parts): as in `PartTimes`."""
        times = [
            np.stack(self.problem.costs.part_times_ns(number, config.degrees, device))[:, part]
            for part, device in enumerate(config.devices)
        ]
        return np.stack(times, axis=1)

    def _combines(self, number: int, config: ParallelConfig, backward: bool):
        """Groups of parts that reduce something on the way, and what that costs."""
        if backward and not self._trains(number):
            return
        operator = self.problem.lowering.operator(number, config.degrees)
        for block in operator.combines_in(self.problem.training):
            if not backward or block.combine.reduction == "sum":
                yield from self._reduce(
                    config, block.group, block.combine.elements, block.element_bytes
                )

    def _reductions(self, number: int, config: ParallelConfig):
        """Groups of parts that reduce gradients, and what that costs; sparse ones are left out."""
        for each in self.problem.lowering.operator(number, config.degrees).reductions:
            if not each.gathers:
                devices = sorted(config.devices[part] for part in each.members)
                yield (
                    list(each.members),
                    all_reduce.plan(self.topology, devices, each.num_elements, each.element_bytes),
                )

    def _reduce(self, config: ParallelConfig, group, elements, element_bytes: int):
        for number in range(int(group.max()) + 1):
            members = np.flatnonzero(group == number).tolist()
            if len(members) > 1:
                devices = sorted(config.devices[part] for part in members)
                count = int(elements[members[0]])
                yield members, all_reduce.plan(self.topology, devices, count, element_bytes)


def update_times_ns(problem: Problem, number: int, config: ParallelConfig) -> np.ndarray:
    """int64 (parts,): times of the updates of an operator's weights."""
    block = problem.lowering.operator(number, config.degrees)
    num_bytes = np.zeros(config.num_parts, np.int64)
    specs = problem.graph.operators[number].weight_specs
    for spec, weight in zip(specs, block.weights, strict=True):
        if spec.trainable:
            num_bytes += weight.num_elements * weight.element_bytes
    return np.array(
        [
            problem.profile.update_time_ns(size, problem.topology.devices[device]) if size else 0
            for size, device in zip(num_bytes.tolist(), config.devices, strict=True)
        ],
        np.int64,
    )
