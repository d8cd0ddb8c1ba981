"""Remembers strategies that took too long, so that none is simulated to learn as much again.

1. A strategy has a signature: the sum of those of its families. A change of a few makes few anew.
2. Of a strategy that was refused it is known that it takes longer than some limit. Asked for no
   more than that, it is refused again, wherever the chain then stands, and whichever chain it is.
3. Signatures have 63 bits, and each has one row. What else had the row is forgotten: most that is
   proposed again was proposed not long ago.
4. Two strategies may have one signature. Among a billion proposals one is mistaken for another with
   a probability of 1 in 70,000.
"""

from typing import NamedTuple

import numpy as np

from keras_soap.jit import njit
from keras_soap.strategy.moves import NUM_CHANGED, num_parts

ROW_BITS = 17
ROW_MASK = (1 << ROW_BITS) - 1
MASK = (1 << 63) - 1
# Odd, and with bits in no order: those of the golden ratio, and of the roots of 2 and 3.
FACTOR, FACTOR_OF_PARTS, FACTOR_OF_SUM = 0x1E3779B97F4A7C15, 0x6A09E667F3BCC909, 0x3B67AE8584CAA73B

# Refusals.scalar
HERE, PROPOSED, NUM_SCALARS = range(3)


class Refusals(NamedTuple):
    """What was refused, of one search space by one simulator.

    Attributes:
        rows: int64 (2**ROW_BITS, 2). A signature, and a time that its strategy exceeds, in ns.
        scalar: int64. Signatures of where the chain stands, and of what it proposes.
    """

    rows: np.ndarray
    scalar: np.ndarray


def no_refusals() -> Refusals:
    """Of a space in which nothing was refused yet."""
    return Refusals(np.zeros((1 << ROW_BITS, 2), np.int64), np.zeros(NUM_SCALARS, np.int64))


@njit
def _mixed(bits, factor):
    bits = (bits * factor) & MASK
    return bits ^ (bits >> 31)


@njit
def _of_family(family, choice, parts, devices):
    """The signature of one configuration."""
    bits = _mixed(family + 1, FACTOR) ^ _mixed(choice + 1, FACTOR_OF_SUM)
    for part in range(parts):
        bits = _mixed(bits ^ (int(devices[family, part]) + 1), FACTOR_OF_PARTS)
    return _mixed(bits, FACTOR_OF_SUM)


@njit
def stand_here(refusals, moves):
    """Takes note of where the chain stands."""
    total = 0
    for family in range(len(moves.choice)):
        choice = int(moves.choice[family])
        total += _of_family(family, choice, num_parts(moves, choice), moves.devices)
        total &= MASK
    refusals.scalar[HERE] = total


@njit
def propose_this(refusals, moves):
    """Takes note of what is proposed."""
    total = int(refusals.scalar[HERE])
    for i in range(moves.scalar[NUM_CHANGED]):
        family = int(moves.changed[i])
        before, after = int(moves.choice[family]), int(moves.new_choice[family])
        total -= _of_family(family, before, num_parts(moves, before), moves.devices)
        total &= MASK
        total += _of_family(family, after, num_parts(moves, after), moves.new_devices)
        total &= MASK
    refusals.scalar[PROPOSED] = total


@njit
def exceeds(refusals, limit):
    """Whether it is known that what is proposed takes longer than `limit`."""
    signature = refusals.scalar[PROPOSED]
    row = signature & ROW_MASK
    return refusals.rows[row, 0] == signature and refusals.rows[row, 1] >= limit


@njit
def refuse(refusals, limit):
    """Remembers that what is proposed takes longer than `limit`."""
    signature = refusals.scalar[PROPOSED]
    row = signature & ROW_MASK
    refusals.rows[row, 0] = signature
    refusals.rows[row, 1] = limit


@njit
def go_there(refusals):
    """Makes what is proposed where the chain stands."""
    refusals.scalar[HERE] = refusals.scalar[PROPOSED]
