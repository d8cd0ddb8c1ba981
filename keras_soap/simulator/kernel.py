"""The simulator over flat arrays: what `simulator` calls.

1. `propose`, then `accept` or `reject`: a strategy with some configurations changed. Only blocks of
   the changed operators and of their edges are rebuilt (`blocks`), and only what comes after the
   first change is simulated (`cut`, `events`). The outcome is exactly that of building afresh.
2. A proposal may come with a limit. It then ends as soon as its step certainly takes longer.
3. With a limit, an edge of more than `PAIRS_OF_PROPOSAL` pairs counts as too long: on a thousand
   devices, rows for all parts of one operator with all of the next would take gigabytes.
4. In a walk, which does not ask for the bytes of what it refuses, blocks are built no further once
   what operators compute, what they reduce as well, or what moves along the edges built so far,
   keeps a resource busy for too long.

A call that needs a configuration or rows that are not there says so, and leaves all as it was.
"""

from keras_soap.jit import entry, njit
from keras_soap.simulator import flat
from keras_soap.simulator.blocks import (
    build_operator,
    free_operator,
    set_block_rows,
    weigh_others,
    weigh_parts,
)
from keras_soap.simulator.cut import begin, find_cut, find_position, mark_bare, restore
from keras_soap.simulator.edge_blocks import build_edge, free_edge, weigh_edge
from keras_soap.simulator.layout import (
    AT_CONFIG,
    AT_DEVICES,
    AT_INTS,
    AT_MIN_B,
    AT_MIN_F,
    AT_NUM_TASKS,
    CONFIG_ROW,
    CUT,
    CUT_READY,
    DONE,
    EDGE_BLOCK_B,
    EDGE_BLOCK_F,
    EDGE_CONSUMER,
    EDGE_GRADIENT,
    EDGE_PRODUCER,
    END,
    EPOCH,
    EXCEEDED,
    EXCESS_BYTES,
    GRADIENTS,
    INDEX_BITS,
    INDEX_MASK,
    LOG_CHUNK,
    LOG_CODE,
    LOG_END,
    LOG_KNOWN,
    LOG_READY,
    LOG_USED,
    MISSES_CONFIG,
    MISSES_SPACE,
    MOVED_BYTES,
    NEED,
    NEED_FEWER,
    NEED_LOG,
    NEVER,
    NEW_EXCESS_BYTES,
    NEW_LOG_USED,
    NEW_MOVED_BYTES,
    NEW_NUM_ROWS,
    NEW_STEP_NS,
    NUM_BARE,
    NUM_CHANGED,
    NUM_CHANGED_EDGES,
    NUM_LOG,
    NUM_PAIRS,
    NUM_ROWS,
    OP_BACKWARD,
    OP_BLOCK_B,
    OP_BLOCK_F,
    OP_BLOCK_R,
    OP_BLOCK_S,
    OP_IN,
    OP_IN_END,
    OP_OUT,
    OP_OUT_END,
    P_END,
    P_END_B,
    P_READY,
    P_READY_B,
    PAIR_CONSUMERS,
    PAIR_INTS,
    PAIR_MIN_B,
    PAIR_MIN_F,
    PAIR_PRODUCERS,
    PAIRS,
    READY,
    STEP_NS,
    TRANSFERS,
)


@njit
def _copy(target, row, source, from_row):
    for column in range(target.shape[1]):
        target[row, column] = source[from_row, column]


@njit
def _mark(model, state):
    """Lists the edges of the changed operators, and marks their blocks."""
    num_edges = 0
    for i in range(state.scalar[NUM_CHANGED]):
        n = state.changed[i]
        state.block_changed[model.op[n, OP_BLOCK_F]] = 1
        state.block_changed[model.op[n, OP_BLOCK_B]] = 1
        state.block_changed[model.op[n, OP_BLOCK_S]] = 1
        state.block_changed[model.op[n, OP_BLOCK_R]] = 1
        for e in range(model.op[n, OP_IN], model.op[n, OP_IN_END]):
            if not state.edge_changed[e]:
                state.edge_changed[e] = 1
                state.changed_edges[num_edges] = e
                num_edges += 1
        for k in range(model.op[n, OP_OUT], model.op[n, OP_OUT_END]):
            e = model.out_edges[k]
            if not state.edge_changed[e]:
                state.edge_changed[e] = 1
                state.changed_edges[num_edges] = e
                num_edges += 1
    for i in range(num_edges):
        e = state.changed_edges[i]
        state.block_changed[model.edge[e, EDGE_BLOCK_F]] = 1
        state.block_changed[model.edge[e, EDGE_BLOCK_B]] = 1
    state.scalar[NUM_CHANGED_EDGES] = num_edges


@njit
def _unmark(model, state):
    for i in range(state.scalar[NUM_CHANGED]):
        n = state.changed[i]
        state.block_changed[model.op[n, OP_BLOCK_F]] = 0
        state.block_changed[model.op[n, OP_BLOCK_B]] = 0
        state.block_changed[model.op[n, OP_BLOCK_S]] = 0
        state.block_changed[model.op[n, OP_BLOCK_R]] = 0
    for i in range(state.scalar[NUM_CHANGED_EDGES]):
        e = state.changed_edges[i]
        state.edge_changed[e] = 0
        state.block_changed[model.edge[e, EDGE_BLOCK_F]] = 0
        state.block_changed[model.edge[e, EDGE_BLOCK_B]] = 0
        state.block_changed[model.op[model.edge[e, EDGE_PRODUCER], OP_BLOCK_B]] = 0
    state.scalar[NUM_CHANGED] = 0
    state.scalar[NUM_BARE] = 0
    state.scalar[NUM_CHANGED_EDGES] = 0


@njit
def _busiest(machine, state):
    """How long the resource with the most to do is busy in the proposal, as far as it is built."""
    longest = 0
    for resource in range(machine.num_resources):
        share = state.load[1, resource]
        if share > longest and resource < machine.num_devices:
            share = -(-share // machine.capacity[resource])
        longest = max(longest, share)
    return longest


@njit
def _replace(machine, model, tables, state, limit):
    """Takes old blocks out of the proposed loads, and builds the new ones.

    False if an array must grow, or with NEED_FEWER: see rules 3 and 4.
    """
    scalar = state.scalar
    num_changed, num_edges = scalar[NUM_CHANGED], scalar[NUM_CHANGED_EDGES]
    _copy(state.load, 1, state.load, 0)
    _copy(state.memory, 1, state.memory, 0)
    scalar[NEW_MOVED_BYTES] = scalar[MOVED_BYTES]
    scalar[NEW_NUM_ROWS] = scalar[NUM_ROWS]
    for i in range(num_edges):
        e = state.changed_edges[i]
        _copy(state.saved_edge, e, state.edge, e)
        if state.edge[e, NUM_PAIRS] >= 0:
            weigh_edge(machine, model, state, e, -1, True)
        state.edge[e, NUM_PAIRS] = -1
        state.edge[e, PAIR_INTS] = 0
    for i in range(num_changed):
        n = state.changed[i]
        _copy(state.saved_op, n, state.op, n)
        number = state.op[n, AT_CONFIG]
        if number >= 0:
            devices = state.ints[state.op[n, AT_DEVICES] :]
            weigh_parts(machine, model, tables, state, n, number, devices, -1)
            weigh_others(machine, model, tables, state, n, -1)
        state.op[n, AT_NUM_TASKS] = 0
        state.op[n, AT_INTS] = 0
    for i in range(num_changed):
        n = state.changed[i]
        number, devices = state.wanted_config[n], state.wanted_devices[n]
        weigh_parts(machine, model, tables, state, n, number, devices, 1)
    if limit < NEVER and _busiest(machine, state) > limit:
        scalar[NEED] = NEED_FEWER
        return False
    for i in range(num_changed):
        if not build_operator(machine, model, tables, state, state.changed[i]):
            return False
        weigh_others(machine, model, tables, state, state.changed[i], 1)
    if limit < NEVER and _busiest(machine, state) > limit:
        scalar[NEED] = NEED_FEWER
        return False
    for i in range(num_edges):
        if not build_edge(machine, model, tables, state, state.changed_edges[i]):
            return False
        if weigh_edge(machine, model, state, state.changed_edges[i], 1, False) > limit:
            scalar[NEED] = NEED_FEWER
            return False
    if 3 * (scalar[NEW_NUM_ROWS] + 2) > len(state.heap) or scalar[NEW_NUM_ROWS] + 2 > len(
        state.log
    ):
        scalar[NEED] = NEED_LOG
        return False
    return True


@njit
def _set_tails(model, state):
    """Least times from the end of an operator's last task to the end of the step.

    Along edges that every part of the producer (backwards, the consumer) has a pair of.
    """
    op, edge, tail = state.op, state.edge, state.tail
    for n in range(len(op)):
        longest = 0
        if model.op[n, OP_BACKWARD]:
            for e in range(model.op[n, OP_IN], model.op[n, OP_IN_END]):
                if model.edge[e, EDGE_GRADIENT] and edge[e, PAIR_CONSUMERS]:
                    p = model.edge[e, EDGE_PRODUCER]
                    longest = max(longest, edge[e, PAIR_MIN_B] + op[p, AT_MIN_B] + tail[p, 1])
        tail[n, 1] = longest
    for n in range(len(op) - 1, -1, -1):
        longest = 0
        if model.op[n, OP_BACKWARD]:
            longest = op[n, AT_MIN_B] + tail[n, 1]
        for k in range(model.op[n, OP_OUT], model.op[n, OP_OUT_END]):
            e = model.out_edges[k]
            if edge[e, PAIR_PRODUCERS]:
                c = model.edge[e, EDGE_CONSUMER]
                longest = max(longest, edge[e, PAIR_MIN_F] + op[c, AT_MIN_F] + tail[c, 0])
        tail[n, 0] = longest


@entry
def propose(machine, model, tables, state, limit):
    """Tries a change: see `build_change`, then `run_change`."""
    done = build_change(machine, model, tables, state, NEVER)
    if done != DONE:
        return done
    return run_change(machine, model, tables, state, limit)


@entry
def accept(model, state):
    """See `take_change`."""
    take_change(model, state)


@entry
def reject(model, tables, state):
    """See `drop_change`."""
    drop_change(model, tables, state)


@njit
def build_change(machine, model, tables, state, limit):
    """Makes the tasks of `state.wanted_*` for operators `state.changed[:scalar[NUM_CHANGED]]`.

    Returns:
        DONE, and `run_change` or `drop_change` may follow; or EXCEEDED (rules 3 and 4) or what is
        missing, and all is as it was.
    """
    scalar = state.scalar
    for i in range(scalar[NUM_CHANGED]):
        config = state.wanted_config[state.changed[i]]
        if tables.config[config, CONFIG_ROW] < 0:
            scalar[NEED] = config
            scalar[NUM_CHANGED] = 0
            return MISSES_CONFIG
    scalar[EPOCH] += 1
    _mark(model, state)
    if not _replace(machine, model, tables, state, limit):
        drop_change(model, tables, state)
        if scalar[NEED] != NEED_FEWER:
            return MISSES_SPACE
        scalar[NEW_STEP_NS], scalar[NEW_EXCESS_BYTES] = NEVER, 0
        return EXCEEDED
    excess = 0
    for device in range(machine.num_devices):
        excess += max(0, state.memory[1, device] - machine.memory_bytes[device])
    scalar[NEW_EXCESS_BYTES] = excess
    return DONE


@njit
def run_change(machine, model, tables, state, limit):
    """Simulates what `build_change` made; see rule 2.

    Returns:
        DONE, and `take_change` or `drop_change` may follow; or EXCEEDED, and `drop_change` must.
    """
    scalar = state.scalar
    longest = _busiest(machine, state)
    if longest > limit:
        scalar[NEW_STEP_NS] = longest
        return EXCEEDED
    _set_tails(model, state)
    mark_bare(model, state)
    cut = find_cut(model, tables, state)
    position = find_position(state, cut)
    scalar[CUT], scalar[CUT_READY] = position, cut
    size = restore(machine, model, state, cut, position)
    size = begin(model, tables, state, cut, size)
    if not flat.simulate(machine, model, tables, state, cut, size, limit):
        scalar[NEW_STEP_NS] = limit + 1
        return EXCEEDED
    longest = state.resource[0, state.resource.shape[1] - 1]
    scalar[NEW_STEP_NS] = longest
    return DONE if longest <= limit else EXCEEDED


@njit
def drop_change(model, tables, state):
    """Forgets the proposal."""
    for i in range(state.scalar[NUM_CHANGED]):
        n = state.changed[i]
        free_operator(state, state.op[n])
        _copy(state.op, n, state.saved_op, n)
        if state.op[n, AT_CONFIG] >= 0:
            set_block_rows(model, tables, state, n)
    for i in range(state.scalar[NUM_CHANGED_EDGES]):
        e = state.changed_edges[i]
        free_edge(state, state.edge[e])
        _copy(state.edge, e, state.saved_edge, e)
        state.block_row[model.edge[e, EDGE_BLOCK_F]] = state.edge[e, PAIRS]
        state.block_row[model.edge[e, EDGE_BLOCK_B]] = state.edge[e, PAIRS]
    _unmark(model, state)


@njit
def take_change(model, state):
    """Makes the proposal, which must be DONE, the strategy."""
    scalar, log, new = state.scalar, state.log, state.new_log
    cut, first = scalar[CUT_READY], scalar[CUT]
    used = scalar[NEW_LOG_USED]
    task, pair, block, block_row = state.task, state.pair, model.block, state.block_row
    block_first = state.block_first
    for of in range(len(block_first)):
        if state.block_changed[of] or block_first[of] > cut:
            block_first[of] = NEVER
    for line in range(used - first):
        code, ready, end = new[line, LOG_CODE], new[line, LOG_READY], new[line, LOG_END]
        of = code >> INDEX_BITS
        row = block_row[of] + (code & INDEX_MASK)
        kind = block[of, 0]
        if kind == TRANSFERS:
            pair[row, P_READY], pair[row, P_END] = ready, end
        elif kind == GRADIENTS:
            pair[row, P_READY_B], pair[row, P_END_B] = ready, end
        else:
            task[row, READY], task[row, END] = ready, end
        block_first[of] = min(block_first[of], ready)
        for column in range(NUM_LOG):
            log[first + line, column] = new[line, column]
    for chunk in range(first // LOG_CHUNK, (used + LOG_CHUNK - 1) // LOG_CHUNK):
        least = NEVER
        for at in range(chunk * LOG_CHUNK, min(used, (chunk + 1) * LOG_CHUNK)):
            least = min(least, log[at, LOG_KNOWN])
        state.log_first[chunk] = least
    for save in range(first // state.save_every, min(used // state.save_every, len(state.saves))):
        state.save_which[save] = 1 - state.save_which[save]
    for i in range(scalar[NUM_CHANGED]):
        free_operator(state, state.saved_op[state.changed[i]])
    for i in range(scalar[NUM_CHANGED_EDGES]):
        free_edge(state, state.saved_edge[state.changed_edges[i]])
    _copy(state.load, 0, state.load, 1)
    _copy(state.memory, 0, state.memory, 1)
    scalar[STEP_NS] = scalar[NEW_STEP_NS]
    scalar[MOVED_BYTES] = scalar[NEW_MOVED_BYTES]
    scalar[EXCESS_BYTES] = scalar[NEW_EXCESS_BYTES]
    scalar[NUM_ROWS] = scalar[NEW_NUM_ROWS]
    scalar[LOG_USED] = used
    _unmark(model, state)
