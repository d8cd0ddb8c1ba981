"""The changes that a search proposes, compiled.

1. A family (operators on the same weights) gets a new configuration: the devices of a neighbour,
   split alike if it can be, or any degrees on a group of devices (see `placement`); now and then
   any devices in any order, so that every strategy can be reached.
2. Some changes go on to neighbours, split alike on the same devices, since moving them one by one
   would first cost transfers.
3. Some changes are of layers: of a family with weights, and of what
   lies around it up to the next such families. Such a layer goes where another layer is, or to any
   devices; in half of the latter all others leave these. Which layers share devices decides much,
   and changes of few operators hardly ever find out.
4. Some changes of layers are made in all blocks that are alike (see `twins`), or in those of them
   that until now did as this one.
5. Some are of layers to whole nodes: see `node_proposals`.
6. Some take over what another chain's strategy has: see `crossover`.
7. How many there are of each kind, `Moves.shares` says.
"""

import math

from keras_soap.jit import entry, njit
from keras_soap.strategy.crossover import cross_over
from keras_soap.strategy.moves import (
    COPY,
    CROSSOVER,
    LAYERS,
    NODES,
    NUM_CHANGED,
    SPREAD,
    alike,
    change,
    draw,
    draw_below,
    find,
    most_parts,
    num_parts,
    same_devices,
)
from keras_soap.strategy.node_proposals import place_on_nodes, propose_nodes, spread_on_nodes

ALIKE_SHARE = 0.75
"""Share of those that take over the devices of a neighbour that are split alike if they can be."""
SPREAD_MEAN = 16.0
"""How many neighbours the changes that spread reach on average."""
LAYER_COPY_SHARE = 0.3
"""Share of the changes of layers in which the layer takes over the devices of another."""
LAYER_PLACE_SHARE = 0.1
"""Share of those in which it goes to devices that need not be next to each other."""
EVICT_SHARE = 0.5
"""Share of the rest in which all others leave the devices of the layer."""
TWINS_SHARE = 0.3
"""Share of the changes of layers that are made in all blocks alike."""
ANYWHERE_SHARE = 0.05
"""Share of the other changes that go to any devices in any order."""


@njit
def _draw_choice(moves, row):
    """Any degrees with the number of parts of `sizes[row]`."""
    first = moves.sizes[row, 1]
    return first + draw_below(moves, moves.sizes[row, 2] - first)


@njit
def _draw_row(moves, family):
    """Any number of parts that a family may have, as a row of `sizes`."""
    first = moves.size_start[family]
    return first + draw_below(moves, moves.size_start[family + 1] - first)


@njit
def _follow(moves, family, member, neighbour):
    """Takes the devices of `neighbour`, as it now is.

    Splits the same dimensions alike if it can, else makes as many parts in some other way, else
    lies on the first of the devices.
    """
    other = moves.family_of[neighbour]
    parts = num_parts(moves, moves.choice[other])
    row = find(moves, family, parts)
    choice = alike(moves, member, neighbour, moves.choice[other], row)
    if choice < 0 or draw(moves) >= ALIKE_SHARE:
        if row < 0:
            smaller = 0
            for size in range(moves.size_start[family], moves.size_start[family + 1]):
                smaller += moves.sizes[size, 0] < parts
            row = moves.size_start[family] + draw_below(moves, smaller)
        choice = _draw_choice(moves, row)
    for part in range(moves.sizes[row, 0]):
        moves.new_devices[family, part] = moves.devices[other, part]
    change(moves, family, choice)


@njit
def draw_config(moves, family):
    """Any configuration: a number of parts, then degrees, then devices."""
    row = _draw_row(moves, family)
    size, choice = moves.sizes[row, 0], _draw_choice(moves, row)
    devices = moves.new_devices[family]
    if not moves.places:
        for part in range(size):
            devices[part] = part
    elif draw(moves) < ANYWHERE_SHARE:
        for device in range(moves.num_devices):
            moves.spare[device] = device
        for part in range(size):
            at = part + draw_below(moves, moves.num_devices - part)
            devices[part] = moves.spare[at]
            moves.spare[at] = moves.spare[part]
    else:
        _place(moves, choice, size, devices)
    change(moves, family, choice)


@njit
def _draw_together(moves, family):
    """Any degrees, on an aligned group of devices next to each other."""
    row = _draw_row(moves, family)
    size, choice = moves.sizes[row, 0], _draw_choice(moves, row)
    start = draw_below(moves, moves.num_devices // size) * size if moves.places else 0
    _fill(moves, choice, size, start, 1, moves.new_devices[family])
    change(moves, family, choice)


@njit
def _draw_for_layer(moves, family):
    """A configuration for a layer; whether on any aligned devices next to each other."""
    way = draw(moves) if moves.places else 1.0
    if way < LAYER_COPY_SHARE:
        other = moves.layers[draw_below(moves, len(moves.layers))]
        _follow(
            moves,
            family,
            moves.members[moves.member_start[family]],
            moves.members[moves.member_start[other]],
        )
        return False
    if way < LAYER_COPY_SHARE + LAYER_PLACE_SHARE:
        draw_config(moves, family)
        return False
    _draw_together(moves, family)
    return True


@njit
def _extend_to_twins(moves):
    """Changes all twins of the families that change as these do; or those that are equal now."""
    only_equal = draw(moves) < 0.5
    for i in range(moves.scalar[NUM_CHANGED]):
        family = moves.changed[i]
        choice = moves.new_choice[family]
        group = moves.twins_of[family]
        for k in range(moves.twin_start[group], moves.twin_start[group + 1]):
            twin = moves.twins[k]
            if moves.in_change[twin] or (only_equal and not _equal(moves, family, twin)):
                continue
            for part in range(num_parts(moves, choice)):
                moves.new_devices[twin, part] = moves.new_devices[family, part]
            change(moves, twin, choice + _first_choice(moves, twin) - _first_choice(moves, family))


@njit
def _equal(moves, family, twin):
    """Whether twins have the same configuration now."""
    apart = _first_choice(moves, twin) - _first_choice(moves, family)
    return moves.choice[twin] - moves.choice[family] == apart and same_devices(moves, family, twin)


@njit
def _first_choice(moves, family):
    return moves.sizes[moves.size_start[family], 1]


@njit
def _evict(moves, family):
    """Moves all others off the devices that `family` now is on: to those beside, or fewer."""
    size = num_parts(moves, moves.new_choice[family])
    start = moves.new_devices[family, 0]
    if 2 * size > moves.num_devices:
        return
    beside = start + size if start // size % 2 == 0 else start - size
    if beside + size > moves.num_devices:
        beside = start - size
    for other in range(len(moves.choice)):
        if moves.in_change[other] or moves.is_input[other]:
            continue
        parts = num_parts(moves, moves.choice[other])
        inside, outside, meets = 0, 0, False
        for part in range(parts):
            device = moves.devices[other, part]
            if start <= device < start + size:
                inside += 1
            else:
                moves.spare[outside] = device
                outside += 1
                meets = meets or beside <= device < beside + size
        if inside == 0:
            continue
        if not meets:
            for part in range(parts):
                device = moves.devices[other, part]
                if start <= device < start + size:
                    device += beside - start
                moves.new_devices[other, part] = device
            change(moves, other, moves.choice[other])
            continue
        row = most_parts(moves, other, outside)
        for part in range(moves.sizes[row, 0]):
            moves.new_devices[other, part] = moves.spare[part]
        change(moves, other, _draw_choice(moves, row))


@njit
def _place(moves, choice, size, devices):
    """A random aligned group, filled in a random order; see `placement.structured`.

    Those next to each other are half of all draws where there is a choice.
    """
    stride = 1
    if draw(moves) >= 0.5:
        first = moves.stride_start[size]
        stride = moves.strides[first + draw_below(moves, moves.stride_start[size + 1] - first)]
    number = draw_below(moves, moves.num_devices // (size * stride) * stride)
    start = number // stride * size * stride + number % stride
    _fill(moves, choice, size, start, stride, devices)


@njit
def _fill(moves, choice, size, start, stride, devices):
    """Parts on every `stride`th device, with dimensions in a random order, row-major half the time.

    So a dimension is as often split within nodes as between them.
    """
    degrees = moves.choices[choice]
    split, ways = 0, 1
    for degree in degrees:
        if degree > 1:
            split += 1
            ways *= split
    if not moves.places or ways == 1 or draw(moves) < 0.5:
        for part in range(size):
            devices[part] = start + part * stride
        return
    # A dimension's step is the product of the degrees of those that come after it in the order.
    way = draw_below(moves, ways)
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
def _spread(moves, wanted, weightless):
    """Makes neighbours of the one changed family, and theirs, as it now is, where they can be.

    Args:
        moves: Moves.
        wanted: How many families at most change beside the first.
        weightless: Whether only families without weights do.
    """
    reached = 0
    while reached < moves.scalar[NUM_CHANGED]:
        if moves.scalar[NUM_CHANGED] > wanted:
            return
        here = moves.changed[reached]
        reached += 1
        choice = moves.new_choice[here]
        parts = num_parts(moves, choice)
        begin = moves.neighbour_start[here]
        count = moves.neighbour_start[here + 1] - begin
        first = draw_below(moves, count)
        for k in range(count):
            pair = begin + (first + k) % count
            member, neighbour = moves.neighbours[pair, 0], moves.neighbours[pair, 1]
            other = moves.family_of[neighbour]
            if moves.in_change[other] or (weightless and moves.weighted[other]):
                continue
            row = find(moves, other, parts)
            split = alike(moves, neighbour, member, choice, row)
            if split < 0 and weightless:
                row = most_parts(moves, other, parts)
                split = _draw_choice(moves, row)
            if split >= 0:
                for part in range(moves.sizes[row, 0]):
                    moves.new_devices[other, part] = moves.new_devices[here, part]
                change(moves, other, split)
                if moves.scalar[NUM_CHANGED] > wanted:
                    return


@njit
def propose(moves):
    """Draws a change: `changed[:scalar[NUM_CHANGED]]`, with `new_choice` and `new_devices`."""
    moves.scalar[NUM_CHANGED] = 0
    if len(moves.on_nodes) and moves.shares[NODES] > 0 and draw(moves) < moves.shares[NODES]:
        propose_nodes(moves)
        if draw(moves) < TWINS_SHARE:
            _extend_to_twins(moves)
    elif moves.shares[CROSSOVER] > 0 and draw(moves) < moves.shares[CROSSOVER]:
        if not cross_over(moves):
            _propose_some(moves)
    elif draw(moves) < moves.shares[LAYERS]:
        family = moves.layers[draw_below(moves, len(moves.layers))]
        together = _draw_for_layer(moves, family)
        _spread(moves, len(moves.choice), True)
        if draw(moves) < TWINS_SHARE:
            _extend_to_twins(moves)
        if together and moves.places and draw(moves) < EVICT_SHARE:
            _evict(moves, family)
    else:
        _propose_some(moves)
    for i in range(moves.scalar[NUM_CHANGED]):
        moves.in_change[moves.changed[i]] = 0


@njit
def _propose_some(moves):
    """Draws a change of one operator, or of some that hang together."""
    family = moves.placed[draw_below(moves, len(moves.placed))]
    begin, end = moves.neighbour_start[family], moves.neighbour_start[family + 1]
    apart = 0
    if moves.places and end > begin and draw(moves) < moves.shares[COPY]:
        for pair in range(begin, end):
            other = moves.family_of[moves.neighbours[pair, 1]]
            apart += not same_devices(moves, family, other)
    if apart:
        skip = draw_below(moves, apart)
        for pair in range(begin, end):
            other = moves.family_of[moves.neighbours[pair, 1]]
            if not same_devices(moves, family, other):
                if skip == 0:
                    _follow(moves, family, moves.neighbours[pair, 0], moves.neighbours[pair, 1])
                    break
                skip -= 1
    else:
        draw_config(moves, family)
    if draw(moves) < moves.shares[SPREAD]:
        wanted = int(math.log(1.0 - draw(moves)) / math.log(1.0 - 1.0 / SPREAD_MEAN)) + 1
        _spread(moves, wanted, False)


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


@entry
def propose_on_nodes(moves, family, place):
    """For Python: a layer and what lies around it on whole nodes, as `node_proposals` places it."""
    moves.scalar[NUM_CHANGED] = 0
    if not moves.is_input[family]:
        place_on_nodes(moves, family, place)
        spread_on_nodes(moves, place, False)
    for i in range(moves.scalar[NUM_CHANGED]):
        moves.in_change[moves.changed[i]] = 0
