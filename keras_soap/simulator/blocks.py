"""Builds the blocks of one operator from `Tables`; agrees with `tasks/build.py`.

1. Task indices of a forward or backward block: stage s of part p is s · width + p, the combine of
   group g after stage s is s · width + parts + g. Groups of one part have no task. In a backward
   block the tasks for the gradients of weights come behind all stages, part by part.
2. Of a synchronization block: reductions in their order, then for each part its update.
3. Of a report block: for each part its transfer.
"""

from keras_soap.jit import njit
from keras_soap.simulator.arena import INT_ROWS, TASK_ROWS, give_back, take
from keras_soap.simulator.layout import (
    AT_BYTES,
    AT_CONFIG,
    AT_DEVICES,
    AT_INTS,
    AT_MIN_B,
    AT_MIN_F,
    AT_NUM_TASKS,
    AT_TASKS,
    COMB_COUNT,
    COMB_REDUCTION,
    COMB_SUMS,
    CONFIG_COMBINE,
    CONFIG_PARTS,
    CONFIG_REDUCTION,
    CONFIG_REDUCTIONS,
    CONFIG_ROW,
    CONFIG_STAGES,
    CONFIG_WIDTH,
    NEVER,
    NEW_MOVED_BYTES,
    NEW_NUM_ROWS,
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
def _copy_tasks(state, source, target, count):
    """Makes tasks that take as long as others, and hold the same."""
    for i in range(count):
        state.task[target + i, TIME] = state.task[source + i, TIME]
        state.task[target + i, RESOURCE] = state.task[source + i, RESOURCE]


@njit
def _combine(machine, tables, state, combine, row, devices, used):
    """Makes the tasks of a combine; gives the bytes moved (-1: no space) and scratch used."""
    moved = 0
    for group in range(combine[COMB_COUNT]):
        reduction = tables.reduction[combine[COMB_REDUCTION] + group]
        if reduction[RED_COUNT] > 1:
            more, used = _reduce(machine, tables, state, reduction, devices, row + group, used)
            if more < 0:
                return -1, used
            moved += more
    return moved, used


@njit
def _stages(machine, tables, state, n, row, forward, devices, used):
    """Makes the tasks of the stages of one direction.

    Args:
        machine, tables, state, devices: As of `build_operator`.
        n: The operator.
        row: Where its tasks of this direction begin.
        forward: Where those of the forward direction begin, whose combines cost the same; -1 if
            this is that direction.
        used: Of scratch.

    Returns:
        The bytes that combines move in this direction (-1: no space), and in the backward one; the
        shortest time of a part; scratch used.
    """
    config = tables.config[state.op[n, AT_CONFIG]]
    parts, stages, width = config[CONFIG_PARTS], config[CONFIG_STAGES], config[CONFIG_WIDTH]
    backward = forward >= 0
    shortest, moved, moved_back = 0, 0, 0
    of_stage, known = 0, -1
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
            if backward:
                if combine[COMB_SUMS]:
                    like = forward + at * width + parts
                    _copy_tasks(state, like, row + parts, combine[COMB_COUNT])
            else:
                if combine[COMB_REDUCTION] == known:
                    _copy_tasks(state, row + parts - width, row + parts, combine[COMB_COUNT])
                else:
                    of_stage, used = _combine(
                        machine, tables, state, combine, row + parts, devices, used
                    )
                    if of_stage < 0:
                        return -1, 0, 0, used
                    known = combine[COMB_REDUCTION]
                moved += of_stage
                if combine[COMB_SUMS]:
                    moved_back += of_stage
        row += width
    return moved, moved_back, shortest, used


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
    moved, moved_back, at[AT_MIN_F], used = _stages(
        machine, tables, state, n, first, -1, devices, 0
    )
    if moved < 0:
        return False
    at[AT_BYTES] = moved
    at[AT_MIN_B] = 0
    if model.op[n, OP_BACKWARD]:
        row = state.block_row[model.op[n, OP_BLOCK_B]]
        _, _, at[AT_MIN_B], used = _stages(machine, tables, state, n, row, first, devices, used)
        at[AT_BYTES] += moved_back
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
def _weigh_task(state, row, times):
    """Adds a task to the proposed work, so many times."""
    time = state.task[row, TIME]
    if time < 0:
        return
    load, ints, resource = state.load[1], state.ints, state.task[row, RESOURCE]
    if resource >= 0:
        load[resource] += times * time
    else:
        links = -1 - resource
        for k in range(links + 1, links + 1 + ints[links]):
            load[ints[k]] += times * time


@njit
def weigh_parts(machine, model, tables, state, n, number, devices, sign):
    """Adds what operator `n` computes to the proposed work, or takes it away.

    That is all that it does but for what `weigh_others` adds.

    Args:
        machine, model, tables, state, n: As of `build_operator`.
        number: The configuration, whose tasks need not be built.
        devices: Of its parts.
        sign: 1 to add, -1 to take away.
    """
    config, load = tables.config[number], state.load[1]
    last = TIME_F
    if model.op[n, OP_BACKWARD]:
        last = TIME_W if model.op[n, OP_WEIGHTS] else TIME_B
    for part in range(config[CONFIG_PARTS]):
        compute = machine.compute[devices[part]]
        for which in range(TIME_F, last + 1):
            load[compute] += sign * _time(machine, tables, config, part, devices, which)


@njit
def weigh_others(machine, model, tables, state, n, sign):
    """Adds reductions, updates, reports and memory of operator `n` to what is proposed.

    With a `sign` of -1 they are taken away.
    """
    at = state.op[n]
    load, memory, task, ints = state.load[1], state.memory[1], state.task, state.ints
    config = tables.config[at[AT_CONFIG]]
    parts, stages, width = config[CONFIG_PARTS], config[CONFIG_STAGES], config[CONFIG_WIDTH]
    row, times = at[AT_TASKS] + parts, 0
    for stage in range(stages - 1):
        # The same forward and backward, and often in the stages that follow.
        combine = tables.combine[config[CONFIG_COMBINE] + stage]
        times += 2 if model.op[n, OP_BACKWARD] and combine[COMB_SUMS] else 1
        following = tables.combine[config[CONFIG_COMBINE] + min(stage + 1, stages - 2)]
        if stage == stages - 2 or following[COMB_REDUCTION] != combine[COMB_REDUCTION]:
            for group in range(combine[COMB_COUNT]):
                _weigh_task(state, row + group, sign * times)
            times = 0
        row += width
    owns = model.op[n, OP_FIRST] == n
    if owns and model.op[n, OP_SHARERS] < model.op[n, OP_SHARERS_END]:
        row = state.block_row[model.op[n, OP_BLOCK_S]]
        for of in range(row, row + config[CONFIG_REDUCTIONS] + parts):
            _weigh_task(state, of, sign)
    if model.op[n, OP_REPORT_BYTES]:
        first = state.block_row[model.op[n, OP_BLOCK_R]]
        for row in range(first, first + parts):
            if task[row, TIME] >= 0:
                route = task[row, RESOURCE] * machine.num_devices + _REPORT_DEVICE
                for k in range(machine.route_offsets[route], machine.route_offsets[route + 1]):
                    load[ints[k]] += sign * task[row, TIME]
    for part in range(parts):
        row = config[CONFIG_ROW] + part
        num_bytes = tables.row[row, ROW_OUTPUTS]
        if owns:
            num_bytes += tables.row[row, ROW_WEIGHTS]
        memory[ints[at[AT_DEVICES] + part]] += sign * num_bytes
    state.scalar[NEW_MOVED_BYTES] += sign * at[AT_BYTES]
    state.scalar[NEW_NUM_ROWS] += sign * at[AT_NUM_TASKS]
