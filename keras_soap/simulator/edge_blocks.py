"""Builds the pairs of parts of one edge, by consumer; agrees with `tasks/build.py`."""

from keras_soap.jit import njit
from keras_soap.simulator.arena import INT_ROWS, PAIR_ROWS, give_back, take
from keras_soap.simulator.layout import (
    AT_CONFIG,
    AT_DEVICES,
    BY_CONSUMER,
    BY_PRODUCER,
    CONFIG_PARTS,
    CONFIG_REGION,
    CONSUMER_LIST,
    EDGE_BEFORE,
    EDGE_BLOCK_B,
    EDGE_BLOCK_F,
    EDGE_BYTES,
    EDGE_CONSUMER,
    EDGE_DIMENSIONS,
    EDGE_GRADIENT,
    EDGE_PRODUCER,
    EDGE_RANK,
    EDGE_REGION,
    INDEX_MASK,
    LINKS_BITS,
    LINKS_MASK,
    MOST_PAIRS,
    NEED,
    NEED_FEWER,
    NEVER,
    NEW_MOVED_BYTES,
    NEW_NUM_ROWS,
    NUM_PAIRS,
    P_BYTES,
    P_LINKS,
    P_LINKS_B,
    P_PARTS,
    P_TIME,
    P_TIME_B,
    PAIR_BYTES,
    PAIR_CONSUMERS,
    PAIR_INTS,
    PAIR_LIST,
    PAIR_MIN_B,
    PAIR_MIN_F,
    PAIR_PRODUCERS,
    PAIRS,
)
from keras_soap.simulator.reductions import transfer_ns


@njit
def build_edge(machine, model, tables, state, e):
    """Makes all pairs of edge `e`; see `tasks/overlap.py`. False if that needs what `NEED` says."""
    edge, at = model.edge[e], state.edge[e]
    producer, consumer = edge[EDGE_PRODUCER], edge[EDGE_CONSUMER]
    config = tables.config[state.op[producer, AT_CONFIG]]
    reads = tables.config[state.op[consumer, AT_CONFIG]]
    degrees = tables.degrees[state.op[producer, AT_CONFIG]]
    parts, readers = config[CONFIG_PARTS], reads[CONFIG_PARTS]
    sources = state.op[producer, AT_DEVICES]
    targets = state.op[consumer, AT_DEVICES]
    rank = edge[EDGE_RANK]
    regions, ints = tables.regions, state.ints
    cell, stride, first, last = state.axes[0], state.axes[1], state.axes[2], state.axes[3]
    index, low, high = state.axes[4], state.axes[5], state.axes[6]
    for axis in range(rank):
        cell[axis] = model.shape[e, axis]
        stride[axis] = 0
    after = parts
    copies = 1
    for dimension in range(edge[EDGE_DIMENSIONS]):
        axis = model.axis[e, dimension]
        after //= degrees[dimension]
        if axis < 0:
            copies *= degrees[dimension]
            continue
        cell[axis] = max(model.shape[e, axis] // degrees[dimension], 1)
        stride[axis] = after
    at[NUM_PAIRS] = -1
    at[PAIR_INTS] = 0
    # Count, so that the rows can be taken.
    base = reads[CONFIG_REGION] + 2 * readers * edge[EDGE_REGION]
    total = 0
    for c in range(readers):
        count = 1
        for axis in range(rank):
            start = regions[base + 2 * (c * rank + axis)]
            stop = regions[base + 2 * (c * rank + axis) + 1]
            if start >= stop:
                count = 0
            elif stride[axis] or cell[axis] < model.shape[e, axis]:
                count *= (stop - 1) // cell[axis] - start // cell[axis] + 1
        total += count
    if total > state.scalar[MOST_PAIRS]:
        state.scalar[NEED] = NEED_FEWER
        return False
    row = take(state, PAIR_ROWS, total)
    if row < 0:
        return False
    at[PAIRS] = row
    at[NUM_PAIRS] = total
    size = readers + 1 + parts + 1 + 2 * total
    by_consumer = take(state, INT_ROWS, size)
    if by_consumer < 0:
        return False
    at[PAIR_INTS] = size
    at[BY_CONSUMER] = by_consumer
    by_producer = by_consumer + readers + 1
    at[BY_PRODUCER] = by_producer
    at[PAIR_LIST] = by_producer + parts + 1
    at[CONSUMER_LIST] = at[PAIR_LIST] + total
    of_part = 1
    for axis in range(rank):
        of_part *= cell[axis]
    for p in range(parts + 1):
        ints[by_producer + p] = 0
    for p in range(parts):
        state.returned[p] = edge[EDGE_BEFORE] * of_part
    pair, task_bytes = state.pair, edge[EDGE_BYTES]
    moved, min_f, min_b = 0, NEVER, NEVER
    all_read = True
    known_bytes, known_class, known_time = -1, -1, 0
    known_bytes_b, known_class_b, known_time_b = -1, -1, 0
    gradient = edge[EDGE_GRADIENT]
    memory = state.memory[1]
    number = row
    for c in range(readers):
        ints[by_consumer + c] = number - row
        empty = False
        for axis in range(rank):
            low[axis] = regions[base + 2 * (c * rank + axis)]
            high[axis] = regions[base + 2 * (c * rank + axis) + 1]
            if low[axis] >= high[axis]:
                empty = True
            else:
                first[axis] = low[axis] // cell[axis]
                last[axis] = (high[axis] - 1) // cell[axis]
                index[axis] = first[axis]
        if empty:
            all_read = False
            continue
        target = int(ints[targets + c])
        offset = 0
        if copies > 1:
            offset = _copy(model.axis[e], degrees, edge[EDGE_DIMENSIONS], c * copies // readers)
        while True:
            p = offset
            elements = 1
            for axis in range(rank):
                i = index[axis]
                p += i * stride[axis]
                elements *= min(high[axis], (i + 1) * cell[axis]) - max(low[axis], i * cell[axis])
            num_bytes = elements * task_bytes
            source = int(ints[sources + p])
            pair[number, P_PARTS] = p << 32 | c
            ints[by_producer + p] += 1
            route = source * machine.num_devices + target
            there, back = num_bytes, num_bytes
            if machine.route_offsets[route] == machine.route_offsets[route + 1]:
                there, back = 0, 0
            elif machine.compute[source] == machine.compute[target]:
                there, back = _copied(cell, index, low, high, rank)
                there *= num_bytes
                back *= num_bytes
                if gradient:
                    so_far = state.returned[p]
                    added = _halves(so_far + elements, of_part) - _halves(so_far, of_part)
                    back += added * task_bytes // 2
            state.returned[p] += elements
            if source == target and there + back == 0:
                pair[number, P_TIME] = -1
                pair[number, P_TIME_B] = -1
                pair[number, P_BYTES] = 0
                min_f = 0
                min_b = 0
            else:
                if source == target:
                    num_bytes = 0
                if there != known_bytes or machine.route_class[route] != known_class:
                    known_bytes, known_class = there, machine.route_class[route]
                    known_time = transfer_ns(machine, route, there)
                pair[number, P_TIME] = known_time
                pair[number, P_LINKS] = links_of(machine.route_offsets, route)
                pair[number, P_BYTES] = num_bytes
                moved += num_bytes
                min_f = min(min_f, known_time)
                memory[target] += num_bytes
                if gradient:
                    route = target * machine.num_devices + source
                    if back != known_bytes_b or machine.route_class[route] != known_class_b:
                        known_bytes_b, known_class_b = back, machine.route_class[route]
                        known_time_b = transfer_ns(machine, route, back)
                    pair[number, P_TIME_B] = known_time_b
                    pair[number, P_LINKS_B] = links_of(machine.route_offsets, route)
                    moved += num_bytes
                    min_b = min(min_b, known_time_b)
            number += 1
            axis = rank - 1
            while axis >= 0:
                index[axis] += 1
                if index[axis] <= last[axis]:
                    break
                index[axis] = first[axis]
                axis -= 1
            if axis < 0:
                break
    ints[by_consumer + readers] = number - row
    at[PAIR_BYTES] = moved
    at[PAIR_MIN_F] = min_f
    at[PAIR_MIN_B] = min_b
    at[PAIR_CONSUMERS] = 1 if all_read else 0
    at[PAIR_PRODUCERS] = 1
    # Counting sort by producer.
    begin = 0
    for p in range(parts):
        count = ints[by_producer + p]
        if count == 0:
            at[PAIR_PRODUCERS] = 0
        ints[by_producer + p] = begin
        begin += count
    listed = at[PAIR_LIST]
    for k in range(total):
        p, c = pair[row + k, P_PARTS] >> 32, pair[row + k, P_PARTS] & INDEX_MASK
        together = pair[row + k, P_TIME] < 0
        ints[at[CONSUMER_LIST] + k] = ~p if together else k
        ints[listed + ints[by_producer + p]] = ~c if together else k
        ints[by_producer + p] += 1
    for p in range(parts, 0, -1):
        ints[by_producer + p] = ints[by_producer + p - 1]
    ints[by_producer] = 0
    state.block_row[edge[EDGE_BLOCK_F]] = row
    state.block_row[edge[EDGE_BLOCK_B]] = row
    state.scalar[NEW_MOVED_BYTES] += moved
    state.scalar[NEW_NUM_ROWS] += 2 * total
    return True


@njit
def links_of(route_offsets, route):
    """The links of a route, as `P_LINKS` has them."""
    first = route_offsets[route]
    return first << LINKS_BITS | (route_offsets[route + 1] - first)


@njit
def _copy(axes, degrees, dimensions, copy):
    """First part that makes copy number `copy` of a tensor; see `tasks/overlap.py`."""
    part, after = 0, 1
    for dimension in range(dimensions - 1, -1, -1):
        if axes[dimension] < 0:
            part += copy % degrees[dimension] * after
            copy //= degrees[dimension]
        after *= degrees[dimension]
    return part


@njit
def _copied(cell, index, low, high, rank):
    """How often a piece is copied, there and back; see `tasks/overlap.py`.

    Its producer makes cell `index`, and its consumer reads from `low` to `high`.
    """
    there, back = 0, 0
    is_all_made, is_all_read = True, True
    for axis in range(rank):
        start, stop = index[axis] * cell[axis], (index[axis] + 1) * cell[axis]
        if low[axis] > start or high[axis] < stop:
            is_all_made = False
            if axis:
                there = 1
        if low[axis] < start or high[axis] > stop:
            is_all_read = False
            if axis:
                back = 1
    return there + (not is_all_read), back + (not is_all_made)


@njit
def _halves(elements, of_part):
    """What adds up gradients of so many elements for a part; see `tasks/overlap.py`."""
    once, twice = max(elements - of_part, 0), max(elements - 2 * of_part, 0)
    return 3 * (once - twice) + twice


@njit
def free_edge(state, at):
    """Gives back what `build_edge` took."""
    if at[NUM_PAIRS] >= 0:
        give_back(state, PAIR_ROWS, at[PAIRS], at[NUM_PAIRS])
    if at[PAIR_INTS]:
        give_back(state, INT_ROWS, at[BY_CONSUMER], at[PAIR_INTS])


@njit
def weigh_edge(machine, model, state, e, sign, remember):
    """Adds the transfers of edge `e` to the loads proposed, or takes them away.

    With `remember`, memory and bytes moved too, which `build_edge` has added already.

    Returns:
        The largest of the loads of its links, cores that copy aside: they may have capacities.
    """
    longest = 0
    at = state.edge[e]
    pair, ints, load, memory = state.pair, state.ints, state.load[1], state.memory[1]
    gradient = model.edge[e, EDGE_GRADIENT]
    targets = state.op[model.edge[e, EDGE_CONSUMER], AT_DEVICES]
    for k in range(at[PAIRS], at[PAIRS] + at[NUM_PAIRS]):
        if pair[k, P_TIME] < 0:
            continue
        first = pair[k, P_LINKS] >> LINKS_BITS
        for link in range(first, first + (pair[k, P_LINKS] & LINKS_MASK)):
            load[ints[link]] += sign * pair[k, P_TIME]
            if ints[link] >= machine.num_devices:
                longest = max(longest, load[ints[link]])
        if gradient:
            first = pair[k, P_LINKS_B] >> LINKS_BITS
            for link in range(first, first + (pair[k, P_LINKS_B] & LINKS_MASK)):
                load[ints[link]] += sign * pair[k, P_TIME_B]
                if ints[link] >= machine.num_devices:
                    longest = max(longest, load[ints[link]])
        if remember:
            memory[ints[targets + (pair[k, P_PARTS] & INDEX_MASK)]] += sign * pair[k, P_BYTES]
    if remember:
        state.scalar[NEW_MOVED_BYTES] += sign * at[PAIR_BYTES]
        state.scalar[NEW_NUM_ROWS] += sign * 2 * at[NUM_PAIRS]
    return longest
