"""Simulates a proposal from its cut on (`cut`), and no longer than it must.

1. `run`: as `reference.simulate`. How many predecessors of a task are missing is found when
   the first of those after the cut ends.
2. It stops as soon as the step must take longer than the limit: because a resource has more to do
   than there is time left, or because the operators after a task take longer than that.

Rows are written by `kernel.accept` only, so nothing has to be undone.
"""

from keras_soap.jit import njit
from keras_soap.simulator.held import links_of_task, place_of
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
    EPOCH,
    FORWARD,
    GRADIENTS,
    INDEX_BITS,
    INDEX_MASK,
    LATEST,
    LOG_CODE,
    LOG_END,
    LOG_KNOWN,
    LOG_READY,
    MISSING,
    NEW_LOG_USED,
    NUM_AT,
    NUM_COMBINE,
    NUM_CONFIG,
    NUM_EDGE,
    NUM_LOG,
    NUM_OP,
    NUM_PAIR,
    NUM_PAIR_AT,
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
def _save(saves, save_which, save, free, idle):
    """Keeps the resources for `restore`, beside those of the accepted strategy."""
    if save < len(saves):
        which = 1 - save_which[save]
        for number in range(len(free)):
            saves[save, which, 0, number] = free[number]
            saves[save, which, 1, number] = idle[number]


@njit
def run(
    cut,
    size,
    limit,
    num_devices,
    every,
    report_block,
    route_offsets,
    capacity,
    spare,
    alone_permille,
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
    """Runs the queue until it is empty, or the step certainly takes longer than `limit`.

    Most arrays are in one row, so that the compiler knows how far apart their entries are; those
    called `*_rows` are the same as they are in `State`, `Model` and `Tables`.

    Returns:
        Whether it ran to the end.
    """
    epoch = scalar[EPOCH]
    last_end = len(free) - 1
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
            place = place_of(free, held, capacity, spare)
            start = max(ready, free[place])
            # Of all places together: each of them is busy or idle until the step ends.
            idle[held] += start - free[place]
            busy = load[held] + idle[held]
            late = busy > limit and -(-busy // capacity[held]) > limit
            end = start + time
            free[place] = end
            if alone_permille[held] > 1000:
                end = max(end, ready + time * alone_permille[held] // 1000)
        else:
            first, last = links_of_task(route_offsets, num_devices, ints, kind, held, links)
            start = ready
            for k in range(first, last):
                place = ints[k]
                if place < num_devices:  # the cores that copy
                    place = place_of(free, place, capacity, spare)
                start = max(start, free[place])
            end = start + time
            for k in range(first, last):
                link = ints[k]
                place = link
                if link < num_devices:
                    place = place_of(free, link, capacity, spare)
                idle[link] += start - free[place]
                busy = load[link] + idle[link]
                late = late or (busy > limit and -(-busy // capacity[link]) > limit)
                free[place] = end
        if late or end + after > limit:
            scalar[TASKS_SIMULATED] += position - start_position + 1
            return False
        free[last_end] = max(free[last_end], end)
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
