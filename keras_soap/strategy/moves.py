"""The changes that a search proposes, over flat arrays, so that whole chains can be compiled.

1. A family (operators on the same weights) gets a new configuration: the devices of a neighbour,
   split alike if it can be, or any degrees on a group of devices (see `placement`); now and then
   any devices in any order, so that every strategy can be reached.
2. Some changes go on to neighbours, split alike on the same devices, since moving them one by one
   would first cost transfers.
3. All chance comes from `Moves.uniforms`, in order.
"""

import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from keras_soap.jit import entry, njit
from keras_soap.strategy import placement
from keras_soap.strategy.strategy import Strategy

if TYPE_CHECKING:
    from keras_soap.strategy.search_space import SearchSpace

COPY_SHARE = 0.5
"""Share of changes that take over the devices of a neighbour."""
ALIKE_SHARE = 0.75
"""Share of those that are split alike where they can be."""
SPREAD_SHARE = 0.6
"""Share of changes that spread to neighbours."""
SPREAD_MEAN = 16.0
"""How many neighbours those reach on average."""
ANYWHERE_SHARE = 0.05
"""Share of the other changes that go to any devices in any order."""

# Moves.scalar
USED, NUM_CHANGED, NUM_SCALARS = range(3)


class Moves(NamedTuple):
    """A search space, where a chain stands in it, and a proposal. int64 unless it says otherwise.

    `choice` numbers the degrees that a family may have, by number of parts. Ranges of a list begin
    where `*_start` says and end where the next begins.
    """

    num_devices: int
    places: bool
    family_of: np.ndarray  # (operators,)
    member_start: np.ndarray  # (families + 1,)
    members: np.ndarray  # operators
    neighbour_start: np.ndarray  # (families + 1,)
    neighbours: np.ndarray  # (pairs, 2): an operator of the family, and one beside it
    size_start: np.ndarray  # (families + 1,)
    sizes: np.ndarray  # (sizes, 3): parts, first choice, end of choices
    choices: np.ndarray  # (choices, dimensions): degrees; 1 beyond those of the operator
    names: np.ndarray  # (operators, dimensions): number of a dimension's name; -1 beyond
    stride_start: np.ndarray  # (devices + 2,) by number of parts
    strides: np.ndarray
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
    here = np.zeros((num_families, num_devices), np.int32)
    return Moves(
        num_devices,
        space.places,
        np.array(space.family_of, np.int64),
        _starts(space.families),
        np.array(list(itertools.chain(*space.families)), np.int64),
        _starts(space.neighbours),
        np.array(list(itertools.chain(*space.neighbours)), np.int64).reshape(-1, 2),
        np.array(size_start, np.int64),
        np.array(sizes, np.int64),
        degrees,
        names,
        _starts(strides),
        np.array(list(itertools.chain(*strides)), np.int64),
        np.zeros(4096 + 2 * (num_families + num_devices)),
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
    )


def stand_at(moves: Moves, space: "SearchSpace", strategy: Strategy) -> None:
    """Puts the chain at `strategy`, which must be in the space."""
    for family, members in enumerate(space.families):
        config = strategy.configs[members[0]]
        moves.choice[family] = space.choice(family, config.degrees)
        moves.devices[family, : config.num_parts] = config.devices


def refill(moves: Moves, rng: np.random.Generator) -> None:
    """New random numbers, for at least one proposal."""
    rng.random(out=moves.uniforms)
    moves.scalar[USED] = 0


def _starts(lists) -> np.ndarray:
    return np.array([0, *itertools.accumulate(len(of) for of in lists)], np.int64)


@njit
def has_enough(moves):
    """Whether the random numbers that are left certainly do for a proposal."""
    needed = len(moves.member_start) + moves.num_devices + 32
    return moves.scalar[USED] + needed <= len(moves.uniforms)


@njit
def draw(moves):
    """The next random number."""
    used = moves.scalar[USED]
    moves.scalar[USED] = used + 1
    return moves.uniforms[used]


@njit
def _draw_below(moves, end):
    return int(draw(moves) * end)


@njit
def _num_parts(moves, choice):
    parts = 1
    for degree in moves.choices[choice]:
        parts *= degree
    return parts


@njit
def _change(moves, family, choice):
    moves.new_choice[family] = choice
    moves.in_change[family] = 1
    moves.changed[moves.scalar[NUM_CHANGED]] = family
    moves.scalar[NUM_CHANGED] += 1


@njit
def _find(moves, family, parts):
    """Row of `sizes` with this number of parts, or -1."""
    for row in range(moves.size_start[family], moves.size_start[family + 1]):
        if moves.sizes[row, 0] == parts:
            return row
    return -1


@njit
def _alike(moves, operator, like, choice, row):
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
def _same_devices(moves, family, other):
    parts = _num_parts(moves, moves.choice[family])
    if parts != _num_parts(moves, moves.choice[other]):
        return False
    part = 0
    while part < parts and moves.devices[family, part] == moves.devices[other, part]:
        part += 1
    return part == parts


@njit
def _follow(moves, family, member, neighbour):
    """Takes the devices of `neighbour`, as it now is.

    Splits the same dimensions alike if it can, else makes as many parts in some other way, else
    lies on the first of the devices.
    """
    other = moves.family_of[neighbour]
    parts = _num_parts(moves, moves.choice[other])
    row = _find(moves, family, parts)
    choice = _alike(moves, member, neighbour, moves.choice[other], row)
    if choice < 0 or draw(moves) >= ALIKE_SHARE:
        if row < 0:
            smaller = 0
            for size in range(moves.size_start[family], moves.size_start[family + 1]):
                smaller += moves.sizes[size, 0] < parts
            row = moves.size_start[family] + _draw_below(moves, smaller)
        first = moves.sizes[row, 1]
        choice = first + _draw_below(moves, moves.sizes[row, 2] - first)
    for part in range(moves.sizes[row, 0]):
        moves.new_devices[family, part] = moves.devices[other, part]
    _change(moves, family, choice)


@njit
def draw_config(moves, family):
    """Any configuration: a number of parts, then degrees, then devices."""
    first, last = moves.size_start[family], moves.size_start[family + 1]
    row = first + _draw_below(moves, last - first)
    size, begin, end = moves.sizes[row, 0], moves.sizes[row, 1], moves.sizes[row, 2]
    choice = begin + _draw_below(moves, end - begin)
    devices = moves.new_devices[family]
    if not moves.places:
        for part in range(size):
            devices[part] = part
    elif draw(moves) < ANYWHERE_SHARE:
        for device in range(moves.num_devices):
            moves.spare[device] = device
        for part in range(size):
            at = part + _draw_below(moves, moves.num_devices - part)
            devices[part] = moves.spare[at]
            moves.spare[at] = moves.spare[part]
    else:
        _place(moves, choice, size, devices)
    _change(moves, family, choice)


@njit
def _place(moves, choice, size, devices):
    """A random aligned group, filled in a random order; see `placement.structured`.

    Neighbours in row-major order are half of all draws where there is a choice.
    """
    stride = 1
    if draw(moves) >= 0.5:
        first = moves.stride_start[size]
        stride = moves.strides[first + _draw_below(moves, moves.stride_start[size + 1] - first)]
    number = _draw_below(moves, moves.num_devices // (size * stride) * stride)
    start = number // stride * size * stride + number % stride
    degrees = moves.choices[choice]
    split, ways = 0, 1
    for degree in degrees:
        if degree > 1:
            split += 1
            ways *= split
    if ways == 1 or draw(moves) < 0.5:
        for part in range(size):
            devices[part] = start + part * stride
        return
    # A dimension's step is the product of the degrees of those that come after it in the order.
    way = _draw_below(moves, ways)
    steps = moves.degrees
    for position in range(len(degrees)):
        steps[position] = 0
    step = 1
    for left in range(split, 0, -1):
        skip = way % left
        way //= left
        for position in range(len(degrees) - 1, -1, -1):
            if degrees[position] > 1 and steps[position] == 0:
                if skip == 0:
                    steps[position] = step
                    step *= degrees[position]
                    break
                skip -= 1
    for part in range(size):
        rest, at = part, 0
        for position in range(len(degrees) - 1, -1, -1):
            at += rest % degrees[position] * steps[position]
            rest //= degrees[position]
        devices[part] = start + at * stride


@njit
def _spread(moves):
    """Makes neighbours of the one changed family, and theirs, as it now is, where they can be."""
    wanted = int(math.log(1.0 - draw(moves)) / math.log(1.0 - 1.0 / SPREAD_MEAN)) + 1
    reached = 0
    while reached < moves.scalar[NUM_CHANGED]:
        if moves.scalar[NUM_CHANGED] > wanted:
            return
        here = moves.changed[reached]
        reached += 1
        choice = moves.new_choice[here]
        parts = _num_parts(moves, choice)
        begin = moves.neighbour_start[here]
        count = moves.neighbour_start[here + 1] - begin
        first = _draw_below(moves, count)
        for k in range(count):
            pair = begin + (first + k) % count
            member, neighbour = moves.neighbours[pair, 0], moves.neighbours[pair, 1]
            other = moves.family_of[neighbour]
            if moves.in_change[other]:
                continue
            alike = _alike(moves, neighbour, member, choice, _find(moves, other, parts))
            if alike >= 0:
                for part in range(parts):
                    moves.new_devices[other, part] = moves.new_devices[here, part]
                _change(moves, other, alike)
                if moves.scalar[NUM_CHANGED] > wanted:
                    return


@njit
def propose(moves):
    """Draws a change: `changed[:scalar[NUM_CHANGED]]`, with `new_choice` and `new_devices`."""
    moves.scalar[NUM_CHANGED] = 0
    family = moves.family_of[_draw_below(moves, len(moves.family_of))]
    begin, end = moves.neighbour_start[family], moves.neighbour_start[family + 1]
    apart = 0
    if moves.places and end > begin and draw(moves) < COPY_SHARE:
        for pair in range(begin, end):
            other = moves.family_of[moves.neighbours[pair, 1]]
            apart += not _same_devices(moves, family, other)
    if apart:
        skip = _draw_below(moves, apart)
        for pair in range(begin, end):
            other = moves.family_of[moves.neighbours[pair, 1]]
            if not _same_devices(moves, family, other):
                if skip == 0:
                    _follow(moves, family, moves.neighbours[pair, 0], moves.neighbours[pair, 1])
                    break
                skip -= 1
    else:
        draw_config(moves, family)
    if draw(moves) < SPREAD_SHARE:
        _spread(moves)
    for i in range(moves.scalar[NUM_CHANGED]):
        moves.in_change[moves.changed[i]] = 0


@njit
def changes_nothing(moves):
    """Whether the proposal is where the chain stands."""
    for i in range(moves.scalar[NUM_CHANGED]):
        family = moves.changed[i]
        choice = moves.new_choice[family]
        if choice != moves.choice[family]:
            return False
        for part in range(_num_parts(moves, choice)):
            if moves.new_devices[family, part] != moves.devices[family, part]:
                return False
    return True


@njit
def move(moves):
    """Makes the proposal where the chain stands."""
    for i in range(moves.scalar[NUM_CHANGED]):
        family = moves.changed[i]
        choice = moves.new_choice[family]
        moves.choice[family] = choice
        for part in range(_num_parts(moves, choice)):
            moves.devices[family, part] = moves.new_devices[family, part]


@njit
def keep_best(moves):
    """Makes where the chain stands the best so far."""
    for family in range(len(moves.choice)):
        choice = moves.choice[family]
        moves.best_choice[family] = choice
        for part in range(_num_parts(moves, choice)):
            moves.best_devices[family, part] = moves.devices[family, part]


@entry
def propose_one(moves):
    """For Python: see `propose`."""
    propose(moves)


@entry
def propose_config(moves, family):
    """For Python: see `draw_config`."""
    moves.scalar[NUM_CHANGED] = 0
    draw_config(moves, family)
    moves.in_change[family] = 0
