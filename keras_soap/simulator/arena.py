"""Rows for tasks, pairs and lists: taken and given back in sizes of powers of two.

Rows that are given back are linked through their first entry, a list for each size.
"""

from keras_soap.jit import njit
from keras_soap.simulator.layout import NEED, NEED_INTS, NEED_PAIRS, NEED_TASKS

TASK_ROWS, PAIR_ROWS, INT_ROWS = NEED_TASKS, NEED_PAIRS, NEED_INTS
NUM_SIZES = 40


@njit
def _size(count):
    size = 2
    while (1 << size) < count:
        size += 1
    return size


@njit
def take(state, which, count):
    """First of `count` unused rows; -1 if the array is full (then `scalar[NEED]` says which)."""
    size = _size(count)
    first = state.arena[which, 1 + size]
    if first >= 0:
        if which == TASK_ROWS:
            state.arena[which, 1 + size] = state.task[first, 0]
        elif which == PAIR_ROWS:
            state.arena[which, 1 + size] = state.pair[first, 0]
        else:
            state.arena[which, 1 + size] = state.ints[first]
        return first
    if which == TASK_ROWS:
        capacity = len(state.task)
    elif which == PAIR_ROWS:
        capacity = len(state.pair)
    else:
        capacity = len(state.ints)
    first = state.arena[which, 0]
    if first + (1 << size) > capacity:
        state.scalar[NEED] = which
        return -1
    state.arena[which, 0] = first + (1 << size)
    return first


@njit
def give_back(state, which, first, count):
    """Makes rows unused again."""
    size = _size(count)
    if which == TASK_ROWS:
        state.task[first, 0] = state.arena[which, 1 + size]
    elif which == PAIR_ROWS:
        state.pair[first, 0] = state.arena[which, 1 + size]
    else:
        state.ints[first] = state.arena[which, 1 + size]
    state.arena[which, 1 + size] = first
