"""Where a Markov chain stands in a search space, over flat arrays, so that it can be compiled.

`proposals` says where it may go. All chance comes from `Moves.uniforms`, in order.
"""

import dataclasses
import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from keras_soap.jit import njit
from keras_soap.operators.rule import DimensionKind
from keras_soap.strategy import placement
from keras_soap.strategy.strategy import Strategy

if TYPE_CHECKING:
    from keras_soap.strategy.search_space import SearchSpace

# Moves.scalar
USED, NUM_CHANGED, NUM_SCALARS = range(3)

# Moves.shares
LAYERS, COPY, SPREAD, NODES, CROSSOVER = range(5)


class Shares(NamedTuple):
    """How often a chain makes which changes; see the rules of `proposals`.

    Attributes:
        layers: Of the changes that are not to whole nodes, those of layers.
        copy: Of the others, those that take over the devices of a neighbour.
        spread: Of the others, those that spread to neighbours.
        nodes: Of all changes, those of layers to whole nodes.
        crossover: Of the rest of all, those that take over what `Moves.partner_choice` has.
    """

    layers: float = 0.02
    copy: float = 0.5
    spread: float = 0.6
    nodes: float = 0.0
    crossover: float = 0.0


USUAL = Shares()
ONE_OPERATOR = Shares(layers=0.0, copy=0.0, spread=0.0)
"""One operator, or those on the same weights, to any configuration: what the paper proposes."""


class Moves(NamedTuple):
    """A search space, where a chain stands in it, and a proposal. int64 unless it says otherwise.

    `choice` numbers the degrees that a family may have, by number of parts. Ranges of a list begin
    where `*_start` says and end where the next begins.
    """

    num_devices: int
    places: bool
    family_of: np.ndarray  # (operators,)
    placed: np.ndarray  # families of operators that are no inputs
    is_input: np.ndarray  # int8 (families,)
    member_start: np.ndarray  # (families + 1,)
    members: np.ndarray  # operators
    weighted: np.ndarray  # int8 (families,), 1 if it has weights
    layers: np.ndarray  # families that have; all if none has
    neighbour_start: np.ndarray  # (families + 1,)
    neighbours: np.ndarray  # (pairs, 2): an operator of the family, and one beside it
    twins_of: np.ndarray  # (families,): number of the group of families that are alike
    twin_start: np.ndarray  # (groups + 1,)
    twins: np.ndarray  # families, by group
    size_start: np.ndarray  # (families + 1,)
    sizes: np.ndarray  # (sizes, 3): parts, first choice, end of choices
    choices: np.ndarray  # (choices, dimensions): degrees; 1 beyond those of the operator
    names: np.ndarray  # (operators, dimensions): number of a dimension's name; -1 beyond
    across: np.ndarray  # int8 (families, dimensions), 1 if nodes split it: see `_splits_across`
    on_nodes: np.ndarray  # (places, 3): `placement.OnNodes`
    node_choice: np.ndarray  # (families, places): how it is split there; -1 for inputs
    heaviest: int  # `SearchSpace.heaviest`
    stride_start: np.ndarray  # (devices + 2,) by number of parts
    strides: np.ndarray
    shares: np.ndarray  # float64 (kinds of changes,): `Shares` of what is drawn next
    uniforms: np.ndarray  # float64: random numbers, 0 <= u < 1
    scalar: np.ndarray  # how many of them are used; how many families the proposal changes
    choice: np.ndarray  # (families,) where the chain stands
    devices: np.ndarray  # int32 (families, devices) likewise
    changed: np.ndarray  # families of the proposal
    new_choice: np.ndarray  # (families,)
    new_devices: np.ndarray  # int32 (families, devices)
    in_change: np.ndarray  # int8 (families,), 1 if in `changed`; 0 between proposals
    spare: np.ndarray  # int32 (devices,)
    degrees: np.ndarray  # (dimensions,)
    best_choice: np.ndarray  # (families,) the best strategy so far
    best_devices: np.ndarray  # int32 (families, devices) likewise
    partner_choice: np.ndarray  # (families,) the strategy that crossovers take from
    partner_devices: np.ndarray  # int32 (families, devices) likewise


def make_moves(space: "SearchSpace") -> Moves:
    """The moves of a space. Stands nowhere yet."""
    num_families, num_devices = len(space.families), space.num_devices
    sizes: list[tuple[int, int, int]] = []
    choices: list[tuple[int, ...]] = []
    size_start = [0]
    for by_parts in space.by_parts:
        for parts, degrees in by_parts.items():
            sizes.append((parts, len(choices), len(choices) + len(degrees)))
            choices += degrees
        size_start.append(len(sizes))
    most = max(1, *(len(of_operator) for of_operator in space.dimensions))
    numbers: dict[str, int] = {}
    names = np.full((len(space.dimensions), most), -1, np.int64)
    for n, of_operator in enumerate(space.dimensions):
        for position, dimension in enumerate(of_operator):
            names[n, position] = numbers.setdefault(dimension.name, len(numbers))
    degrees = np.ones((len(choices), most), np.int64)
    for row, of_choice in enumerate(choices):
        degrees[row, : len(of_choice)] = of_choice
    strides = [()] + [placement.strides(num_devices, size) for size in range(1, num_devices + 1)]
    groups: list[list[int]] = [[] for _ in range(max(space.twins) + 1)]
    for family, group in enumerate(space.twins):
        groups[group].append(family)
    weighted = np.array(
        [bool(space.graph.operators[m[0]].weights) for m in space.families], np.int8
    )
    is_input = np.array(space.is_input, np.int8)
    family_of = np.array(space.family_of, np.int64)
    here = np.zeros((num_families, num_devices), np.int32)
    across = _splits_across(space, most)
    return Moves(
        num_devices,
        space.places,
        family_of,
        np.flatnonzero(is_input == 0),
        is_input,
        _starts(space.families),
        np.array(list(itertools.chain(*space.families)), np.int64),
        weighted,
        np.flatnonzero(weighted) if weighted.any() else np.flatnonzero(is_input == 0),
        _starts(space.neighbours),
        np.array(list(itertools.chain(*space.neighbours)), np.int64).reshape(-1, 2),
        np.array(space.twins, np.int64),
        _starts(groups),
        np.array(list(itertools.chain(*groups)), np.int64),
        np.array(size_start, np.int64),
        np.array(sizes, np.int64),
        degrees,
        names,
        across,
        np.array([dataclasses.astuple(each) for each in space.on_nodes], np.int64).reshape(-1, 3),
        _node_choices(space, across),
        space.heaviest,
        _starts(strides),
        np.array(list(itertools.chain(*strides)), np.int64),
        np.zeros(len(Shares._fields)),
        np.zeros(4096 + 4 * (num_families + num_devices)),
        np.zeros(NUM_SCALARS, np.int64),
        np.zeros(num_families, np.int64),
        here,
        np.zeros(num_families, np.int64),
        np.zeros(num_families, np.int64),
        here.copy(),
        np.zeros(num_families, np.int8),
        np.zeros(num_devices, np.int32),
        np.ones(most, np.int64),
        np.zeros(num_families, np.int64),
        here.copy(),
        np.zeros(num_families, np.int64),
        here.copy(),
    )


def _splits_across(space: "SearchSpace", most: int) -> np.ndarray:
    """As `Moves.across`: dimensions of parameters; without weights, those of the last axis."""
    result = np.zeros((len(space.families), most), np.int8)
    for family, members in enumerate(space.families):
        operator = space.graph.operators[members[0]]
        specs = () if operator.weights else (*operator.input_specs[:1], *operator.output_specs[:1])
        last = max((len(spec.shape) - 1 for spec in specs), default=0)
        for position, dimension in enumerate(space.dimensions[members[0]]):
            result[family, position] = dimension.kind == DimensionKind.PARAMETER or (
                dimension.kind == DimensionKind.ATTRIBUTE and dimension.axis == last
            )
    return result


def _node_choices(space: "SearchSpace", across: np.ndarray) -> np.ndarray:
    """As `Moves.node_choice`: into as many parts as can be, of samples rather than others."""
    result = np.full((len(space.families), len(space.on_nodes)), -1, np.int64)
    limits = {(nodes.samples, nodes.parameters) for nodes in space.on_nodes}
    for family, members in enumerate(space.families):
        if space.is_input[family]:
            continue
        dimensions = space.dimensions[members[0]]
        shape = len(space.degrees[family]), len(dimensions)
        degrees = np.array(space.degrees[family], np.int64).reshape(shape)
        inside = np.array([d.kind == DimensionKind.SAMPLE for d in dimensions], bool)
        outside = across[family, : len(dimensions)] == 1
        samples, others = degrees[:, inside].prod(axis=1), degrees[:, outside].prod(axis=1)
        plain = samples * others == degrees.prod(axis=1)
        order = np.arange(len(degrees))
        best = {}
        for most in limits:
            fits = plain & (samples <= most[0]) & (others <= most[1])
            # The first, if several are as good.
            row = int(np.lexsort((-order, samples, np.where(fits, samples * others, 0)))[-1])
            best[most] = space.choice(family, space.degrees[family][row])
        result[family] = [best[nodes.samples, nodes.parameters] for nodes in space.on_nodes]
    return result


def stand_at(moves: Moves, space: "SearchSpace", strategy: Strategy) -> None:
    """Puts the chain at `strategy`, which must be in the space."""
    _fill_in(moves.choice, moves.devices, space, strategy)


def meet(moves: Moves, space: "SearchSpace", partner: Strategy) -> None:
    """Makes `partner`, which must be in the space, what crossovers take from."""
    _fill_in(moves.partner_choice, moves.partner_devices, space, partner)


def _fill_in(
    choice: np.ndarray, devices: np.ndarray, space: "SearchSpace", strategy: Strategy
) -> None:
    for family, members in enumerate(space.families):
        config = strategy.configs[members[0]]
        choice[family] = space.choice(family, config.degrees)
        devices[family, : config.num_parts] = config.devices


def refill(moves: Moves, rng: np.random.Generator) -> None:
    """New random numbers, for at least one proposal."""
    rng.random(out=moves.uniforms)
    moves.scalar[USED] = 0


def _starts(lists) -> np.ndarray:
    return np.array([0, *itertools.accumulate(len(of) for of in lists)], np.int64)


@njit
def has_enough(moves):
    """Whether the random numbers that are left certainly do for a proposal."""
    needed = 3 * len(moves.member_start) + moves.num_devices + 32
    return moves.scalar[USED] + needed <= len(moves.uniforms)


@njit
def draw(moves):
    """The next random number."""
    used = moves.scalar[USED]
    moves.scalar[USED] = used + 1
    return moves.uniforms[used]


@njit
def draw_below(moves, end):
    return int(draw(moves) * end)


@njit
def num_parts(moves, choice):
    parts = 1
    for degree in moves.choices[choice]:
        parts *= degree
    return parts


@njit
def change(moves, family, choice):
    moves.new_choice[family] = choice
    moves.in_change[family] = 1
    moves.changed[moves.scalar[NUM_CHANGED]] = family
    moves.scalar[NUM_CHANGED] += 1


@njit
def find(moves, family, parts):
    """Row of `sizes` with this number of parts, or -1."""
    for row in range(moves.size_start[family], moves.size_start[family + 1]):
        if moves.sizes[row, 0] == parts:
            return row
    return -1


@njit
def most_parts(moves, family, most):
    """Row of `sizes` with the most parts up to `most`."""
    row = moves.size_start[family]
    while row + 1 < moves.size_start[family + 1] and moves.sizes[row + 1, 0] <= most:
        row += 1
    return row


@njit
def alike(moves, operator, like, choice, row):
    """The choice among `sizes[row]` that splits dimensions of the same name alike, or -1.

    Args:
        moves: Moves.
        operator: What is to be split.
        like: The operator that is split as `choice` says.
        choice: Degrees of `like`.
        row: Where to look.
    """
    if row < 0:
        return -1
    wanted = moves.degrees
    for position in range(len(wanted)):
        wanted[position] = 1
        name = moves.names[operator, position]
        if name < 0:
            continue
        for other in range(len(wanted)):
            if moves.names[like, other] == name:
                wanted[position] = moves.choices[choice, other]
    for found in range(moves.sizes[row, 1], moves.sizes[row, 2]):
        same = True
        for position in range(len(wanted)):
            same = same and moves.choices[found, position] == wanted[position]
        if same:
            return found
    return -1


@njit
def same_devices(moves, family, other):
    parts = num_parts(moves, moves.choice[family])
    if parts != num_parts(moves, moves.choice[other]):
        return False
    return are_equal(moves.devices[family], moves.devices[other], parts)


@njit
def are_equal(devices, others, parts):
    """Whether the first so many are."""
    part = 0
    while part < parts and devices[part] == others[part]:
        part += 1
    return part == parts


@njit
def changes_nothing(moves):
    """Whether the proposal is where the chain stands."""
    for i in range(moves.scalar[NUM_CHANGED]):
        family = moves.changed[i]
        choice = moves.new_choice[family]
        parts = num_parts(moves, choice)
        if choice != moves.choice[family] or not are_equal(
            moves.new_devices[family], moves.devices[family], parts
        ):
            return False
    return True


@njit
def move(moves):
    """Makes the proposal where the chain stands."""
    for i in range(moves.scalar[NUM_CHANGED]):
        family = moves.changed[i]
        choice = moves.new_choice[family]
        moves.choice[family] = choice
        for part in range(num_parts(moves, choice)):
            moves.devices[family, part] = moves.new_devices[family, part]


@njit
def keep_best(moves):
    """Makes where the chain stands the best so far."""
    for family in range(len(moves.choice)):
        choice = moves.choice[family]
        moves.best_choice[family] = choice
        for part in range(num_parts(moves, choice)):
            moves.best_devices[family, part] = moves.devices[family, part]
