"""Simulates a proposal: from the first moment that it may change, and no longer than it must.

1. `find_cut`: a time before which the timeline is that of the accepted strategy, since neither an
   old nor a new task of the changed blocks is ready before.
2. `restore`: resources as they were then, from a copy and the log; tasks that were waiting then.
3. `simulate`: from there on as `reference.simulate`. How many predecessors of a task are missing is
   found when the first of those after the cut ends.
4. It stops as soon as the step must take longer than the limit: because a resource has more to do
   than there is time left, or because the operators after a task take longer than that.

Rows are written by `kernel.accept` only, so nothing has to be undone.
"""

from keras_soap.jit import inline, njit
from keras_soap.simulator.layout import (
    AT_CONFIG,
    AT_MIN_B,
    AT_MIN_F,
    BACKWARD,
    BY_CONSUMER,
    BY_PRODUCER,
    COMB_GROUPS,
    COMB_REDUCTION,
    COMB_SUMS,
    CONFIG_BY_PART,
    CONFIG_COMBINE,
    CONFIG_PARTS,
    CONFIG_REDUCTION,
    CONFIG_REDUCTIONS,
    CONFIG_STAGES,
    CONFIG_WIDTH,
    CONSUMER_LIST,
    CUT,
    EDGE_BLOCK_B,
    EDGE_BLOCK_F,
    EDGE_CONSUMER,
    EDGE_GRADIENT,
    EDGE_PRODUCER,
    END,
    EPOCH,
    FORWARD,
    GRADIENTS,
    INDEX_BITS,
    INDEX_MASK,
    LATEST,
    LINKS_BITS,
    LINKS_MASK,
    LOG_CHUNK,
    LOG_CODE,
    LOG_END,
    LOG_KNOWN,
    LOG_READY,
    LOG_USED,
    MISSING,
    NEVER,
    NEW_LOG_USED,
    NUM_AT,
    NUM_CHANGED,
    NUM_COMBINE,
    NUM_CONFIG,
    NUM_EDGE,
    NUM_LOG,
    NUM_OP,
    NUM_PAIR,
    NUM_PAIR_AT,
    NUM_PAIRS,
    NUM_REDUCTION,
    NUM_TASK,
    OP_BACKWARD,
    OP_BLOCK_B,
    OP_BLOCK_F,
    OP_BLOCK_R,
    OP_BLOCK_S,
    OP_FIRST,
    OP_IN,
    OP_IN_END,
    OP_OUT,
    OP_OUT_END,
    OP_REPORT_BYTES,
    OP_WEIGHTS,
    P_LINKS,
    P_LINKS_B,
    P_PARTS,
    P_TIME,
    P_TIME_B,
    PAIR_LIST,
    PAIRS,
    READY,
    RED_COUNT,
    RED_MEMBERS,
    REPORTS,
    RESOURCE,
    STAMP,
    SYNC,
    TASKS_SIMULATED,
    TIME,
    TRANSFERS,
)
from keras_soap.simulator.predecessors import count_missing
from keras_soap.simulator.queue import pop, push


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


@inline
def _links(route_offsets, num_devices, ints, kind, resource, links):
    """Where in `ints` the links of a task stand: (first, end)."""
    if kind == REPORTS:
        at = resource * num_devices
        return route_offsets[at], route_offsets[at + 1]
    if kind == TRANSFERS or kind == GRADIENTS:
        first = links >> LINKS_BITS
        return first, first + (links & LINKS_MASK)
    first = -resource
    return first, first + ints[first - 1]


@inline
def _place(free, held, capacity, spare):
    """Where a resource is free the soonest, of all the places where it runs tasks."""
    place = held
    for other in range(spare[held], spare[held] + capacity[held] - 1):
        if free[other] < free[place]:
            place = other
    return place


@njit
def restore(machine, model, state, cut, position):
    """Resources and the queue as they were when the first task ready at `cut` was to start."""
    resource, log, heap = state.resource, state.log, state.heap
    ints, task, pair = state.ints, state.task, state.pair
    block, block_row = model.block, state.block_row
    save = min(position // state.save_every, len(state.saves))
    which = state.save_which[save - 1]
    for number in range(resource.shape[1]):
        resource[0, number] = state.saves[save - 1, which, 0, number] if save else 0
        resource[1, number] = state.saves[save - 1, which, 1, number] if save else 0
    for at in range(save * state.save_every, position):
        code, end = log[at, LOG_CODE], log[at, LOG_END]
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
            place = _place(resource[0], held, machine.capacity, machine.spare)
            resource[1, held] += end - time - resource[0, place]
            resource[0, place] = end
        else:
            first, last = _links(
                machine.route_offsets, machine.num_devices, ints, kind, held, links
            )
            for k in range(first, last):
                link = ints[k]
                place = link
                if link < machine.num_devices:
                    place = _place(resource[0], link, machine.capacity, machine.spare)
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
def _save(saves, save_which, save, free, idle):
    """Keeps the resources for `restore`, beside those of the accepted strategy."""
    if save < len(saves):
        which = 1 - save_which[save]
        for number in range(len(free)):
            saves[save, which, 0, number] = free[number]
            saves[save, which, 1, number] = idle[number]


@njit
def begin(model, tables, state, cut, size):
    """Queues the tasks of the changed blocks that wait for nothing after the cut."""
    task, pair, heap = state.task, state.pair, state.heap
    epoch = state.scalar[EPOCH]
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
        for part in range(tables.config[state.op[n, AT_CONFIG], CONFIG_PARTS]):
            row = state.block_row[of] + part
            missing, latest, known = _count_missing(model, tables, state, cut, of, part)
            task[row, STAMP] = epoch
            task[row, MISSING] = missing
            task[row, LATEST] = latest
            if missing == 0:
                size = push(heap, size, latest, of << INDEX_BITS | part, known)
    return size


@njit
def simulate(machine, model, tables, state, cut, size, limit):
    """Runs the queue until it is empty, or the step certainly takes longer than `limit`.

    Returns:
        Whether it ran to the end.
    """
    return _simulate(
        cut,
        size,
        limit,
        machine.num_devices,
        state.save_every,
        model.report[0],
        machine.route_offsets,
        machine.capacity,
        machine.spare,
        state.scalar,
        state.heap,
        state.new_log.reshape(-1),
        state.tail,
        state.resource[0],
        state.resource[1],
        state.load[1],
        state.scratch[0],
        state.saves,
        state.save_which,
        state.op.reshape(-1),
        state.edge.reshape(-1),
        state.task.reshape(-1),
        state.pair.reshape(-1),
        state.ints,
        model.block.reshape(-1),
        state.block_row,
        state.block_changed,
        state.block_first,
        model.op.reshape(-1),
        model.edge.reshape(-1),
        model.out_edges,
        model.sharers,
        tables.config.reshape(-1),
        tables.reduction.reshape(-1),
        tables.combine.reshape(-1),
        tables.members,
        state.op,
        state.edge,
        state.task,
        state.pair,
        model.block,
        model.op,
        model.edge,
        tables.config,
        tables.reduction,
        tables.combine,
    )


@njit
def _simulate(
    cut,
    size,
    limit,
    num_devices,
    every,
    report_block,
    route_offsets,
    capacity,
    spare,
    scalar,
    heap,
    log,
    tail,
    free,
    idle,
    load,
    arrivals,
    saves,
    save_which,
    op,
    edge,
    task,
    pair,
    ints,
    block,
    block_row,
    block_changed,
    block_first,
    model_op,
    model_edge,
    out_edges,
    sharers,
    configs,
    reductions,
    combines,
    members,
    op_rows,
    edge_rows,
    task_rows,
    pair_rows,
    block_rows,
    model_op_rows,
    model_edge_rows,
    configs_rows,
    reductions_rows,
    combines_rows,
):
    """`simulate` on plain arrays: taking them out of tuples in the loop would count references.

    Most are in one row, so that the compiler knows how far apart their entries are; those called
    `*_rows` are the same as they are in `State`, `Model` and `Tables`.
    """
    epoch = scalar[EPOCH]
    position = scalar[CUT]
    start_position = position
    next_save = (position // every + 1) * every
    while size:
        ready, code, known = heap[0], heap[1], heap[2]
        size = pop(heap, size)
        of, index = code >> INDEX_BITS, code & INDEX_MASK
        kind, n = block[2 * of], block[2 * of + 1]
        row = block_row[of] + index
        if position == next_save:
            _save(saves, save_which, position // every - 1, free, idle)
            next_save += every
        # Start it.
        links = 0
        after = 0
        if kind == TRANSFERS:
            time, held = pair[row * NUM_PAIR + P_TIME], -1
            links = pair[row * NUM_PAIR + P_LINKS]
            target = model_edge[n * NUM_EDGE + EDGE_CONSUMER]
            after = op[target * NUM_AT + AT_MIN_F] + tail[target, 0]
        elif kind == GRADIENTS:
            time, held = pair[row * NUM_PAIR + P_TIME_B], -1
            links = pair[row * NUM_PAIR + P_LINKS_B]
            target = model_edge[n * NUM_EDGE + EDGE_PRODUCER]
            after = op[target * NUM_AT + AT_MIN_B] + tail[target, 1]
        else:
            time, held = task[row * NUM_TASK + TIME], task[row * NUM_TASK + RESOURCE]
            if kind == FORWARD:
                after = tail[n, 0]
            elif kind == BACKWARD:
                config = op[n * NUM_AT + AT_CONFIG]
                stages = configs[config * NUM_CONFIG + CONFIG_STAGES]
                # Operators wait for all but the gradients of weights.
                if index < stages * configs[config * NUM_CONFIG + CONFIG_WIDTH]:
                    after = tail[n, 1]
        late = False
        if held >= 0 and kind != REPORTS:
            place = _place(free, held, capacity, spare)
            start = max(ready, free[place])
            # Of all places together: each of them is busy or idle until the step ends.
            idle[held] += start - free[place]
            busy = load[held] + idle[held]
            late = busy > limit and -(-busy // capacity[held]) > limit
            end = start + time
            free[place] = end
        else:
            first, last = _links(route_offsets, num_devices, ints, kind, held, links)
            start = ready
            for k in range(first, last):
                place = ints[k]
                if place < num_devices:  # the cores that copy
                    place = _place(free, place, capacity, spare)
                start = max(start, free[place])
            end = start + time
            for k in range(first, last):
                link = ints[k]
                place = link
                if link < num_devices:
                    place = _place(free, link, capacity, spare)
                idle[link] += start - free[place]
                busy = load[link] + idle[link]
                late = late or (busy > limit and -(-busy // capacity[link]) > limit)
                free[place] = end
        if late or end + after > limit:
            scalar[TASKS_SIMULATED] += position - start_position + 1
            return False
        entry = position - start_position
        log[entry * NUM_LOG + LOG_CODE] = code
        log[entry * NUM_LOG + LOG_READY] = ready
        log[entry * NUM_LOG + LOG_END] = end
        log[entry * NUM_LOG + LOG_KNOWN] = known
        position += 1
        # Tell its successors: those that wait for it alone are queued, the others listed.
        num_arrivals = 0
        if kind == TRANSFERS:
            part = pair[row * NUM_PAIR + P_PARTS] & INDEX_MASK
            arrivals[0] = model_op[target * NUM_OP + OP_BLOCK_F] << INDEX_BITS | part
            num_arrivals = 1
        elif kind == GRADIENTS:
            part = pair[row * NUM_PAIR + P_PARTS] >> 32
            arrivals[0] = model_op[target * NUM_OP + OP_BLOCK_B] << INDEX_BITS | part
            num_arrivals = 1
        elif kind == FORWARD or kind == BACKWARD:
            config = op[n * NUM_AT + AT_CONFIG]
            stages = configs[config * NUM_CONFIG + CONFIG_STAGES]
            width = configs[config * NUM_CONFIG + CONFIG_WIDTH]
            stage = 0
            part = index
            if stages > 1:
                stage = index // width
                part = index % width
            if index >= stages * width:  # the gradients of weights
                part = index - stages * width
                owner = model_op[n * NUM_OP + OP_FIRST]
                sync = model_op[owner * NUM_OP + OP_BLOCK_S]
                config = op[owner * NUM_AT + AT_CONFIG]
                by_part = configs[config * NUM_CONFIG + CONFIG_BY_PART]
                listed = by_part + 1 + configs[config * NUM_CONFIG + CONFIG_PARTS]
                for m in range(
                    listed + members[by_part + part], listed + members[by_part + part + 1]
                ):
                    arrivals[num_arrivals] = sync << INDEX_BITS | members[m]
                    num_arrivals += 1
                update = configs[config * NUM_CONFIG + CONFIG_REDUCTIONS] + part
                if task[(block_row[sync] + update) * NUM_TASK + TIME] >= 0:
                    arrivals[num_arrivals] = sync << INDEX_BITS | update
                    num_arrivals += 1
            elif stage < stages - 1:
                combine = configs[config * NUM_CONFIG + CONFIG_COMBINE]
                combine += stages - 2 - stage if kind == BACKWARD else stage
                first_reduction = combines[combine * NUM_COMBINE + COMB_REDUCTION]
                next_stage = of << INDEX_BITS | (stage + 1) * width
                parts = configs[config * NUM_CONFIG + CONFIG_PARTS]
                if part >= parts:
                    first = reductions[
                        (first_reduction + part - parts) * NUM_REDUCTION + RED_MEMBERS
                    ]
                    count = reductions[(first_reduction + part - parts) * NUM_REDUCTION + RED_COUNT]
                    for m in range(first, first + count):
                        size = push(heap, size, end, next_stage + members[m], ready)
                else:
                    group = members[combines[combine * NUM_COMBINE + COMB_GROUPS] + part]
                    alone = kind == BACKWARD and not combines[combine * NUM_COMBINE + COMB_SUMS]
                    if (
                        alone
                        or reductions[(first_reduction + group) * NUM_REDUCTION + RED_COUNT] == 1
                    ):
                        size = push(heap, size, end, next_stage + part, ready)
                    else:
                        arrivals[0] = of << INDEX_BITS | (stage * width + parts + group)
                        num_arrivals = 1
            elif kind == FORWARD:
                for i in range(model_op[n * NUM_OP + OP_OUT], model_op[n * NUM_OP + OP_OUT_END]):
                    e = out_edges[i]
                    begins = edge[e * NUM_PAIR_AT + BY_PRODUCER] + part
                    listed = edge[e * NUM_PAIR_AT + PAIR_LIST]
                    first, last = ints[begins] + listed, ints[begins + 1] + listed
                    transfers = model_edge[e * NUM_EDGE + EDGE_BLOCK_F] << INDEX_BITS
                    consumer = model_edge[e * NUM_EDGE + EDGE_CONSUMER]
                    consumers = model_op[consumer * NUM_OP + OP_BLOCK_F] << INDEX_BITS
                    for k in range(first, last):
                        told = ints[k]
                        if told >= 0:
                            size = push(heap, size, end, transfers + told, ready)
                        else:
                            arrivals[num_arrivals] = consumers + ~told
                            num_arrivals += 1
                if model_op[n * NUM_OP + OP_REPORT_BYTES]:
                    reports = model_op[n * NUM_OP + OP_BLOCK_R]
                    if task[(block_row[reports] + part) * NUM_TASK + TIME] >= 0:
                        size = push(heap, size, end, reports << INDEX_BITS | part, ready)
                    else:
                        arrivals[num_arrivals] = report_block << INDEX_BITS
                        num_arrivals += 1
                if model_op[n * NUM_OP + OP_BACKWARD]:
                    arrivals[num_arrivals] = model_op[n * NUM_OP + OP_BLOCK_B] << INDEX_BITS | part
                    num_arrivals += 1
            else:
                for e in range(model_op[n * NUM_OP + OP_IN], model_op[n * NUM_OP + OP_IN_END]):
                    if not model_edge[e * NUM_EDGE + EDGE_GRADIENT]:
                        continue
                    begins = edge[e * NUM_PAIR_AT + BY_CONSUMER] + part
                    listed = edge[e * NUM_PAIR_AT + CONSUMER_LIST]
                    first, last = ints[begins] + listed, ints[begins + 1] + listed
                    transfers = model_edge[e * NUM_EDGE + EDGE_BLOCK_B] << INDEX_BITS
                    producer = model_edge[e * NUM_EDGE + EDGE_PRODUCER]
                    producers = model_op[producer * NUM_OP + OP_BLOCK_B] << INDEX_BITS
                    for k in range(first, last):
                        told = ints[k]
                        if told >= 0:
                            size = push(heap, size, end, transfers + told, ready)
                        else:
                            arrivals[num_arrivals] = producers + ~told
                            num_arrivals += 1
                if model_op[n * NUM_OP + OP_WEIGHTS]:
                    size = push(heap, size, end, of << INDEX_BITS | (stages * width + part), ready)
        elif kind == SYNC:
            config = op[n * NUM_AT + AT_CONFIG]
            if index < configs[config * NUM_CONFIG + CONFIG_REDUCTIONS]:
                reduction = configs[config * NUM_CONFIG + CONFIG_REDUCTION] + index
                first = reductions[reduction * NUM_REDUCTION + RED_MEMBERS]
                updates = of << INDEX_BITS | configs[config * NUM_CONFIG + CONFIG_REDUCTIONS]
                for m in range(first, first + reductions[reduction * NUM_REDUCTION + RED_COUNT]):
                    arrivals[num_arrivals] = updates + members[m]
                    num_arrivals += 1
        elif kind == REPORTS:
            arrivals[0] = report_block << INDEX_BITS
            num_arrivals = 1
        for a in range(num_arrivals):
            target_of = arrivals[a] >> INDEX_BITS
            target_index = arrivals[a] & INDEX_MASK
            row = block_row[target_of] + target_index
            if task[row * NUM_TASK + STAMP] != epoch:
                task[row * NUM_TASK + STAMP] = epoch
                missing, latest, _ = count_missing(
                    cut,
                    target_of,
                    target_index,
                    op_rows,
                    edge_rows,
                    task_rows,
                    pair_rows,
                    ints,
                    block_rows,
                    block_row,
                    block_changed,
                    block_first,
                    model_op_rows,
                    model_edge_rows,
                    out_edges,
                    sharers,
                    configs_rows,
                    reductions_rows,
                    combines_rows,
                    members,
                )
                task[row * NUM_TASK + MISSING] = missing
                task[row * NUM_TASK + LATEST] = latest
            task[row * NUM_TASK + MISSING] -= 1
            latest = max(task[row * NUM_TASK + LATEST], end)
            task[row * NUM_TASK + LATEST] = latest
            if task[row * NUM_TASK + MISSING] == 0:
                size = push(heap, size, latest, arrivals[a], ready)
    if position == next_save:
        _save(saves, save_which, position // every - 1, free, idle)
    scalar[NEW_LOG_USED] = position
    scalar[TASKS_SIMULATED] += position - start_position
    return True
