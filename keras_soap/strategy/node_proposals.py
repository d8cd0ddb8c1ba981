"""Changes of layers to whole nodes, compiled: the plainest strategies there are.

1. A layer, and what lies around it up to the next layers, goes to some nodes next to each other:
   samples are split within a node, and samples or parameters across. See `placement.OnNodes`.
2. The layer that computes the most stays where it is: chains are given different places for it.
3. From a strategy that is on whole nodes these changes lead to others. There are few of those, so
   that which layers belong together is found soon, before details are looked for.
"""

from keras_soap.jit import njit
from keras_soap.strategy.moves import (
    NUM_CHANGED,
    alike,
    change,
    draw,
    draw_below,
    find,
    num_parts,
)

COPY_SHARE = 0.3
"""Share of the changes in which a layer goes where another layer is."""
NEIGHBOUR_SHARE = 0.2
"""Share of those in which the layers beside it come along."""


@njit
def place_on_nodes(moves, family, place):
    """A family goes to `on_nodes[place]`."""
    start, stride = moves.on_nodes[place, 0], moves.on_nodes[place, 1]
    choice = moves.node_choice[family, place]
    degrees = moves.choices[choice]
    for part in range(num_parts(moves, choice)):
        rest, sample, parameter, samples, parameters = part, 0, 0, 1, 1
        for position in range(len(degrees) - 1, -1, -1):
            index = rest % degrees[position]
            rest //= degrees[position]
            if moves.across[family, position]:
                parameter += index * parameters
                parameters *= degrees[position]
            else:
                sample += index * samples
                samples *= degrees[position]
        moves.new_devices[family, part] = start + parameter * stride + sample
    change(moves, family, choice)


@njit
def _place_of(moves, family):
    """Where a family is, as a row of `on_nodes`; -1 if it is elsewhere."""
    first = moves.devices[family, 0]
    for place in range(len(moves.on_nodes)):
        if moves.on_nodes[place, 0] == first and (
            moves.node_choice[family, place] == moves.choice[family]
        ):
            return place
    return -1


@njit
def spread_on_nodes(moves, place, layers):
    """Takes along what has no weights around the changed families; or first their next layers."""
    reached = 0
    while reached < moves.scalar[NUM_CHANGED]:
        here = moves.changed[reached]
        choice = moves.new_choice[here]
        parts = num_parts(moves, choice)
        for pair in range(moves.neighbour_start[here], moves.neighbour_start[here + 1]):
            member, neighbour = moves.neighbours[pair, 0], moves.neighbours[pair, 1]
            other = moves.family_of[neighbour]
            if moves.in_change[other] or moves.is_input[other] or other == moves.heaviest:
                continue
            if moves.weighted[other]:
                if layers and reached == 0:
                    place_on_nodes(moves, other, place)
                continue
            split = alike(moves, neighbour, member, choice, find(moves, other, parts))
            if split < 0:
                place_on_nodes(moves, other, place)
                continue
            for part in range(parts):
                moves.new_devices[other, part] = moves.new_devices[here, part]
            change(moves, other, split)
        reached += 1


@njit
def propose_nodes(moves):
    """Draws a change of a layer."""
    family = moves.layers[draw_below(moves, len(moves.layers))]
    if family == moves.heaviest:
        return
    place = -1
    if draw(moves) < COPY_SHARE:
        place = _place_of(moves, moves.layers[draw_below(moves, len(moves.layers))])
    if place < 0:
        place = draw_below(moves, len(moves.on_nodes))
    place_on_nodes(moves, family, place)
    spread_on_nodes(moves, place, draw(moves) < NEIGHBOUR_SHARE)
