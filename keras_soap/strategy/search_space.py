"""The strategies that a search may visit, and the changes that lead from one to another.

1. Operators on the same weights have the same configuration, so they change together.
2. A configuration's degrees split dimensions of the kinds asked for (S, A, P), with no more parts
   than there are devices.
3. Inputs of the model have no configurations: they are placed where they are read.
4. With O, parts go to any different devices: mostly to aligned groups (see `placement`), to where
   a neighbouring operator lies, and now and then anywhere, so that every strategy can be reached.
   Without O, n parts lie on the first n devices.
"""

import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from keras_soap.errors import SearchError
from keras_soap.graph.operator_graph import INPUT, Operator, OperatorGraph
from keras_soap.graph.region import whole
from keras_soap.operators import registry
from keras_soap.operators.rule import Dimension
from keras_soap.strategy import moves, placement, proposals
from keras_soap.strategy.moves import USUAL, Shares
from keras_soap.strategy.parallel_config import FED, ParallelConfig
from keras_soap.strategy.strategy import Strategy
from keras_soap.strategy.twins import twins
from keras_soap.topology.device_topology import DeviceTopology

Change = dict[int, ParallelConfig]


class SearchSpace:
    """All strategies of a graph on a topology, restricted to some of S, O, A and P.

    Attributes:
        families: The operators that change together, ascending; by family.
        family_of: For each operator its family.
        is_input: By family, whether it is an input of the model.
        degrees: By family, all degrees that all of its operators allow.
        by_parts: The same by number of parts, ascending.
        neighbours: By family, its operators with each operator of others that is beside them.
        twins: By family, a number that is the same for families that are alike; see `twins`.
        on_nodes: Whole nodes that layers may be on; none without O.
    """

    def __init__(
        self,
        graph: OperatorGraph,
        dimensions: Sequence[Sequence[Dimension]],
        topology: DeviceTopology,
        dims: str = "SOAP",
    ):
        """Finds what each operator allows.

        Args:
            graph: The operators.
            dimensions: For each operator its dimensions, as in `Lowering.dimensions`.
            topology: Where the devices are.
            dims: Letters of the kinds of parallelism to use, of `"SOAP"`.
        """
        if not dims or set(dims.upper()) - set("SOAP"):
            raise SearchError(
                f"dims={dims!r} must be letters of 'SOAP': S to split samples, A attributes, "
                "P parameters, O to place operators on different devices."
            )
        self.graph = graph
        self.dimensions = tuple(tuple(of_operator) for of_operator in dimensions)
        self.num_devices = topology.num_devices
        self.dims = "".join(letter for letter in "SOAP" if letter in dims.upper())
        self.places = "O" in self.dims
        self.families = families(graph)
        self.family_of = tuple(
            family
            for _, family in sorted(
                (number, family)
                for family, members in enumerate(self.families)
                for number in members
            )
        )
        self.is_input = tuple(graph.operators[m[0]].kind == INPUT for m in self.families)
        self.degrees = tuple(self._common_degrees(members) for members in self.families)
        self.by_parts = tuple(_group_by_parts(choices) for choices in self.degrees)
        self.neighbours = tuple(self._find_neighbours(members) for members in self.families)
        self.twins = twins(graph, self.families, self.by_parts)
        self.on_nodes = placement.on_nodes(topology) if self.places else ()
        self._configs: dict[tuple[tuple[int, ...], tuple[int, ...]], ParallelConfig] = {}

    @functools.cached_property
    def moves(self) -> moves.Moves:
        """The space as compiled chains see it."""
        return moves.make_moves(self)

    @functools.cached_property
    def choices(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """By number of a choice, as in `moves`: its family and its degrees."""
        return tuple(
            (family, degrees)
            for family, by_parts in enumerate(self.by_parts)
            for of_size in by_parts.values()
            for degrees in of_size
        )

    @functools.cached_property
    def heaviest(self) -> int:
        """The family with weights, if any has, that computes the most."""
        weighted = [f for f, m in enumerate(self.families) if self.graph.operators[m[0]].weights]
        placed = [family for family, fed in enumerate(self.is_input) if not fed]
        return max(weighted or placed, key=self._work)

    def _work(self, family: int) -> float:
        return sum(forward_flops(self.graph.operators[number]) for number in self.families[family])

    def all_on_nodes(self, where: int) -> Strategy:
        """The strategy with everything on `on_nodes[where]`."""
        change: Change = {}
        for family in range(len(self.families)):
            if not set(self.families[family]) <= set(change):
                proposals.propose_on_nodes(self.moves, family, where)
                change = self._proposed() | change
        return Strategy(tuple(change.get(n, FED) for n in range(len(self.graph.operators))))

    def layer_on_nodes(self, strategy: Strategy, family: int, where: int) -> Strategy:
        """`strategy`, with a family and what lies around it on `on_nodes[where]`."""
        proposals.propose_on_nodes(self.moves, family, where)
        return strategy.replace(self._proposed())

    def choice(self, family: int, degrees: tuple[int, ...]) -> int:
        """Number of the choice of these degrees."""
        return self._choice_of[family, degrees]

    @functools.cached_property
    def _choice_of(self) -> dict[tuple[int, tuple[int, ...]], int]:
        return {choice: number for number, choice in enumerate(self.choices)}

    def random_change(
        self,
        rng: np.random.Generator,
        strategy: Strategy,
        shares: Shares = USUAL,
    ) -> Change:
        """New configurations: for one operator, or for a few that hang together, alike.

        Operators on the same weights always change together. See the rules of `proposals`.
        """
        moves.stand_at(self.moves, self, strategy)
        moves.refill(self.moves, rng)
        self.moves.shares[:] = shares
        proposals.propose_one(self.moves)
        return self._proposed()

    def random_config(self, rng: np.random.Generator, family: int) -> ParallelConfig:
        """A configuration for a family: a number of parts, then degrees, then devices."""
        if self.is_input[family]:
            return FED
        moves.refill(self.moves, rng)
        proposals.propose_config(self.moves, family)
        return self._proposed()[self.families[family][0]]

    def _proposed(self) -> Change:
        of = self.moves
        change: Change = {}
        for family in of.changed[: of.scalar[moves.NUM_CHANGED]].tolist():
            config = self.config_of(int(of.new_choice[family]), of.new_devices[family])
            change.update(dict.fromkeys(self.families[family], config))
        return change

    def config_of(self, choice: int, devices: np.ndarray) -> ParallelConfig:
        """The configuration of a choice of `moves`, on the first of `devices` that it needs."""
        _, degrees = self.choices[choice]
        return self._config(degrees, tuple(devices[: math.prod(degrees)].tolist()))

    def strategy_of(self, choices: np.ndarray, devices: np.ndarray) -> Strategy:
        """The strategy of a choice and devices for each family."""
        configs = [self.config_of(*pair) for pair in zip(choices.tolist(), devices, strict=True)]
        return Strategy(tuple(configs[family] for family in self.family_of))

    def whole(self) -> Strategy:
        """The strategy with every operator whole on the first device."""
        return Strategy(
            tuple(self._config((1,) * len(of_operator), (0,)) for of_operator in self.dimensions)
        )

    def random_strategy(self, rng: np.random.Generator) -> Strategy:
        """A strategy with a random configuration for each family."""
        change: Change = {}
        for family, members in enumerate(self.families):
            change.update(dict.fromkeys(members, self.random_config(rng, family)))
        return Strategy(tuple(change[number] for number in range(len(self.graph.operators))))

    def configs(self, family: int, anywhere: bool = False) -> Iterator[ParallelConfig]:
        """All configurations of a family, each once.

        Args:
            family: Its number.
            anywhere: Whether with every placement, rather than the structured ones only.
        """
        if self.is_input[family]:
            yield FED
            return
        for degrees in self.degrees[family]:
            size = math.prod(degrees)
            if not self.places:
                yield self._config(degrees, tuple(range(size)))
                continue
            for devices in (
                placement.every(size, self.num_devices)
                if anywhere
                else placement.structured(degrees, self.num_devices)
            ):
                yield ParallelConfig(degrees, devices)

    def followers(self, family: int, strategy: Strategy) -> Iterator[ParallelConfig]:
        """Configurations of a family on the devices that it or a neighbour has in `strategy`."""
        if self.is_input[family]:
            return
        others = [self.families[family][0], *(other for _, other in self.neighbours[family])]
        for devices in dict.fromkeys(strategy.configs[other].devices for other in others):
            for parts in self.by_parts[family]:
                if parts <= len(devices):
                    for degrees in self.by_parts[family][parts]:
                        yield self._config(degrees, devices[:parts])

    def num_configs(self, family: int) -> int:
        """How many configurations a family has, with every placement."""
        if self.is_input[family] or not self.places:
            return len(self.degrees[family])
        return sum(
            math.perm(self.num_devices, math.prod(degrees)) for degrees in self.degrees[family]
        )

    def contains(self, strategy: Strategy) -> bool:
        """Whether `strategy`, which must be valid, is in the space."""
        for number, config in enumerate(strategy.configs):
            if config.degrees not in self.degrees[self.family_of[number]]:
                return False
            if self.is_input[self.family_of[number]]:
                continue
            if not self.places and config.devices != tuple(range(config.num_parts)):
                return False
        return True

    def _config(self, degrees: tuple[int, ...], devices: tuple[int, ...]) -> ParallelConfig:
        """Equal configurations are one object: making one costs more than looking it up."""
        key = (degrees, devices)
        config = self._configs.get(key)
        if config is None:
            if len(self._configs) > 100_000:
                self._configs.clear()
            config = self._configs[key] = ParallelConfig(degrees, devices)
        return config

    def _common_degrees(self, members: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        common: tuple[tuple[int, ...], ...] | None = None
        for number in members:
            allowed = all_degrees(self.dimensions[number], self.num_devices, self.dims)
            if common is None:
                common = allowed
            else:
                kept = set(allowed)
                common = tuple(degrees for degrees in common if degrees in kept)
        assert common is not None
        if not common:
            names = ", ".join(self.graph.operators[number].name for number in members)
            raise SearchError(
                f"{names} share weights, but no degrees fit them all. Give them weights of their "
                "own, or output shapes of the same rank."
            )
        return common

    def _find_neighbours(self, members: Sequence[int]) -> tuple[tuple[int, int], ...]:
        pairs = []
        for number in members:
            ends = [edge.producer.operator for edge in self.graph.in_edges[number]]
            ends += [edge.consumer for edge in self.graph.out_edges[number]]
            pairs += [(number, end) for end in ends if end not in members]
        return tuple(dict.fromkeys(pairs))


def forward_flops(operator: Operator) -> float:
    """Operations of all of an operator's forward pass."""
    rule = registry.find(operator.kind)
    return float(rule.flops(operator, whole(1, operator.output.shape))[0])


def families(graph: OperatorGraph) -> tuple[tuple[int, ...], ...]:
    """Operators that share weights, directly or through others, in order of the first."""
    leader = list(range(len(graph.operators)))
    for number, sharers in enumerate(graph.sharers):
        for other in sharers:
            low, high = sorted((leader[number], leader[other]))
            leader = [low if lead == high else lead for lead in leader] if low != high else leader
    members: dict[int, list[int]] = {}
    for number, lead in enumerate(leader):
        members.setdefault(lead, []).append(number)
    return tuple(tuple(numbers) for numbers in members.values())


def all_degrees(
    dimensions: Sequence[Dimension], most: int, dims: str = "SAP"
) -> tuple[tuple[int, ...], ...]:
    """All degrees of `dimensions` of the kinds `dims` that make no more than `most` parts."""
    found: list[tuple[tuple[int, ...], int]] = [((), 1)]
    for dimension in dimensions:
        splits = dimension.kind.letter in dims
        found = [
            ((*degrees, degree), parts * degree)
            for degrees, parts in found
            for degree in (dimension.degrees(most // parts) if splits else (1,))
        ]
    return tuple(degrees for degrees, _ in found)


def _group_by_parts(
    choices: Sequence[tuple[int, ...]],
) -> dict[int, tuple[tuple[int, ...], ...]]:
    groups: dict[int, list[tuple[int, ...]]] = {}
    for degrees in choices:
        groups.setdefault(math.prod(degrees), []).append(degrees)
    return {parts: tuple(groups[parts]) for parts in sorted(groups)}
