"""What a task still waits for when a proposal is simulated: found when it is first told."""

from keras_soap.jit import inline
from keras_soap.simulator.layout import (
    AT_CONFIG,
    BACKWARD,
    BY_CONSUMER,
    BY_PRODUCER,
    COMB_REDUCTION,
    CONFIG_BY_PART,
    CONFIG_COMBINE,
    CONFIG_PARTS,
    CONFIG_REDUCTION,
    CONFIG_REDUCTIONS,
    CONFIG_STAGES,
    CONFIG_WIDTH,
    CONSUMER_LIST,
    EDGE_BLOCK_B,
    EDGE_BLOCK_F,
    EDGE_CONSUMER,
    EDGE_GRADIENT,
    EDGE_PRODUCER,
    END,
    FORWARD,
    OP_BLOCK_B,
    OP_BLOCK_F,
    OP_BLOCK_R,
    OP_IN,
    OP_IN_END,
    OP_OUT,
    OP_OUT_END,
    OP_REPORT_BYTES,
    OP_SHARERS,
    OP_SHARERS_END,
    P_END,
    P_END_B,
    P_READY,
    P_READY_B,
    PAIR_LIST,
    PAIRS,
    READY,
    RED_COUNT,
    RED_MEMBERS,
    SYNC,
    TIME,
)


@inline
def count_missing(
    cut,
    of,
    index,
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
):
    """Predecessors of a task that are not before the cut.

    Returns:
        How many; the latest end, and the latest ready time, of those before the cut.
    """
    kind, n = block[of, 0], block[of, 1]
    missing, latest, known = 0, 0, -1
    if kind == FORWARD or kind == BACKWARD:
        config = op[n, AT_CONFIG]
        parts = configs[config, CONFIG_PARTS]
        width = configs[config, CONFIG_WIDTH]
        if width > parts and index % width >= parts:  # a combine
            stage = index // width
            if kind == BACKWARD:
                combine = configs[config, CONFIG_STAGES] - 2 - stage
            else:
                combine = stage
            combine += configs[config, CONFIG_COMBINE]
            reduction = combines[combine, COMB_REDUCTION] + index % width - parts
            first = reductions[reduction, RED_MEMBERS]
            for m in range(first, first + reductions[reduction, RED_COUNT]):
                row = block_row[of] + stage * width + members[m]
                if task[row, READY] < cut and not block_changed[of]:
                    latest = max(latest, task[row, END])
                    known = max(known, task[row, READY])
                else:
                    missing += 1
        elif kind == FORWARD:
            for e in range(model_op[n, OP_IN], model_op[n, OP_IN_END]):
                by_consumer = edge[e, BY_CONSUMER] + index
                first, last = ints[by_consumer], ints[by_consumer + 1]
                producer = model_edge[e, EDGE_PRODUCER]
                before = model_op[producer, OP_BLOCK_F]
                if block_changed[before] or block_first[before] >= cut:
                    missing += last - first
                    continue
                changed = block_changed[model_edge[e, EDGE_BLOCK_F]]
                config = op[producer, AT_CONFIG]
                base = (
                    block_row[before]
                    + (configs[config, CONFIG_STAGES] - 1) * configs[config, CONFIG_WIDTH]
                )
                for listed in range(edge[e, CONSUMER_LIST] + first, edge[e, CONSUMER_LIST] + last):
                    told = ints[listed]
                    k = edge[e, PAIRS] + told
                    if told < 0:
                        row = base + ~told
                        if task[row, READY] < cut:
                            latest = max(latest, task[row, END])
                            known = max(known, task[row, READY])
                        else:
                            missing += 1
                    elif not changed and pair[k, P_READY] < cut:
                        latest = max(latest, pair[k, P_END])
                        known = max(known, pair[k, P_READY])
                    else:
                        missing += 1
        else:
            before = model_op[n, OP_BLOCK_F]
            row = block_row[before] + (configs[config, CONFIG_STAGES] - 1) * width + index
            if not block_changed[before] and task[row, READY] < cut:
                latest, known = task[row, END], task[row, READY]
            else:
                missing += 1
            for i in range(model_op[n, OP_OUT], model_op[n, OP_OUT_END]):
                e = out_edges[i]
                if not model_edge[e, EDGE_GRADIENT]:
                    continue
                by_producer = edge[e, BY_PRODUCER] + index
                first, last = ints[by_producer], ints[by_producer + 1]
                consumer = model_edge[e, EDGE_CONSUMER]
                before = model_op[consumer, OP_BLOCK_B]
                if block_changed[before] or block_first[before] >= cut:
                    missing += last - first
                    continue
                changed = block_changed[model_edge[e, EDGE_BLOCK_B]]
                config = op[consumer, AT_CONFIG]
                base = (
                    block_row[before]
                    + (configs[config, CONFIG_STAGES] - 1) * configs[config, CONFIG_WIDTH]
                )
                for listed in range(edge[e, PAIR_LIST] + first, edge[e, PAIR_LIST] + last):
                    told = ints[listed]
                    k = edge[e, PAIRS] + told
                    if told < 0:
                        row = base + ~told
                        if task[row, READY] < cut:
                            latest = max(latest, task[row, END])
                            known = max(known, task[row, READY])
                        else:
                            missing += 1
                    elif not changed and pair[k, P_READY_B] < cut:
                        latest = max(latest, pair[k, P_END_B])
                        known = max(known, pair[k, P_READY_B])
                    else:
                        missing += 1
    elif kind == SYNC:
        config = op[n, AT_CONFIG]
        num_reductions = configs[config, CONFIG_REDUCTIONS]
        if index < num_reductions:
            reduction = configs[config, CONFIG_REDUCTION] + index
            first = reductions[reduction, RED_MEMBERS]
            count = reductions[reduction, RED_COUNT]
        else:
            first, count = 0, 1
            by_part = configs[config, CONFIG_BY_PART] + index - num_reductions
            listed = configs[config, CONFIG_BY_PART] + 1
            listed += configs[config, CONFIG_PARTS]
            for m in range(listed + members[by_part], listed + members[by_part + 1]):
                row = block_row[of] + members[m]
                if task[row, READY] < cut and not block_changed[of]:
                    latest = max(latest, task[row, END])
                    known = max(known, task[row, READY])
                else:
                    missing += 1
        for i in range(model_op[n, OP_SHARERS], model_op[n, OP_SHARERS_END]):
            sharer = sharers[i]
            before = model_op[sharer, OP_BLOCK_B]
            if block_changed[before] or block_first[before] >= cut:
                missing += count
                continue
            config = op[sharer, AT_CONFIG]
            base = (
                block_row[before] + configs[config, CONFIG_STAGES] * configs[config, CONFIG_WIDTH]
            )
            for m in range(count):
                part = members[first + m] if index < num_reductions else index - num_reductions
                if task[base + part, READY] < cut:
                    latest = max(latest, task[base + part, END])
                    known = max(known, task[base + part, READY])
                else:
                    missing += 1
    else:  # REPORT
        for loss in range(len(op)):
            if not model_op[loss, OP_REPORT_BYTES]:
                continue
            before = model_op[loss, OP_BLOCK_F]
            transfers = block_row[model_op[loss, OP_BLOCK_R]]
            config = op[loss, AT_CONFIG]
            base = (
                block_row[before]
                + (configs[config, CONFIG_STAGES] - 1) * configs[config, CONFIG_WIDTH]
            )
            for part in range(configs[config, CONFIG_PARTS]):
                row = transfers + part if task[transfers + part, TIME] >= 0 else base + part
                if task[row, READY] < cut and not block_changed[before]:
                    latest = max(latest, task[row, END])
                    known = max(known, task[row, READY])
                else:
                    missing += 1
    return missing, latest, known
