"""What a reduction costs on given devices; agrees with `tasks/all_reduce.cost`.

Between devices whose numbers follow each other the links are looked up from the second time on.
"""

from keras_soap.jit import njit
from keras_soap.simulator.arena import INT_ROWS, take
from keras_soap.simulator.layout import NEED, NEED_SCRATCH
from keras_soap.tasks.all_reduce import DIRECT_BYTES

MAX_LINK_CLASSES = 16
SPECIFIC = 1 << 40
"""Offset of a list that is still in scratch; `blocks` moves it to `ints`."""


@njit
def carry_ns(machine, link_class, num_bytes):
    """Time of `num_bytes` on a link, rounded up."""
    return -int(-num_bytes * 1e9 // machine.link_bandwidth[link_class])


@njit
def transfer_ns(machine, route, num_bytes):
    """Time of a transfer over a route; as `Route.time_ns`."""
    of = machine.route_class[route]
    return machine.class_latency[of] + -int(-num_bytes * 1e9 // machine.class_bandwidth[of])


@njit
def sort_members(state, members, first, count, devices, num_devices):
    """Puts the devices of parts `members[first:first + count]` into scratch[0], ascending."""
    order = state.scratch[0]
    if count <= 24:
        for i in range(count):
            device = devices[members[first + i]]
            j = i
            while j > 0 and order[j - 1] > device:
                order[j] = order[j - 1]
                j -= 1
            order[j] = device
    else:
        marks = state.scratch[1]
        for i in range(count):
            marks[devices[members[first + i]]] = 1
        j = 0
        for device in range(num_devices):
            if marks[device]:
                marks[device] = 0
                order[j] = device
                j += 1


@njit
def _find_links(machine, state, count, direct, used):
    """Counts uses of each link by the pairs of scratch[0] into scratch[1], lists links at `used`.

    Links are listed in scratch[2] from `used` + 1. Gives the largest latency and the number of
    links, or -1 of them if scratch is too short. Sets scratch[1] back to 0, after noting the
    largest count for each class of links behind the list.
    """
    devices, uses, links = state.scratch[0], state.scratch[1], state.scratch[2]
    latency = 0
    found = 0
    for i in range(count):
        for j in range(count if direct else 1):
            other = j if direct else (i + 1) % count
            if other == i:
                continue
            route = devices[i] * machine.num_devices + devices[other]
            latency = max(latency, machine.class_latency[machine.route_class[route]])
            for k in range(machine.route_offsets[route], machine.route_offsets[route + 1]):
                link = state.ints[k]
                if uses[link] == 0:
                    if used + found + 2 + MAX_LINK_CLASSES > len(links):
                        for done in range(found):
                            uses[links[used + 1 + done]] = 0
                        return 0, -1
                    links[used + 1 + found] = link
                    found += 1
                uses[link] += 1
    links[used] = found
    for of in range(len(machine.link_bandwidth)):
        links[used + 1 + found + of] = 0
    for k in range(used + 1, used + 1 + found):
        at = used + 1 + found + machine.link_class[links[k]]
        links[at] = max(links[at], uses[links[k]])
        uses[links[k]] = 0
    return latency, found


@njit
def cost(machine, state, count, elements, element_bytes, gathers, used):
    """Cost of a reduction over the `count` devices in scratch[0].

    Returns:
        Its time (-1: an array must grow), its list of links (`-1 - offset`), the bytes that it
        moves, and what is used of scratch[2] then.
    """
    num_bytes = elements * element_bytes
    direct = gathers != 0 or (count - 1) * num_bytes <= DIRECT_BYTES
    if direct:
        rounds, each, total = 1, num_bytes, num_bytes * count * (count - 1)
    else:
        rounds = 2 * (count - 1)
        each = -(-elements // count) * element_bytes
        total = rounds * num_bytes
    classes = len(machine.link_bandwidth)
    start = state.scratch[0, 0]
    slowest = 0
    if state.scratch[0, count - 1] - start == count - 1:
        mode = 1 if direct else 0
        at = start * (machine.num_devices + 1) + count
        first = state.pattern[mode, at]
        if first < 0:
            latency, found = _find_links(machine, state, count, direct, used)
            if found < 0:
                state.scalar[NEED] = NEED_SCRATCH
                return -1, 0, 0, used
            first = take(state, INT_ROWS, found + 2 + classes)
            if first < 0:
                return -1, 0, 0, used
            state.ints[first] = found
            for k in range(found + classes):
                state.ints[first + 1 + k] = state.scratch[2, used + 1 + k]
            state.ints[first + 1 + found + classes] = latency
            state.pattern[mode, at] = first
        found = state.ints[first]
        for of in range(classes):
            uses = state.ints[first + 1 + found + of]
            if uses:
                slowest = max(slowest, carry_ns(machine, of, uses * each))
        latency = state.ints[first + 1 + found + classes]
        return rounds * (latency + slowest), -1 - first, total, used
    latency, found = _find_links(machine, state, count, direct, used)
    if found < 0:
        state.scalar[NEED] = NEED_SCRATCH
        return -1, 0, 0, used
    for of in range(classes):
        uses = state.scratch[2, used + 1 + found + of]
        if uses:
            slowest = max(slowest, carry_ns(machine, of, uses * each))
    return rounds * (latency + slowest), -1 - (SPECIFIC + used), total, used + 1 + found
