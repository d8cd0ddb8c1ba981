"""Changes that take over what another chain's strategy has, its partner's, compiled.

1. Of the families in which the partner differs one is drawn, and those that hang together with it,
   or any number of others.
2. So what chains found apart from each other comes together. And where several operators have to
   change at once for a step to be faster, as small ones do that decide which of two large tasks
   comes first, one crossover does what single changes would have to get slower for on the way.
"""

import math

from keras_soap.jit import njit
from keras_soap.strategy.moves import NUM_CHANGED, are_equal, change, draw, draw_below, num_parts

CROSSOVER_TRIES = 8
"""How many families are drawn at most, to find one in which the partner differs."""
SCATTERED_SHARE = 0.5
"""Share of the crossovers whose families need not hang together."""
CROSSOVER_MEAN = 4.0
"""How many families those that do take over on average, where so many differ."""


@njit
def cross_over(moves):
    """Takes over from the partner some families in which it differs; whether any was found."""
    first = -1
    for _ in range(CROSSOVER_TRIES):
        family = moves.placed[draw_below(moves, len(moves.placed))]
        if _differs(moves, family):
            first = family
            break
    if first < 0:
        return False
    _take_over(moves, first)
    if draw(moves) < SCATTERED_SHARE:
        share = draw(moves)
        for family in moves.placed:
            if not moves.in_change[family] and _differs(moves, family) and draw(moves) < share:
                _take_over(moves, family)
        return True
    wanted = int(math.log(1.0 - draw(moves)) / math.log(1.0 - 1.0 / CROSSOVER_MEAN)) + 1
    reached = 0
    while reached < moves.scalar[NUM_CHANGED]:
        here = moves.changed[reached]
        reached += 1
        begin = moves.neighbour_start[here]
        count = moves.neighbour_start[here + 1] - begin
        if moves.scalar[NUM_CHANGED] >= wanted or count == 0:
            continue
        start = draw_below(moves, count)
        for k in range(count):
            other = moves.family_of[moves.neighbours[begin + (start + k) % count, 1]]
            is_open = moves.scalar[NUM_CHANGED] < wanted and not moves.in_change[other]
            if is_open and _differs(moves, other):
                _take_over(moves, other)
    return True


@njit
def _differs(moves, family):
    """Whether the partner has another configuration."""
    choice = moves.choice[family]
    return choice != moves.partner_choice[family] or not are_equal(
        moves.devices[family], moves.partner_devices[family], num_parts(moves, choice)
    )


@njit
def _take_over(moves, family):
    choice = moves.partner_choice[family]
    for part in range(num_parts(moves, choice)):
        moves.new_devices[family, part] = moves.partner_devices[family, part]
    change(moves, family, choice)
