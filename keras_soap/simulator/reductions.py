"""What a reduction costs on given devices; agrees with `tasks/all_reduce.plan`.

1. Of each way to reduce there is a *summary*: how many nodes there are, how many devices the
   largest of them has, then for each phase its largest latency and, for each class of links, the
   most chunks that one of them carries in a round.
2. Between devices whose numbers follow each other, summary and links are looked up from the second
   time on; `State.pattern` says where they are.
"""

from keras_soap.jit import inline, njit
from keras_soap.simulator.arena import INT_ROWS, take
from keras_soap.simulator.layout import NEED, NEED_SCRATCH
from keras_soap.tasks.all_reduce import DIRECT_BYTES

MAX_LINK_CLASSES = 16
SPECIFIC = 1 << 40
"""Offset of a list that is still in scratch; `blocks` moves it to `ints`."""

# Ways to reduce, by their row of `State.pattern`; its row NUM_WAYS has numbers of nodes.
RING, DIRECT, NODES_RING, NODES_DIRECT, NODES_GATHER, NUM_WAYS = range(6)

_LISTED = 1 << 32
"""Added to the count of a link that is in the list."""


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
def _group(machine, state, count):
    """Groups the devices of scratch[0] by node, in the order of the first device of each.

    They are listed behind themselves, and behind that is where each node's begin.

    Returns:
        The number of nodes; 0 if all devices are of one node, or each of a node of its own.
    """
    devices, sizes = state.scratch[0], state.scratch[1]
    begins = 2 * count
    num_nodes = 0
    for i in range(count):
        node = machine.device_node[devices[i]]
        if sizes[node] == 0:
            devices[begins + num_nodes] = node
            num_nodes += 1
        sizes[node] += 1
    begin = count
    for i in range(num_nodes):
        node = devices[begins + i]
        devices[begins + i] = begin
        begin += sizes[node]
        sizes[node] = devices[begins + i]
    devices[begins + num_nodes] = begin
    for i in range(count):
        node = machine.device_node[devices[i]]
        devices[sizes[node]] = devices[i]
        sizes[node] += 1
    for i in range(count):
        sizes[machine.device_node[devices[i]]] = 0
    return num_nodes if 1 < num_nodes < count else 0


@inline
def _use(machine, state, source, destination, chunks, used, found, latency):
    """Adds a move of `chunks` to the counts of its links, and those that are new to the list.

    Returns:
        The number of links in the list, and the largest latency so far.
    """
    route = source * machine.num_devices + destination
    latency = max(latency, machine.class_latency[machine.route_class[route]])
    for k in range(machine.route_offsets[route], machine.route_offsets[route + 1]):
        link = state.ints[k]
        if state.scratch[1, link] == 0:
            state.scratch[2, used + 1 + found] = link
            found += 1
            state.scratch[1, link] = _LISTED
        state.scratch[1, link] += chunks
    return found, latency


@njit
def _end_phase(machine, state, used, found, latency, at):
    """Writes what the summary says of a phase; gives where that of the next begins."""
    summary, counts, links = state.scratch[0], state.scratch[1], state.scratch[2]
    summary[at] = latency
    at += 1
    for of in range(len(machine.link_bandwidth)):
        summary[at + of] = 0
    for k in range(used + 1, used + 1 + found):
        of = at + machine.link_class[links[k]]
        summary[of] = max(summary[of], counts[links[k]] - _LISTED)
        counts[links[k]] = _LISTED
    return at + len(machine.link_bandwidth)


@njit
def _flat(machine, state, count, way, used, at):
    """The phase of all devices alike. Returns as `_inside`."""
    devices = state.scratch[0]
    found, latency = 0, 0
    for i in range(count):
        for step in range(1, count if way == DIRECT else 2):
            a, b = devices[i], devices[(i + step) % count]
            found, latency = _use(machine, state, a, b, 1, used, found, latency)
    return found, _end_phase(machine, state, used, found, latency, at)


@njit
def _inside(machine, state, begins, num_nodes, num_chunks, back, used, found, at):
    """The phase in which devices send chunks to the owners in their node, or owners send them back.

    Returns:
        The number of links in the list, and where the summary of the next phase begins.
    """
    devices = state.scratch[0]
    latency = 0
    for node in range(begins, begins + num_nodes):
        first, size = devices[node], devices[node + 1] - devices[node]
        for owner in range(min(size, num_chunks)):
            chunks = (num_chunks - owner + size - 1) // size
            for step in range(1, size):
                a, b = devices[first + (owner + step) % size], devices[first + owner]
                if back:
                    a, b = b, a
                found, latency = _use(machine, state, a, b, chunks, used, found, latency)
    return found, _end_phase(machine, state, used, found, latency, at)


@njit
def _across(machine, state, begins, num_nodes, num_chunks, way, used, found, at):
    """The phase among the owners of each chunk. Returns as `_inside`."""
    devices = state.scratch[0]
    latency = 0
    for chunk in range(num_chunks):
        for here in range(num_nodes):
            first, size = (
                devices[begins + here],
                devices[begins + here + 1] - devices[begins + here],
            )
            a = devices[first + chunk % size]
            for step in range(1, num_nodes if way == NODES_DIRECT else 2):
                there = begins + (here + step) % num_nodes
                first, size = devices[there], devices[there + 1] - devices[there]
                b = devices[first + chunk % size]
                found, latency = _use(machine, state, a, b, 1, used, found, latency)
    return found, _end_phase(machine, state, used, found, latency, at)


@njit
def _send_once(machine, state, begins, num_nodes, used, at):
    """The phase of a gather that reaches every node. Returns as `_inside`."""
    devices = state.scratch[0]
    found, latency = 0, 0
    for here in range(begins, begins + num_nodes):
        for source in range(devices[here], devices[here + 1]):
            for there in range(begins, begins + num_nodes):
                first, end = devices[there], devices[there + 1]
                if there != here:
                    first += (source - devices[here]) % (end - first)
                    end = first + 1
                for receiver in range(first, end):
                    if receiver != source:
                        a, b = devices[source], devices[receiver]
                        found, latency = _use(machine, state, a, b, 1, used, found, latency)
    return found, _end_phase(machine, state, used, found, latency, at)


@njit
def _pass_on(machine, state, begins, num_nodes, used, found, at):
    """The phase of a gather in which nodes share what they received. Returns as `_inside`."""
    devices = state.scratch[0]
    latency = 0
    for here in range(begins, begins + num_nodes):
        first, size = devices[here], devices[here + 1] - devices[here]
        for receiver in range(size):
            chunks = 0
            for there in range(begins, begins + num_nodes):
                if there != here:
                    chunks += (devices[there + 1] - devices[there] - receiver + size - 1) // size
            if chunks:
                for step in range(1, size):
                    a, b = devices[first + receiver], devices[first + (receiver + step) % size]
                    found, latency = _use(machine, state, a, b, chunks, used, found, latency)
    return found, _end_phase(machine, state, used, found, latency, at)


@njit
def _find(machine, state, count, num_nodes, way, used):
    """Lists the links of a way to reduce over scratch[0] in scratch[2], their number at `used`.

    Its summary is put into scratch[0], at `3 * count + 2`. Ways by node are over what `_group` has
    grouped.
    """
    summary, counts, links = state.scratch[0], state.scratch[1], state.scratch[2]
    begins, at = 2 * count, 3 * count + 2
    num_chunks = 1
    if way == NODES_RING:
        for node in range(begins, begins + num_nodes):
            num_chunks = max(num_chunks, summary[node + 1] - summary[node])
    summary[at] = num_nodes
    summary[at + 1] = num_chunks
    at += 2
    if way == RING or way == DIRECT:
        found, at = _flat(machine, state, count, way, used, at)
    elif way == NODES_GATHER:
        found, at = _send_once(machine, state, begins, num_nodes, used, at)
        found, at = _pass_on(machine, state, begins, num_nodes, used, found, at)
    else:
        found, at = _inside(machine, state, begins, num_nodes, num_chunks, False, used, 0, at)
        found, at = _across(machine, state, begins, num_nodes, num_chunks, way, used, found, at)
        found, at = _inside(machine, state, begins, num_nodes, num_chunks, True, used, found, at)
    for k in range(used + 1, used + 1 + found):
        counts[links[k]] = 0
    links[used] = found


@njit
def _phase_ns(machine, summary, phase, num_rounds, num_bytes):
    """Time of a phase whose chunks have `num_bytes` at most."""
    classes = len(machine.link_bandwidth)
    at = 2 + phase * (1 + classes)
    slowest = 0
    for of in range(classes):
        if summary[at + 1 + of]:
            slowest = max(slowest, carry_ns(machine, of, summary[at + 1 + of] * num_bytes))
    return num_rounds * (summary[at] + slowest)


@njit
def _time_ns(machine, summary, count, way, elements, element_bytes):
    """Time of a way to reduce that has a summary."""
    num_nodes, num_chunks = summary[0], summary[1]
    num_bytes = elements * element_bytes
    if way == RING:
        return _phase_ns(
            machine, summary, 0, 2 * (count - 1), -(-elements // count) * element_bytes
        )
    if way == DIRECT:
        return _phase_ns(machine, summary, 0, 1, num_bytes)
    if way == NODES_GATHER:
        return _phase_ns(machine, summary, 0, 1, num_bytes) + _phase_ns(
            machine, summary, 1, 1, num_bytes
        )
    chunk = -(-elements // num_chunks)
    rounds, piece = 1, chunk
    if way == NODES_RING:
        rounds, piece = 2 * (num_nodes - 1), -(-chunk // num_nodes)
    return (
        _phase_ns(machine, summary, 0, 1, chunk * element_bytes)
        + _phase_ns(machine, summary, 1, rounds, piece * element_bytes)
        + _phase_ns(machine, summary, 2, 1, chunk * element_bytes)
    )


@njit
def _looked_up(machine, state, count, num_nodes, way, used):
    """Where `ints` has the links of a way between neighbours, then its summary; -1: no space."""
    at = state.scratch[0, 0] * (machine.num_devices + 1) + count
    first = state.pattern[way, at]
    if first >= 0:
        return first
    if num_nodes:
        _group(machine, state, count)
    _find(machine, state, count, num_nodes, way, used)
    found = state.scratch[2, used]
    size = 2 + 3 * (1 + len(machine.link_bandwidth))
    first = take(state, INT_ROWS, 1 + found + size)
    if first < 0:
        return -1
    for k in range(1 + found):
        state.ints[first + k] = state.scratch[2, used + k]
    for k in range(size):
        state.ints[first + 1 + found + k] = state.scratch[0, 3 * count + 2 + k]
    state.pattern[way, at] = first
    return first


@njit
def _num_nodes(machine, state, count, follows):
    """As `_group`, looked up where it can be."""
    if machine.num_nodes == 1 or machine.num_nodes == machine.num_devices:
        return 0
    if not follows:
        return _group(machine, state, count)
    at = state.scratch[0, 0] * (machine.num_devices + 1) + count
    if state.pattern[NUM_WAYS, at] < 0:
        state.pattern[NUM_WAYS, at] = _group(machine, state, count)
    return state.pattern[NUM_WAYS, at]


@njit
def cost(machine, state, count, elements, element_bytes, gathers, used):
    """Cost of a reduction over the `count` devices in scratch[0].

    Returns:
        Its time (-1: an array must grow), its list of links (`-1 - offset`), the bytes that it
        moves, and what is used of scratch[2] then.
    """
    num_bytes = elements * element_bytes
    if used + 2 * machine.num_resources + 2 > len(state.scratch[2]):
        state.scalar[NEED] = NEED_SCRATCH
        return -1, 0, 0, used
    follows = state.scratch[0, count - 1] - state.scratch[0, 0] == count - 1
    num_nodes = _num_nodes(machine, state, count, follows)
    flat = DIRECT if gathers or (count - 1) * num_bytes <= DIRECT_BYTES else RING
    by_node = NODES_RING
    if gathers:
        by_node = NODES_GATHER
    elif (num_nodes - 1) * num_bytes <= DIRECT_BYTES:
        by_node = NODES_DIRECT
    best, best_way, links, end = -1, flat, 0, used
    for attempt in range(2 if num_nodes else 1):
        way = by_node if attempt else flat
        if follows:
            first = _looked_up(machine, state, count, num_nodes if attempt else 0, way, used)
            if first < 0:
                return -1, 0, 0, used
            summary = state.ints[first + 1 + state.ints[first] :]
            time = _time_ns(machine, summary, count, way, elements, element_bytes)
            if best < 0 or time < best:
                best, best_way, links = time, way, -1 - first
        else:
            _find(machine, state, count, num_nodes, way, end)
            specific = state.scratch[0, 3 * count + 2 :]
            time = _time_ns(machine, specific, count, way, elements, element_bytes)
            if best < 0 or time < best:
                best, best_way, links = time, way, -1 - (SPECIFIC + used)
                found = state.scratch[2, end]
                if attempt:
                    for k in range(1 + found):
                        state.scratch[2, used + k] = state.scratch[2, end + k]
                end = used + 1 + found
    moved = 2 * (count - 1) * num_bytes
    if best_way == DIRECT or best_way == NODES_GATHER:
        moved = count * (count - 1) * num_bytes
    elif best_way == NODES_DIRECT:
        moved = (2 * (count - num_nodes) + num_nodes * (num_nodes - 1)) * num_bytes
    return best, links, moved, end
