"""Hands `events` plain arrays: taking them out of tuples in its loop would count references."""

from keras_soap.jit import njit
from keras_soap.simulator import events


@njit
def simulate(machine, model, tables, state, cut, size, limit):
    """See `events.run`."""
    return events.run(
        cut,
        size,
        limit,
        machine.num_devices,
        state.save_every,
        model.report[0],
        machine.route_offsets,
        machine.capacity,
        machine.spare,
        machine.alone_permille,
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
