"""How the kernel sees a problem: what its arrays hold, column by column.

1. What never changes is in `Machine` and `Model`; what is filled on demand is in `Tables`; what a
   proposal changes is in `State`.
2. Tasks belong to *blocks*, in the order of `tasks/build.py`: for an operator and a direction, or
   for an edge and a direction, one block. A task is a block and an index in it; ties between tasks
   are broken by block, then by index, as by task number in `tasks/build.py`. Indices have gaps.
3. A block is rebuilt as a whole, into new rows; the old rows stay until the change is accepted.
   So rejecting a change is putting old row numbers back.
4. Of an edge, the pairs of parts are rows: a pair on one device is a dependency, any other is a
   transfer, and a second one back if the edge carries a gradient.

All times are in nanoseconds. Arrays are int64 unless it says otherwise.
"""

from typing import NamedTuple

import numpy as np

MAX_RANK = 8
"""Axes of a tensor, and dimensions of an operator, at most."""

INDEX_BITS = 32
INDEX_MASK = (1 << INDEX_BITS) - 1
"""A task's code is its block << INDEX_BITS | its index; codes sort like task numbers."""

NEVER = 1 << 62
"""Later than any task."""

# Kinds of blocks.
FORWARD, BACKWARD, SYNC, REPORTS, REPORT, TRANSFERS, GRADIENTS = range(7)

# Model.op[operator]: edges in and out, whether it has backward tasks, whether it has tasks for the
# gradients of weights, the first operator on its weights (itself, if that runs their updates),
# bytes of its report, its blocks, and the operators with such tasks on its weights.
(
    OP_IN,
    OP_IN_END,
    OP_OUT,
    OP_OUT_END,
    OP_BACKWARD,
    OP_WEIGHTS,
    OP_FIRST,
    OP_REPORT_BYTES,
    OP_BLOCK_F,
    OP_BLOCK_B,
    OP_BLOCK_S,
    OP_BLOCK_R,
    OP_SHARERS,
    OP_SHARERS_END,
    NUM_OP,
) = range(15)

# Model.edge[edge]: its ends, axes of its tensor, dimensions of its producer, bytes of an element,
# whether a gradient goes back, and on how many edges of the tensor before, its blocks, and how many
# axes inputs before it have.
(
    EDGE_PRODUCER,
    EDGE_CONSUMER,
    EDGE_RANK,
    EDGE_DIMENSIONS,
    EDGE_BYTES,
    EDGE_GRADIENT,
    EDGE_BEFORE,
    EDGE_BLOCK_F,
    EDGE_BLOCK_B,
    EDGE_REGION,
    EDGE_REGIONS,
    NUM_EDGE,
) = range(12)

# Tables.config[config]: parts; first row (-1: not filled in yet); first of its input regions;
# stages, and task indices from stage to stage; combines; reductions of gradients, and by part.
(
    CONFIG_PARTS,
    CONFIG_ROW,
    CONFIG_REGION,
    CONFIG_STAGES,
    CONFIG_WIDTH,
    CONFIG_COMBINE,
    CONFIG_REDUCTION,
    CONFIG_REDUCTIONS,
    CONFIG_BY_PART,
    NUM_CONFIG,
) = range(10)

# Tables.row[row]: bytes of a part: of weights with all that training needs, and of its outputs.
# Then for each class of devices the times of its forward pass, its backward pass, the gradients of
# its weights, and its update (-1: no update).
ROW_WEIGHTS, ROW_OUTPUTS, ROW_TIMES = range(3)
TIME_F, TIME_B, TIME_W, TIME_U, TIMES_PER_CLASS = range(5)

# Tables.reduction[reduction]: its parts in `members`; what is reduced.
RED_MEMBERS, RED_COUNT, RED_ELEMENTS, RED_BYTES, RED_GATHERS, NUM_REDUCTION = range(6)

# Tables.combine[combine]: for each part its group, in `members`; the groups' reductions, which
# combines that cost the same share; whether gradients are summed.
COMB_GROUPS, COMB_REDUCTION, COMB_COUNT, COMB_SUMS, NUM_COMBINE = range(5)

# State.op[operator]: configuration (-1: none yet); devices (in `ints`, followed by lists of links)
# and how many ints there are; first row of its tasks (forward, backward, synchronization, reports)
# and how many there are; bytes that they move; shortest way through forward and backward.
(
    AT_CONFIG,
    AT_DEVICES,
    AT_INTS,
    AT_TASKS,
    AT_NUM_TASKS,
    AT_BYTES,
    AT_MIN_F,
    AT_MIN_B,
    NUM_AT,
) = range(9)

# State.edge[edge]: pairs: first row and number (-1: none yet); in `ints`: where each consumer
# part's pairs begin, where each producer part's begin in the list by producer, that list, and the
# list by consumer; how many ints there are; bytes moved; shortest transfer each way (0 if none is
# needed); whether each part of the producer, of the consumer, has a pair.
(
    PAIRS,
    NUM_PAIRS,
    BY_CONSUMER,
    BY_PRODUCER,
    PAIR_LIST,
    CONSUMER_LIST,
    PAIR_INTS,
    PAIR_BYTES,
    PAIR_MIN_F,
    PAIR_MIN_B,
    PAIR_PRODUCERS,
    PAIR_CONSUMERS,
    NUM_PAIR_AT,
) = range(13)
# The lists hold what a part tells: number of a pair to be transferred, or ~(the other part) if that
# is on the same device.

# State.task[row]: run time (-1: no task); resource (of a report: the device that it is from), or
# -1 - offset of a list of links in `ints`, its length first; when ready; when it ended;
# predecessors still running; latest of their ends; simulation that set those.
TIME, RESOURCE, READY, END, MISSING, LATEST, STAMP = range(7)
NUM_TASK = 8
"""One more than needed: a cache line."""

# State.pair[row]: parts, as producer << 32 | consumer; each way its time (-1: on one device) and
# its links in `ints`, as first << 8 | how many; bytes. Then each way when it was ready and when it
# ended. Rows are padded so that what is read for each task is one cache line.
(
    P_PARTS,
    P_TIME,
    P_LINKS,
    P_TIME_B,
    P_LINKS_B,
    P_BYTES,
    _,
    _,
    P_READY,
    P_END,
    P_READY_B,
    P_END_B,
) = range(12)
NUM_PAIR = 16
LINKS_BITS = 8
LINKS_MASK = (1 << LINKS_BITS) - 1

# State.log[position]: tasks in the order they were started: code, ready, end, and when the last of
# its predecessors to be started was ready (-1: it has none).
LOG_CODE, LOG_READY, LOG_END, LOG_KNOWN, NUM_LOG = range(5)
LOG_CHUNK = 64
"""For each chunk of the log, `State.log_first` has the least LOG_KNOWN."""

# State.scalar
(
    EPOCH,  # number of simulations
    STEP_NS,  # of the accepted strategy
    MOVED_BYTES,
    EXCESS_BYTES,
    NUM_ROWS,  # of operators' tasks, and of pairs twice: at least the number of tasks
    LOG_USED,
    NEW_STEP_NS,  # of the proposal
    NEW_MOVED_BYTES,
    NEW_EXCESS_BYTES,
    NEW_NUM_ROWS,
    NEW_LOG_USED,
    CUT,  # first position of the log that the proposal may change
    CUT_READY,  # and that all before are ready before
    NUM_CHANGED,  # operators of the proposal
    NUM_BARE,  # operators listed after those, see `cut`
    NUM_CHANGED_EDGES,
    NEED,  # what is missing: a configuration, or an array that must grow
    TASKS_SIMULATED,
    BEST_STEP_NS,  # of the best strategy of a walk
    BEST_EXCESS_BYTES,
    BEST_MOVED_BYTES,
    PATIENCE_NS,  # by how much the proposal of a walk may take longer (-1: none is drawn)
    NUM_ACCEPTED,  # proposals of a walk
    MOST_PAIRS,  # that an edge may have, or the proposal counts as too long
    NUM_SCALARS,
) = range(25)

# Outcomes of a proposal.
DONE, EXCEEDED, MISSES_CONFIG, MISSES_SPACE, MISSES_RANDOM = range(5)

# Arrays that grow, as `scalar[NEED]` names them.
NEED_TASKS, NEED_PAIRS, NEED_INTS, NEED_LOG, NEED_SCRATCH, NEED_FEWER = range(6)
"""NEED_FEWER: nothing must grow, but an edge would have more than `MOST_PAIRS`, or a resource more
to do than there is time."""

PAIRS_OF_PROPOSAL = 1 << 16
"""`MOST_PAIRS` where a proposal has a limit: as many as two operators of 256 parts can have."""


class Machine(NamedTuple):
    """Devices, links and routes. Resources are numbered devices first, then links."""

    num_devices: int
    num_resources: int
    num_nodes: int
    device_node: np.ndarray  # (D,): nodes counted from 0
    route_offsets: np.ndarray  # (D * D + 1,) by source * D + destination: links, in `State.ints`;
    # of a device to itself: what it copies with, if that takes time
    route_class: np.ndarray  # int32 (D * D,)
    class_latency: np.ndarray  # (classes of routes,)
    class_bandwidth: np.ndarray  # float64, bytes/s
    link_class: np.ndarray  # int32 (resources,): class of its bandwidth
    link_bandwidth: np.ndarray  # float64 (classes of links,), bytes/s
    device_class: np.ndarray  # (D,)
    compute: np.ndarray  # (D,): resource that its tasks hold
    capacity: np.ndarray  # (resources,): how many tasks it runs at once
    spare: np.ndarray  # (resources,): first place in `State.resource` of all of them but one
    alone_permille: np.ndarray  # (resources,): what a task alone takes, over its time
    memory_bytes: np.ndarray  # (D,)


class Model(NamedTuple):
    """The operator graph, and its blocks."""

    op: np.ndarray  # (N, NUM_OP)
    edge: np.ndarray  # (E, NUM_EDGE)
    shape: np.ndarray  # (E, MAX_RANK) of the tensor
    axis: np.ndarray  # (E, MAX_RANK) for each dimension of the producer its axis
    out_edges: np.ndarray
    sharers: np.ndarray
    block: np.ndarray  # (blocks, 2): kind, and operator or edge
    report: np.ndarray  # (2,): block of the report (-1: none), its time
    training: bool


class Tables(NamedTuple):
    """What is known of configurations; shared by operators that compute the same."""

    config: np.ndarray  # (configs, NUM_CONFIG)
    degrees: np.ndarray  # (configs, MAX_RANK)
    row: np.ndarray  # (rows, ROW_TIMES + TIMES_PER_CLASS * classes)
    regions: np.ndarray  # int32: by input, part and axis: start, stop
    reduction: np.ndarray
    combine: np.ndarray
    members: np.ndarray  # int32


class State(NamedTuple):
    """A strategy's tasks and timeline, and a proposal's beside them."""

    scalar: np.ndarray
    op: np.ndarray  # (N, NUM_AT)
    edge: np.ndarray  # (E, NUM_PAIR_AT)
    block_row: np.ndarray  # (blocks,) first row in `task` or `pair`
    block_first: np.ndarray  # (blocks,) earliest ready time, or earlier
    block_changed: np.ndarray  # (blocks,) 1 during a proposal that changes it
    tail: np.ndarray  # (N, 2) least time from the end of a forward, a backward task to the end
    changed: np.ndarray  # (N,) operators of the proposal, then bare ones
    changed_edges: np.ndarray  # (E,)
    edge_changed: np.ndarray  # (E,) 1 if in changed_edges
    saved_op: np.ndarray
    saved_edge: np.ndarray
    task: np.ndarray  # (rows, NUM_TASK)
    pair: np.ndarray  # (rows, NUM_PAIR)
    ints: np.ndarray  # int32
    arena: np.ndarray  # (3, 1 + 48): first unused row, then free lists by size
    load: np.ndarray  # (2, resources): busy time; accepted and proposed
    memory: np.ndarray  # (2, D): bytes; accepted and proposed
    # (2, resources, spares and one more): when free, and last when the latest task so far ends;
    # time idle until then.
    resource: np.ndarray
    heap: np.ndarray  # (3 * entries,): ready, code, LOG_KNOWN of each
    log: np.ndarray
    new_log: np.ndarray
    log_first: np.ndarray
    # (saves, 2, 2, resources, spares and one more): copies of `resource`, accepted and proposed
    saves: np.ndarray
    save_which: np.ndarray  # (saves,): which of the two is the accepted one
    save_every: int
    scratch: np.ndarray  # (3, many): lists in the making
    axes: np.ndarray  # (7, MAX_RANK): of the edge in the making
    returned: np.ndarray  # (D,): of its gradient, by part of its producer, the elements so far
    wanted_config: np.ndarray  # (N,) of the proposal
    wanted_devices: np.ndarray  # int32 (N, D)
    pattern: np.ndarray  # int32: reductions over neighbours, as `reductions` looks them up
