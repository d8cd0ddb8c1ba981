"""The kernel's state: how it begins, and how its arrays grow."""

import numpy as np

from keras_soap.simulator.arena import NUM_SIZES
from keras_soap.simulator.layout import (
    AT_CONFIG,
    MAX_RANK,
    NEED,
    NEED_INTS,
    NEED_LOG,
    NEED_PAIRS,
    NEED_SCRATCH,
    NEED_TASKS,
    NEVER,
    NUM_AT,
    NUM_LOG,
    NUM_PAIR,
    NUM_PAIR_AT,
    NUM_PAIRS,
    NUM_SCALARS,
    NUM_TASK,
    OP_OUT,
    OP_OUT_END,
    TIME,
    Machine,
    Model,
    State,
)
from keras_soap.simulator.reductions import NUM_WAYS

_LINE_BYTES = 64

_GROWS = {
    NEED_TASKS: ("task",),
    NEED_PAIRS: ("pair",),
    NEED_INTS: ("ints",),
    NEED_LOG: ("heap", "log", "new_log", "log_first"),
    NEED_SCRATCH: ("scratch",),
}


def empty_state(machine: Machine, model: Model, route_links: np.ndarray) -> State:
    """A state without a strategy."""
    num_operators, num_edges, num_blocks = len(model.op), len(model.edge), len(model.block)
    resources, devices = machine.num_resources, machine.num_devices
    fan_out = int((model.op[:, OP_OUT_END] - model.op[:, OP_OUT]).max(initial=1))
    # About the square root of the number of tasks, so that neither copies nor replays dominate.
    save_every = 256 if devices <= 128 else 4096
    places = int(machine.capacity.sum()) + 1
    num_saves = min(4096, max(64, 2**24 // places))
    arena = np.full((3, 1 + NUM_SIZES), -1, np.int64)
    arena[:, 0] = 0, 0, len(route_links)
    ints = np.zeros(max(1 << 16, 2 * len(route_links)), np.int32)
    ints[: len(route_links)] = route_links
    op = np.zeros((num_operators, NUM_AT), np.int64)
    op[:, AT_CONFIG] = -1
    edge = np.zeros((num_edges, NUM_PAIR_AT), np.int64)
    edge[:, NUM_PAIRS] = -1
    task = _rows(1 << 12, NUM_TASK)
    block_row = np.zeros(num_blocks, np.int64)
    load = np.zeros((2, resources), np.int64)
    report, report_ns = model.report.tolist()
    if report >= 0:
        arena[0, 0] = 1
        task[0, TIME] = report_ns
        load[:, 0] = report_ns
    scratch = max(4 * resources, devices * (fan_out + 3) + 1024, 4096)
    return State(
        scalar=np.zeros(NUM_SCALARS, np.int64),
        op=op,
        edge=edge,
        block_row=block_row,
        block_first=np.full(num_blocks, NEVER, np.int64),
        block_changed=np.zeros(num_blocks, np.int8),
        tail=np.zeros((num_operators, 2), np.int64),
        changed=np.zeros(num_operators, np.int64),
        changed_edges=np.zeros(num_edges, np.int64),
        edge_changed=np.zeros(num_edges, np.int8),
        saved_op=op.copy(),
        saved_edge=edge.copy(),
        task=task,
        pair=_rows(1 << 12, NUM_PAIR),
        ints=ints,
        arena=arena,
        load=load,
        memory=np.zeros((2, devices), np.int64),
        resource=np.zeros((2, places), np.int64),
        heap=np.zeros(3 << 12, np.int64),
        log=np.zeros((1 << 12, NUM_LOG), np.int64),
        new_log=np.zeros((1 << 12, NUM_LOG), np.int64),
        log_first=np.zeros(1 << 12, np.int64),
        saves=np.zeros((num_saves, 2, 2, places), np.int64),
        save_which=np.zeros(num_saves, np.int64),
        save_every=save_every,
        scratch=np.zeros((3, scratch), np.int64),
        axes=np.zeros((7, MAX_RANK), np.int64),
        returned=np.zeros(devices, np.int64),
        wanted_config=np.zeros(num_operators, np.int64),
        wanted_devices=np.zeros((num_operators, devices), np.int32),
        pattern=np.full((NUM_WAYS + 1, devices * (devices + 1) + 1), -1, np.int32),
    )


def grow(state: State) -> State:
    """The state with room for more of what `scalar[NEED]` says was missing."""
    names = _GROWS[int(state.scalar[NEED])]
    return state._replace(**{name: _longer(getattr(state, name)) for name in names})


def _longer(array: np.ndarray) -> np.ndarray:
    """The array with twice the room: columns of `scratch`, rows of others."""
    axis = 1 if array.shape[0] == 3 else 0
    shape = list(array.shape)
    shape[axis] *= 2
    longer = (
        _rows(*shape) if shape[1:] in ([NUM_TASK], [NUM_PAIR]) else np.zeros(shape, array.dtype)
    )
    longer[tuple(slice(0, size) for size in array.shape)] = array
    return longer


def _rows(count: int, width: int) -> np.ndarray:
    """int64 zeros that begin with a cache line."""
    room = np.zeros(count * width + _LINE_BYTES // 8, np.int64)
    skip = -room.ctypes.data % _LINE_BYTES // 8
    return room[skip : skip + count * width].reshape(count, width)
