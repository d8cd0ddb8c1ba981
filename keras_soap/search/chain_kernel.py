"""Compiled parts of `chain_bounds`, which says what they compute and why that holds.

Arrays are int64. A configuration has `width` parts, of which those beyond its last one have device
-1. A state is one row: its fields are views of it, see `fields`.
"""

from typing import NamedTuple

import numpy as np

from keras_soap.jit import entry
from keras_soap.search.domain import NEVER


class Work(NamedTuple):
    """What an operator does, by configuration and part: see `PathBounds`.

    Attributes:
        devices: Of the parts.
        forward, backward, busy, gradient, reduce_path, update: Times.
        reduces: Whether the update waits for a reduction.
    """

    devices: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    busy: np.ndarray
    gradient: np.ndarray
    reduce_path: np.ndarray
    update: np.ndarray
    reduces: np.ndarray


class Moves(NamedTuple):
    """Times between the parts of a producer and those of its consumer; `NEVER` where none is read.

    Attributes:
        there: (producer configs, consumer configs, producer parts, consumer parts). From the end of
            the one to the start of the other, forward.
        back: (producer configs, consumer configs, consumer parts, producer parts). The same
            backward.
    """

    there: np.ndarray
    back: np.ndarray


def state_size(width: int) -> int:
    """Columns of a state."""
    return 3 * width * (width + 1) + 1


@entry
def fields(state, width):
    """Views of a state: start, rest, then, delayed, load, work, span; see `chain_bounds`."""
    square = width * width
    bounds = 2 * width
    return (
        state[:width],
        state[width : 2 * width],
        state[bounds : bounds + square].reshape(width, width),
        state[bounds + square : bounds + 2 * square].reshape(width, width),
        state[bounds + 2 * square : bounds + 3 * square].reshape(width, width),
        state[bounds + 3 * square : bounds + 3 * square + width],
        state[bounds + 3 * square + width :],
    )


@entry
def between(after, u, v, moves):
    """int64 (configs of u, parts, parts): from a start forward of u to a start backward of u.

    Args:
        after: The same of v, the consumer of u.
        u: Work of the producer.
        v: Work of the consumer.
        moves: Between them.
    """
    num_u, width = u.devices.shape
    found = np.full((num_u, width, width), NEVER)
    for b in range(num_u):
        for p in range(width):
            for s in range(width):
                if u.devices[b, p] < 0 or u.devices[b, s] < 0:
                    continue
                least = 1 << 60
                for a in range(len(v.devices)):
                    longest = NEVER
                    for q in range(width):
                        for r in range(width):
                            there, back = moves.there[b, a, p, q], moves.back[b, a, r, s]
                            if there >= 0 and back >= 0:
                                path = there + after[a, q, r] + v.backward[a, r] + back
                                longest = max(longest, path)
                    least = min(least, longest)
                found[b, p, s] = max(NEVER, u.forward[b, p] + least)
    return found


@entry
def follow(states, u_row, u, v, moves, after, images, limit_ns):
    """Extends states of one configuration of u by all configurations of its consumer v.

    Args:
        states: (states, `state_size`).
        u_row: Number of the configuration.
        u: Work of the producer.
        v: Work of the consumer.
        moves: Between them.
        after: As from `between`, of v.
        images: (configs of v, devices). How devices are renamed for each configuration.
        limit_ns: Step time that strategies must be able to beat.

    Returns:
        New states; for each the number of the state that it follows, and the configuration of v.
    """
    width = v.devices.shape[1]
    new = np.zeros(states.shape[1], np.int64)
    rows = np.empty((1024, states.shape[1]), np.int64)
    came = np.empty((1024, 2), np.int64)
    count = 0
    for number in range(len(states)):
        for a in range(len(v.devices)):
            _set_starts(states[number], u_row, u, a, v, moves, new)
            _set_rests(states[number], u_row, a, v, moves, new)
            _set_work(states[number], u_row, u, a, v, moves, new)
            if bound_ns(new, a, v.devices, after) >= limit_ns:
                continue
            if count == len(rows):
                rows = np.concatenate((rows, np.empty_like(rows)))
                came = np.concatenate((came, np.empty_like(came)))
            _rename(new, images[a], width, rows[count])
            came[count, 0] = number
            came[count, 1] = a
            count += 1
    return rows[:count], came[:count]


@entry
def bound_ns(state, a, devices, after):
    """Least step time of strategies that begin with a state in which an operator has config a."""
    width = devices.shape[1]
    start, rest, _, _, _, _, span = fields(state, width)
    least = 0
    first_back = 1 << 60
    for r in range(width):
        if devices[a, r] < 0:
            continue
        back = NEVER
        for q in range(width):
            if devices[a, q] >= 0:
                back = max(back, start[q] + after[a, q, r])
        least = max(least, back + rest[r])
        first_back = min(first_back, back)
    return max(least, first_back + span[0])


@entry
def _set_starts(state, b, u, a, v, moves, new):
    width = v.devices.shape[1]
    before = fields(state, width)[0]
    start = fields(new, width)[0]
    for q in range(width):
        start[q] = 0
        if v.devices[a, q] < 0:
            continue
        for p in range(width):
            if moves.there[b, a, p, q] >= 0:
                end = before[p] + u.forward[b, p]
                start[q] = max(start[q], end + moves.there[b, a, p, q])


@entry
def _set_rests(state, b, a, v, moves, new):
    width = v.devices.shape[1]
    _, rest_u, then_u, delayed_u, load_u, _, _ = fields(state, width)
    _, rest, then, delayed, load, _, _ = fields(new, width)
    for q in range(width):
        home = v.devices[a, q]
        rest[q] = 0
        then[q] = 0
        delayed[q] = 0
        load[q] = 0
        if home < 0:
            continue
        gradient, update = v.gradient[a, q], v.update[a, q]
        longest = gradient + v.reduce_path[a, q] + update
        for p in range(width):
            if moves.back[b, a, q, p] >= 0:
                longest = max(longest, moves.back[b, a, q, p] + rest_u[p])
                for d in range(width):
                    then[q, d] = max(then[q, d], then_u[p, d])
                    delayed[q, d] = max(delayed[q, d], delayed_u[p, d])
                    load[q, d] = max(load[q, d], load_u[p, d])
        for d in range(width):
            if d != home:
                longest = max(longest, then[q, d])
        longest = max(longest, gradient + then[q, home])
        others = 0
        if not v.reduces[a, q]:
            others = update + delayed[q, home]
            longest = max(longest, gradient + others)
        own = v.busy[a, q] + gradient
        load[q, home] += own + update
        delayed[q, home] = max(own + max(then[q, home], others), load[q, home])
        rest[q] = max(v.backward[a, q] + longest, delayed[q, home])
        then[q, home] = rest[q]


@entry
def _set_work(state, b, u, a, v, moves, new):
    width = v.devices.shape[1]
    _, _, _, _, _, work_u, span_u = fields(state, width)
    _, _, _, _, _, work, span = fields(new, width)
    waits = True
    for p in range(width):
        read = u.devices[b, p] < 0
        for q in range(width):
            read = read or moves.back[b, a, q, p] >= 0
        waits = waits and read
    for d in range(width):
        work[d] = work_u[d] if waits else 0
    first = 1 << 60
    for q in range(width):
        d = v.devices[a, q]
        if d >= 0:
            first = min(first, v.backward[a, q])
            work[d] += v.busy[a, q] + v.gradient[a, q] + v.update[a, q]
    span[0] = first + span_u[0] if waits else 0
    for d in range(width):
        span[0] = max(span[0], work[d])


@entry
def _rename(state, image, width, renamed):
    renamed[:] = state
    _, _, then, delayed, load, work, _ = fields(state, width)
    _, _, then_new, delayed_new, load_new, work_new, _ = fields(renamed, width)
    for d in range(width):
        work_new[image[d]] = work[d]
        for q in range(width):
            then_new[q, image[d]] = then[q, d]
            delayed_new[q, image[d]] = delayed[q, d]
            load_new[q, image[d]] = load[q, d]
