"""Builds the blocks of one operator or edge from `Tables`; agrees with `tasks/build.py`.

1. Task indices of a forward or backward block: stage s of part p is s · width + p, the combine of
   group g after stage s is s · width + parts + g. Groups of one part have no task. In a backward
   block the tasks for the gradients of weights come behind all stages, part by part.
2. Of a synchronization block: reductions in their order, then for each part its update.
3. Of a report block: for each part its transfer. Of an edge: its pairs, by consumer.
"""

from keras_soap.jit import njit
from keras_soap.simulator.arena import INT_ROWS, PAIR_ROWS, TASK_ROWS, give_back, take
from keras_soap.simulator.layout import (
    AT_BYTES,
    AT_CONFIG,
    AT_DEVICES,
    AT_INTS,
    AT_MIN_B,
    AT_MIN_F,
    AT_NUM_TASKS,
    AT_TASKS,
    BY_CONSUMER,
    BY_PRODUCER,
    COMB_COUNT,
    COMB_REDUCTION,
    COMB_SUMS,
    CONFIG_COMBINE,
    CONFIG_PARTS,
    CONFIG_REDUCTION,
    CONFIG_REDUCTIONS,
    CONFIG_REGION,
    CONFIG_ROW,
    CONFIG_STAGES,
    CONFIG_WIDTH,
    CONSUMER_LIST,
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
    OP_BACKWARD,
    OP_BLOCK_B,
    OP_BLOCK_F,
    OP_BLOCK_R,
    OP_BLOCK_S,
    OP_FIRST,
    OP_REPORT_BYTES,
    OP_SHARERS,
    OP_SHARERS_END,
    OP_WEIGHTS,
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
    RED_BYTES,
    RED_COUNT,
    RED_ELEMENTS,
    RED_GATHERS,
    RED_MEMBERS,
    RESOURCE,
    ROW_OUTPUTS,
    ROW_TIMES,
    ROW_WEIGHTS,
    TIME,
    TIME_B,
    TIME_F,
    TIME_U,
    TIME_W,
    TIMES_PER_CLASS,
)
from keras_soap.simulator.reductions import SPECIFIC, cost, sort_members, transfer_ns

_REPORT_DEVICE = 0


@njit
def set_block_rows(model, tables, state, n):
    """Notes where the blocks of operator `n` begin."""
    config = tables.config[state.op[n, AT_CONFIG]]
    stages = config[CONFIG_STAGES] * config[CONFIG_WIDTH]
    row = state.op[n, AT_TASKS]
    state.block_row[model.op[n, OP_BLOCK_F]] = row
    row += stages
    if model.op[n, OP_BACKWARD]:
        state.block_row[model.op[n, OP_BLOCK_B]] = row
        row += stages
        if model.op[n, OP_WEIGHTS]:
            row += config[CONFIG_PARTS]
    if model.op[n, OP_FIRST] == n:
        state.block_row[model.op[n, OP_BLOCK_S]] = row
        if model.op[n, OP_SHARERS] < model.op[n, OP_SHARERS_END]:
            row += config[CONFIG_REDUCTIONS] + config[CONFIG_PARTS]
    if model.op[n, OP_REPORT_BYTES]:
        state.block_row[model.op[n, OP_BLOCK_R]] = row
        row += config[CONFIG_PARTS]
    return row - state.op[n, AT_TASKS]


@njit
def _reduce(machine, tables, state, reduction, devices, row, used):
    """Makes the task of a reduction; gives the bytes moved (-1: no space) and scratch used."""
    members, count = reduction[RED_MEMBERS], reduction[RED_COUNT]
    sort_members(state, tables.members, members, count, devices, machine.num_devices)
    time, links, moved, used = cost(
        machine,
        state,
        count,
        reduction[RED_ELEMENTS],
        reduction[RED_BYTES],
        reduction[RED_GATHERS],
        used,
    )
    if time < 0:
        return -1, used
    state.task[row, TIME] = time
    state.task[row, RESOURCE] = links
    return moved, used


@njit
def _time(machine, tables, config, part, devices, which):
    """One of the times of a part on its device."""
    column = ROW_TIMES + TIMES_PER_CLASS * machine.device_class[devices[part]] + which
    return tables.row[config[CONFIG_ROW] + part, column]


@njit
def _stages(machine, tables, state, n, row, backward, devices, used):
    """Makes the tasks of the stages of one direction."""
    config = tables.config[state.op[n, AT_CONFIG]]
    parts, stages, width = config[CONFIG_PARTS], config[CONFIG_STAGES], config[CONFIG_WIDTH]
    shortest = 0
    moved = 0
    for stage in range(stages):
        least = NEVER
        for part in range(parts):
            total = _time(machine, tables, config, part, devices, TIME_B if backward else TIME_F)
            time = (stage + 1) * total // stages - stage * total // stages
            state.task[row + part, TIME] = time
            state.task[row + part, RESOURCE] = machine.compute[devices[part]]
            least = min(least, time)
        shortest += least
        for spare in range(row + parts, row + width):
            state.task[spare, TIME] = -1
        if stage < stages - 1:
            at = stages - 2 - stage if backward else stage
            combine = tables.combine[config[CONFIG_COMBINE] + at]
            if not backward or combine[COMB_SUMS]:
                for group in range(combine[COMB_COUNT]):
                    reduction = tables.reduction[combine[COMB_REDUCTION] + group]
                    if reduction[RED_COUNT] > 1:
                        more, used = _reduce(
                            machine, tables, state, reduction, devices, row + parts + group, used
                        )
                        if more < 0:
                            return -1, 0, used
                        moved += more
        row += width
    return moved, shortest, used


@njit
def build_operator(machine, model, tables, state, n):
    """Makes all tasks of operator `n` as wanted. False if an array must grow."""
    at = state.op[n]
    at[AT_CONFIG] = state.wanted_config[n]
    at[AT_NUM_TASKS] = 0
    at[AT_INTS] = 0
    config = tables.config[at[AT_CONFIG]]
    parts = config[CONFIG_PARTS]
    devices = state.wanted_devices[n]
    at[AT_TASKS] = 0
    num_tasks = set_block_rows(model, tables, state, n)
    first = take(state, TASK_ROWS, num_tasks)
    if first < 0:
        return False
    at[AT_TASKS] = first
    at[AT_NUM_TASKS] = num_tasks
    set_block_rows(model, tables, state, n)
    moved, at[AT_MIN_F], used = _stages(machine, tables, state, n, first, 0, devices, 0)
    if moved < 0:
        return False
    at[AT_BYTES] = moved
    at[AT_MIN_B] = 0
    if model.op[n, OP_BACKWARD]:
        row = state.block_row[model.op[n, OP_BLOCK_B]]
        moved, at[AT_MIN_B], used = _stages(machine, tables, state, n, row, 1, devices, used)
        if moved < 0:
            return False
        at[AT_BYTES] += moved
        if model.op[n, OP_WEIGHTS]:
            row += config[CONFIG_STAGES] * config[CONFIG_WIDTH]
            for part in range(parts):
                time = _time(machine, tables, config, part, devices, TIME_W)
                state.task[row + part, TIME] = time
                state.task[row + part, RESOURCE] = machine.compute[devices[part]]
    if model.op[n, OP_FIRST] == n and model.op[n, OP_SHARERS] < model.op[n, OP_SHARERS_END]:
        row = state.block_row[model.op[n, OP_BLOCK_S]]
        for r in range(config[CONFIG_REDUCTIONS]):
            reduction = tables.reduction[config[CONFIG_REDUCTION] + r]
            moved, used = _reduce(machine, tables, state, reduction, devices, row, used)
            if moved < 0:
                return False
            at[AT_BYTES] += moved
            row += 1
        for part in range(parts):
            state.task[row + part, TIME] = _time(machine, tables, config, part, devices, TIME_U)
            state.task[row + part, RESOURCE] = machine.compute[devices[part]]
    num_bytes = model.op[n, OP_REPORT_BYTES]
    if num_bytes:
        row = state.block_row[model.op[n, OP_BLOCK_R]]
        for part in range(parts):
            device = devices[part]
            state.task[row + part, RESOURCE] = device
            if device == _REPORT_DEVICE:
                state.task[row + part, TIME] = -1
            else:
                route = device * machine.num_devices + _REPORT_DEVICE
                state.task[row + part, TIME] = transfer_ns(machine, route, num_bytes)
                at[AT_BYTES] += num_bytes
    base = take(state, INT_ROWS, parts + used)
    if base < 0:
        return False
    at[AT_DEVICES] = base
    at[AT_INTS] = parts + used
    for part in range(parts):
        state.ints[base + part] = devices[part]
    if used:
        for k in range(used):
            state.ints[base + parts + k] = state.scratch[2, k]
        for row in range(first, first + num_tasks):
            if state.task[row, RESOURCE] <= -1 - SPECIFIC:
                state.task[row, RESOURCE] += SPECIFIC - base - parts
    return True


@njit
def free_operator(state, at):
    """Gives back what `build_operator` took."""
    if at[AT_NUM_TASKS]:
        give_back(state, TASK_ROWS, at[AT_TASKS], at[AT_NUM_TASKS])
    if at[AT_INTS]:
        give_back(state, INT_ROWS, at[AT_DEVICES], at[AT_INTS])


@njit
def weigh_operator(machine, model, tables, state, n, sign):
    """Adds the work and the memory of operator `n` to what is proposed, or takes them away."""
    at = state.op[n]
    load, memory = state.load[1], state.memory[1]
    task, ints = state.task, state.ints
    first, num_tasks = at[AT_TASKS], at[AT_NUM_TASKS]
    config = tables.config[at[AT_CONFIG]]
    parts = config[CONFIG_PARTS]
    if model.op[n, OP_REPORT_BYTES]:
        num_tasks -= parts
        for row in range(first + num_tasks, first + num_tasks + parts):
            if task[row, TIME] >= 0:
                route = task[row, RESOURCE] * machine.num_devices + _REPORT_DEVICE
                for k in range(machine.route_offsets[route], machine.route_offsets[route + 1]):
                    load[ints[k]] += sign * task[row, TIME]
    for row in range(first, first + num_tasks):
        time = sign * task[row, TIME]
        if task[row, TIME] < 0:
            continue
        resource = task[row, RESOURCE]
        if resource >= 0:
            load[resource] += time
        else:
            links = -1 - resource
            for k in range(links + 1, links + 1 + ints[links]):
                load[ints[k]] += time
    owns = model.op[n, OP_FIRST] == n
    for part in range(parts):
        row = config[CONFIG_ROW] + part
        num_bytes = tables.row[row, ROW_OUTPUTS]
        if owns:
            num_bytes += tables.row[row, ROW_WEIGHTS]
        memory[ints[at[AT_DEVICES] + part]] += sign * num_bytes
    state.scalar[NEW_MOVED_BYTES] += sign * at[AT_BYTES]
    state.scalar[NEW_NUM_ROWS] += sign * at[AT_NUM_TASKS]


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
    for p in range(parts + 1):
        ints[by_producer + p] = 0
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
            num_bytes = task_bytes
            for axis in range(rank):
                i = index[axis]
                p += i * stride[axis]
                num_bytes *= min(high[axis], (i + 1) * cell[axis]) - max(low[axis], i * cell[axis])
            source = int(ints[sources + p])
            pair[number, P_PARTS] = p << 32 | c
            ints[by_producer + p] += 1
            if source == target:
                pair[number, P_TIME] = -1
                pair[number, P_TIME_B] = -1
                pair[number, P_BYTES] = 0
                min_f = 0
                min_b = 0
            else:
                route = source * machine.num_devices + target
                if num_bytes != known_bytes or machine.route_class[route] != known_class:
                    known_bytes, known_class = num_bytes, machine.route_class[route]
                    known_time = transfer_ns(machine, route, num_bytes)
                pair[number, P_TIME] = known_time
                pair[number, P_LINKS] = links_of(machine.route_offsets, route)
                pair[number, P_BYTES] = num_bytes
                moved += num_bytes
                min_f = min(min_f, known_time)
                memory[target] += num_bytes
                if gradient:
                    route = target * machine.num_devices + source
                    if num_bytes != known_bytes_b or machine.route_class[route] != known_class_b:
                        known_bytes_b, known_class_b = num_bytes, machine.route_class[route]
                        known_time_b = transfer_ns(machine, route, num_bytes)
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
    """
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
        if gradient:
            first = pair[k, P_LINKS_B] >> LINKS_BITS
            for link in range(first, first + (pair[k, P_LINKS_B] & LINKS_MASK)):
                load[ints[link]] += sign * pair[k, P_TIME_B]
        if remember:
            memory[ints[targets + (pair[k, P_PARTS] & INDEX_MASK)]] += sign * pair[k, P_BYTES]
    if remember:
        state.scalar[NEW_MOVED_BYTES] += sign * at[PAIR_BYTES]
        state.scalar[NEW_NUM_ROWS] += sign * 2 * at[NUM_PAIRS]
