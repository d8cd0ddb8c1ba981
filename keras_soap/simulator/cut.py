"""From where on a proposal is simulated, and what is known there.

1. `mark_bare`: an operator of which nobody reads some part (strides and crops pass over it) does
   not wait for gradients there. So where a changed consumer reads other parts than before, the
   operator's backward tasks are as good as changed, though the operator is not.
2. `find_cut`: a time before which the timeline is that of the accepted strategy, since neither an
   old nor a new task of the changed blocks is ready before.
3. `restore`: resources as they were then, from a copy and the log; tasks that were waiting then.
4. `begin`: tasks of the changed blocks that wait for nothing after it.
"""

from keras_soap.jit import njit
from keras_soap.simulator.held import links_of_task, place_of
from keras_soap.simulator.layout import (
    AT_CONFIG,
    BY_PRODUCER,
    CONFIG_PARTS,
    CONFIG_STAGES,
    CONFIG_WIDTH,
    EDGE_BLOCK_F,
    EDGE_GRADIENT,
    EDGE_PRODUCER,
    END,
    EPOCH,
    GRADIENTS,
    INDEX_BITS,
    INDEX_MASK,
    LATEST,
    LOG_CHUNK,
    LOG_CODE,
    LOG_END,
    LOG_KNOWN,
    LOG_READY,
    LOG_USED,
    MISSING,
    NEVER,
    NUM_BARE,
    NUM_CHANGED,
    NUM_CHANGED_EDGES,
    NUM_PAIRS,
    OP_BLOCK_B,
    OP_BLOCK_F,
    OP_IN,
    OP_IN_END,
    OP_OUT,
    OP_OUT_END,
    P_LINKS,
    P_LINKS_B,
    P_PARTS,
    P_TIME,
    P_TIME_B,
    PAIR_PRODUCERS,
    PAIRS,
    READY,
    REPORTS,
    RESOURCE,
    STAMP,
    TIME,
    TRANSFERS,
)
from keras_soap.simulator.predecessors import count_missing
from keras_soap.simulator.queue import push


@njit
def mark_bare(model, state):
    """Lists operators after the changed ones, and marks their backward blocks; see rule 1."""
    first = state.scalar[NUM_CHANGED]
    count = 0
    for i in range(state.scalar[NUM_CHANGED_EDGES]):
        e = state.changed_edges[i]
        if not model.edge[e, EDGE_GRADIENT]:
            continue
        if state.edge[e, PAIR_PRODUCERS] and state.saved_edge[e, PAIR_PRODUCERS]:
            continue
        producer = model.edge[e, EDGE_PRODUCER]
        if not state.block_changed[model.op[producer, OP_BLOCK_B]]:
            state.block_changed[model.op[producer, OP_BLOCK_B]] = 1
            state.changed[first + count] = producer
            count += 1
    state.scalar[NUM_BARE] = count


@njit
def _waits_for_gradients(model, state, n, part):
    """Whether anybody reads a part of an operator, and has a gradient for it."""
    for k in range(model.op[n, OP_OUT], model.op[n, OP_OUT_END]):
        e = model.out_edges[k]
        by_producer = state.edge[e, BY_PRODUCER] + part
        if model.edge[e, EDGE_GRADIENT] and state.ints[by_producer] < state.ints[by_producer + 1]:
            return True
    return False


@njit
def find_cut(model, tables, state):
    """When the earliest old or new task of the changed blocks is ready."""
    cut = NEVER
    for i in range(state.scalar[NUM_CHANGED]):
        n = state.changed[i]
        block = model.op[n, OP_BLOCK_F]
        cut = min(cut, state.block_first[block])
        num_parts = tables.config[state.op[n, AT_CONFIG], CONFIG_PARTS]
        ready = state.scratch[0]
        for part in range(num_parts):
            ready[part] = 0
        for e in range(model.op[n, OP_IN], model.op[n, OP_IN_END]):
            cut = min(cut, state.block_first[model.edge[e, EDGE_BLOCK_F]])
            producer = model.edge[e, EDGE_PRODUCER]
            block = model.op[producer, OP_BLOCK_F]
            if state.block_changed[block]:
                for part in range(num_parts):
                    ready[part] = NEVER
                continue
            config = tables.config[state.op[producer, AT_CONFIG]]
            row = state.block_row[block] + (config[CONFIG_STAGES] - 1) * config[CONFIG_WIDTH]
            first = state.edge[e, PAIRS]
            for k in range(first, first + state.edge[e, NUM_PAIRS]):
                end = state.task[row + (state.pair[k, P_PARTS] >> 32), END]
                part = state.pair[k, P_PARTS] & INDEX_MASK
                if state.pair[k, P_TIME] >= 0:
                    cut = min(cut, end)
                ready[part] = max(ready[part], end)
        for part in range(num_parts):
            cut = min(cut, ready[part])
    first = state.scalar[NUM_CHANGED]
    for i in range(first, first + state.scalar[NUM_BARE]):
        n = state.changed[i]
        cut = min(cut, state.block_first[model.op[n, OP_BLOCK_B]])
        config = tables.config[state.op[n, AT_CONFIG]]
        row = state.block_row[model.op[n, OP_BLOCK_F]]
        row += (config[CONFIG_STAGES] - 1) * config[CONFIG_WIDTH]
        for part in range(config[CONFIG_PARTS]):
            if not _waits_for_gradients(model, state, n, part):
                cut = min(cut, state.task[row + part, END])
    return cut


@njit
def find_position(state, cut):
    """First position in the log whose task is ready at `cut` or later."""
    low, high = 0, state.scalar[LOG_USED]
    while low < high:
        middle = (low + high) // 2
        if state.log[middle, LOG_READY] < cut:
            low = middle + 1
        else:
            high = middle
    return low


@njit
def restore(machine, model, state, cut, position):
    """Resources and the queue as they were when the first task ready at `cut` was to start."""
    resource, log, heap = state.resource, state.log, state.heap
    ints, task, pair = state.ints, state.task, state.pair
    block, block_row = model.block, state.block_row
    save = min(position // state.save_every, len(state.saves))
    which = state.save_which[save - 1] if save else 0
    last_end = resource.shape[1] - 1
    for number in range(resource.shape[1]):
        resource[0, number] = state.saves[save - 1, which, 0, number] if save else 0
        resource[1, number] = state.saves[save - 1, which, 1, number] if save else 0
    for at in range(save * state.save_every, position):
        code, ready, end = log[at, LOG_CODE], log[at, LOG_READY], log[at, LOG_END]
        resource[0, last_end] = max(resource[0, last_end], end)
        of = code >> INDEX_BITS
        kind, row = block[of, 0], block_row[of] + (code & INDEX_MASK)
        held, links, time = 0, 0, 0
        if kind == TRANSFERS:
            time, links, held = pair[row, P_TIME], pair[row, P_LINKS], -1
        elif kind == GRADIENTS:
            time, links, held = pair[row, P_TIME_B], pair[row, P_LINKS_B], -1
        else:
            time, held = task[row, TIME], task[row, RESOURCE]
        if held >= 0 and kind != REPORTS:
            place = place_of(resource[0], held, machine.capacity, machine.spare)
            start = max(ready, resource[0, place])
            resource[1, held] += start - resource[0, place]
            resource[0, place] = start + time
        else:
            first, last = links_of_task(
                machine.route_offsets, machine.num_devices, ints, kind, held, links
            )
            for k in range(first, last):
                link = ints[k]
                place = link
                if link < machine.num_devices:
                    place = place_of(resource[0], link, machine.capacity, machine.spare)
                resource[1, link] += end - time - resource[0, place]
                resource[0, place] = end
    size = 0
    used = state.scalar[LOG_USED]
    for chunk in range(position // LOG_CHUNK, (used + LOG_CHUNK - 1) // LOG_CHUNK):
        if state.log_first[chunk] >= cut:
            continue
        for at in range(max(position, chunk * LOG_CHUNK), min(used, (chunk + 1) * LOG_CHUNK)):
            if log[at, LOG_KNOWN] < cut:
                code = log[at, LOG_CODE]
                if not state.block_changed[code >> INDEX_BITS]:
                    size = push(heap, size, log[at, LOG_READY], code, log[at, LOG_KNOWN])
    return size


@njit
def _count_missing(model, tables, state, cut, of, index):
    return count_missing(
        cut,
        of,
        index,
        state.op,
        state.edge,
        state.task,
        state.pair,
        state.ints,
        model.block,
        state.block_row,
        state.block_changed,
        state.block_first,
        model.op,
        model.edge,
        model.out_edges,
        model.sharers,
        tables.config,
        tables.reduction,
        tables.combine,
        tables.members,
    )


@njit
def begin(model, tables, state, cut, size):
    """Queues the tasks of the changed blocks that wait for nothing after the cut."""
    task, pair, heap = state.task, state.pair, state.heap
    for i in range(state.scalar[NUM_CHANGED]):
        n = state.changed[i]
        of = model.op[n, OP_BLOCK_F]
        for e in range(model.op[n, OP_IN], model.op[n, OP_IN_END]):
            producer = model.edge[e, EDGE_PRODUCER]
            before = model.op[producer, OP_BLOCK_F]
            if state.block_changed[before] or state.block_first[before] >= cut:
                continue
            config = tables.config[state.op[producer, AT_CONFIG]]
            base = state.block_row[before]
            base += (config[CONFIG_STAGES] - 1) * config[CONFIG_WIDTH]
            first = state.edge[e, PAIRS]
            code = model.edge[e, EDGE_BLOCK_F] << INDEX_BITS
            for k in range(state.edge[e, NUM_PAIRS]):
                if pair[first + k, P_TIME] >= 0:
                    row = base + (pair[first + k, P_PARTS] >> 32)
                    if task[row, READY] < cut:
                        size = push(heap, size, task[row, END], code + k, task[row, READY])
        size = _begin_parts(model, tables, state, cut, size, n, of)
    first = state.scalar[NUM_CHANGED]
    for i in range(first, first + state.scalar[NUM_BARE]):
        n = state.changed[i]
        size = _begin_parts(model, tables, state, cut, size, n, model.op[n, OP_BLOCK_B])
    return size


@njit
def _begin_parts(model, tables, state, cut, size, n, of):
    """Queues the first tasks of all parts of a block of operator `n` that wait for nothing."""
    task, epoch = state.task, state.scalar[EPOCH]
    for part in range(tables.config[state.op[n, AT_CONFIG], CONFIG_PARTS]):
        row = state.block_row[of] + part
        missing, latest, known = _count_missing(model, tables, state, cut, of, part)
        task[row, STAMP] = epoch
        task[row, MISSING] = missing
        task[row, LATEST] = latest
        if missing == 0:
            size = push(state.heap, size, latest, of << INDEX_BITS | part, known)
    return size
