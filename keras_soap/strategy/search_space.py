"""The strategies that a search may visit, and the changes that lead from one to another.

1. Operators on the same weights have the same configuration, so they change together.
2. A configuration's degrees split dimensions of the kinds asked for (S, A, P), with no more parts
   than there are devices.
3. With O, parts go to any different devices: mostly to aligned groups (see `placement`), to where
   a neighbouring operator lies, and now and then anywhere, so that every strategy can be reached.
   Without O, n parts lie on the first n devices.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from keras_soap.errors import SearchError
from keras_soap.graph.operator_graph import OperatorGraph
from keras_soap.operators.rule import Dimension
from keras_soap.strategy import placement
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.strategy.strategy import Strategy
from keras_soap.topology.device_topology import DeviceTopology

COPY_SHARE = 0.35
"""Share of changes that take over the devices of a neighbour."""
SPREAD_SHARE = 0.3
"""Share of changes that spread to neighbours."""
SPREAD_MEAN = 4.0
"""How many neighbours those reach on average."""
ANYWHERE_SHARE = 0.05
"""Share of the other changes that go to any devices in any order."""

Change = dict[int, ParallelConfig]


class SearchSpace:
    """All strategies of a graph on a topology, restricted to some of S, O, A and P.

    Attributes:
        families: The operators that change together, ascending; by family.
        family_of: For each operator its family.
        degrees: By family, all degrees that all of its operators allow.
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
        self.degrees = tuple(self._common_degrees(members) for members in self.families)
        self._by_parts = tuple(_group_by_parts(choices) for choices in self.degrees)
        self._parts = tuple(tuple(by_parts) for by_parts in self._by_parts)
        self._neighbours = tuple(self._find_neighbours(members) for members in self.families)
        self._configs: dict[tuple[tuple[int, ...], tuple[int, ...]], ParallelConfig] = {}

    def random_change(self, rng: np.random.Generator, strategy: Strategy) -> Change:
        """New configurations: for one operator, or for a few that hang together, alike.

        Operators on the same weights always change together.
        """
        configs = strategy.configs
        family = self.family_of[int(rng.random() * len(self.family_of))]
        pairs = self._neighbours[family]
        config = None
        if self.places and pairs and rng.random() < COPY_SHARE:
            pairs = [pair for pair in pairs if configs[pair[0]].devices != configs[pair[1]].devices]
            if pairs:
                member, neighbour = pairs[int(rng.random() * len(pairs))]
                config = self.follow(rng, member, neighbour, configs[neighbour])
        if config is None:
            config = self.random_config(rng, family)
        change = dict.fromkeys(self.families[family], config)
        if rng.random() < SPREAD_SHARE:
            self._spread(rng, family, config, change)
        return change

    def _spread(
        self, rng: np.random.Generator, family: int, config: ParallelConfig, change: Change
    ) -> None:
        """Makes neighbours, and theirs, as `family` now is, where they allow its degrees."""
        wanted = int(rng.geometric(1 / SPREAD_MEAN))
        reached = [(family, config)]
        for here, like in reached:
            if len(reached) > wanted:
                return
            pairs = self._neighbours[here]
            first = int(rng.random() * len(pairs))
            for member, neighbour in pairs[first:] + pairs[:first]:
                if neighbour in change:
                    continue
                other = self.family_of[neighbour]
                degrees = self.alike(neighbour, member, like.degrees)
                if degrees in self._by_parts[other].get(like.num_parts, ()):
                    alike = self._config(degrees, like.devices)
                    change.update(dict.fromkeys(self.families[other], alike))
                    reached.append((other, alike))
                    if len(reached) > wanted:
                        return

    def random_config(self, rng: np.random.Generator, family: int) -> ParallelConfig:
        """A configuration for a family: a number of parts, then degrees, then devices."""
        sizes = self._parts[family]
        choices = self._by_parts[family][sizes[int(rng.random() * len(sizes))]]
        degrees = choices[int(rng.random() * len(choices))]
        if not self.places:
            return self._config(degrees, tuple(range(math.prod(degrees))))
        if rng.random() < ANYWHERE_SHARE:
            devices = placement.draw_any(rng, math.prod(degrees), self.num_devices)
        else:
            devices = placement.draw(rng, degrees, self.num_devices)
        return self._config(degrees, devices)

    def follow(
        self, rng: np.random.Generator, member: int, neighbour: int, other: ParallelConfig
    ) -> ParallelConfig:
        """A configuration for operator `member` on the devices of `neighbour`.

        It splits the same dimensions alike if it can, else it has as many parts in some other way,
        else it lies on the first of the devices.
        """
        family = self.family_of[member]
        by_parts = self._by_parts[family]
        alike = self.alike(member, neighbour, other.degrees)
        choices = by_parts.get(other.num_parts, ())
        if alike in choices and rng.random() < 0.75:
            return self._config(alike, other.devices)
        if choices:
            return self._config(choices[int(rng.random() * len(choices))], other.devices)
        sizes = [size for size in self._parts[family] if size < other.num_parts]
        choices = by_parts[sizes[int(rng.random() * len(sizes))]]
        degrees = choices[int(rng.random() * len(choices))]
        return self._config(degrees, other.devices[: math.prod(degrees)])

    def alike(self, member: int, neighbour: int, degrees: Sequence[int]) -> tuple[int, ...]:
        """Degrees for `member` that split the dimensions it shares with `neighbour` as `degrees`.

        Dimensions are the same if they have the same name.
        """
        by_name = {
            dimension.name: degree
            for dimension, degree in zip(self.dimensions[neighbour], degrees, strict=True)
        }
        return tuple(by_name.get(dimension.name, 1) for dimension in self.dimensions[member])

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
        others = [self.families[family][0], *(other for _, other in self._neighbours[family])]
        for devices in dict.fromkeys(strategy.configs[other].devices for other in others):
            for parts in self._parts[family]:
                if parts <= len(devices):
                    for degrees in self._by_parts[family][parts]:
                        yield self._config(degrees, devices[:parts])

    def num_configs(self, family: int) -> int:
        """How many configurations a family has, with every placement."""
        if not self.places:
            return len(self.degrees[family])
        return sum(
            math.perm(self.num_devices, math.prod(degrees)) for degrees in self.degrees[family]
        )

    def contains(self, strategy: Strategy) -> bool:
        """Whether `strategy`, which must be valid, is in the space."""
        for number, config in enumerate(strategy.configs):
            if config.degrees not in self.degrees[self.family_of[number]]:
                return False
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
