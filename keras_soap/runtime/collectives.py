"""Runs the reductions of `tasks.all_reduce` inside a multi-device function.

1. On one host, all devices reduce as `tasks.all_reduce` says.
2. Over several, the devices of each host reduce, then those of different hosts among
   themselves, which hand the result on to the others of their host.

Every device ends with bit-identical results: all add in the order of ranks, or receive the sum that
one of them made.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_soap.runtime.exchange import client_of, host_of, hosts, is_here, move, on
from keras_soap.tasks.all_reduce import chunk, is_direct, rounds

REDUCTIONS: dict[str, Callable[[Sequence[tf.Tensor]], tf.Tensor]] = {
    # Not add_n, which starts from whichever tensor it may overwrite: sums would differ by device.
    "sum": lambda tensors: tf.reduce_sum(tf.stack(tensors), axis=0),
    "max": lambda tensors: tf.reduce_max(tf.stack(tensors), axis=0),
}


def spread(tensor: tf.Tensor, source: str, devices: Sequence[str]) -> dict[str, tf.Tensor]:
    """Copies of a tensor on `source`, by device; to another host it goes once."""
    result: dict[str, tf.Tensor] = {}
    first = {client_of(source): source}
    made = {source: tensor}
    for device in devices:
        nearest = first.get(client_of(device), source)
        if device not in made:
            made[device] = move(made[nearest], nearest, device)
            first.setdefault(client_of(device), device)
        result[device] = made[device]
    return result


def everywhere(tensor: tf.Tensor, source: str) -> tuple[tf.Tensor, str]:
    """The copy of a tensor on `source` that this client has, and where: all clients get one."""
    away = [host for host in hosts() if client_of(host) != client_of(source)]
    copies = spread(tensor, source, [source, *away])
    device = next(device for device in copies if is_here(device))
    return copies[device], device


def on_host(tensor: tf.Tensor, source: str) -> tf.Tensor:
    """The copy of a tensor on `source` that this client has on its host: all clients get one."""
    copy, device = everywhere(tensor, source)
    return move(copy, device, host_of(device))


def reduce(
    tensors: Sequence[tf.Tensor], devices: Sequence[str], reduction: str = "sum"
) -> list[tf.Tensor]:
    """All-reduce: what each device has of the whole, for tensors of equal shape.

    Args:
        tensors: One on each of `devices`.
        devices: Names of different devices, in the order of their numbers.
        reduction: `"sum"` or `"max"`.
    """
    if len(tensors) == 1:
        return list(tensors)
    members: dict[int, list[int]] = {}
    for position, device in enumerate(devices):
        members.setdefault(client_of(device), []).append(position)
    if 1 < len(members) < len(devices):
        return _hierarchical(tensors, devices, list(members.values()), reduction)
    combine = REDUCTIONS[reduction]
    num_elements = tensors[0].shape.num_elements()
    if is_direct(len(tensors), num_elements * tensors[0].dtype.size):
        return [
            _on(
                device,
                combine,
                [_moved(t, source, device) for t, source in zip(tensors, devices, strict=True)],
            )
            for device in devices
        ]
    return _ring(tensors, devices, combine)


def _hierarchical(
    tensors: Sequence[tf.Tensor],
    devices: Sequence[str],
    members: Sequence[Sequence[int]],
    reduction: str,
) -> list[tf.Tensor]:
    """Inside each host, then across hosts, then back.

    Each device of a host has a share of the work: a chunk of the value, which it reduces inside its
    host, then with the devices of the other hosts that have the same chunk. Small values, and hosts
    with unequal numbers of devices, have one chunk.

    Args:
        tensors: One on each of `devices`.
        devices: Of several hosts.
        members: For each host, the positions of its devices.
        reduction: As in `reduce`.
    """
    shape, dtype = tensors[0].shape, tensors[0].dtype
    num_elements = shape.num_elements()
    ranks = min(len(positions) for positions in members)
    is_small = is_direct(len(tensors), num_elements * dtype.size)
    if is_small or any(len(positions) != ranks for positions in members):
        ranks = 1
    sizes = [stop - start for start, stop in (chunk(r, ranks, num_elements) for r in range(ranks))]
    chunks = [
        _on(device, lambda t: tf.split(tf.reshape(t, [-1]), sizes), tensor)
        for tensor, device in zip(tensors, devices, strict=True)
    ]
    reduced: list[list[tf.Tensor]] = [[] for _ in devices]
    for rank in range(ranks):
        owners = [devices[positions[rank]] for positions in members]
        inside = []
        for positions, owner in zip(members, owners, strict=True):
            arrived = [_moved(chunks[p][rank], devices[p], owner) for p in positions]
            inside.append(
                arrived[0] if len(arrived) == 1 else _on(owner, REDUCTIONS[reduction], arrived)
            )
        across = reduce(inside, owners, reduction)
        for positions, owner, value in zip(members, owners, across, strict=True):
            for position in positions:
                reduced[position].append(_moved(value, owner, devices[position]))
    return [
        _on(device, lambda pieces: tf.reshape(tf.concat(pieces, 0), shape), pieces)
        for device, pieces in zip(devices, reduced, strict=True)
    ]


def _moved(tensor: tf.Tensor, source: str, device: str) -> tf.Tensor:
    return tensor if source == device else move(tensor, source, device)


def _ring(
    tensors: Sequence[tf.Tensor], devices: Sequence[str], combine: Callable[..., tf.Tensor]
) -> list[tf.Tensor]:
    ranks = len(devices)
    shape, dtype = tensors[0].shape, tensors[0].dtype
    num_elements = shape.num_elements()
    sizes = [
        stop - start for start, stop in (chunk(rank, ranks, num_elements) for rank in range(ranks))
    ]
    chunks = []
    for tensor, device in zip(tensors, devices, strict=True):
        with on(device):
            chunks.append(tf.split(tf.reshape(tensor, [-1]), sizes))
    starts = {chunk(rank, ranks, num_elements)[0]: rank for rank in range(ranks) if sizes[rank]}
    for number, moves in enumerate(rounds(ranks, num_elements, dtype.size)):
        for step in moves:
            piece = starts[step.start]
            source, target = chunks[step.source], chunks[step.destination]
            arrived = move(source[piece], devices[step.source], devices[step.destination])
            if number < ranks - 1:
                arrived = _on(devices[step.destination], combine, [target[piece], arrived])
            target[piece] = arrived
    return [
        _on(device, lambda pieces: tf.reshape(tf.concat(pieces, 0), shape), pieces)
        for device, pieces in zip(devices, chunks, strict=True)
    ]


def gather_slices(
    slices: Sequence[tf.IndexedSlices], devices: Sequence[str]
) -> list[tf.IndexedSlices]:
    """All rows of sparse gradients, on each device, in the order of ranks."""
    if len(slices) == 1:
        return list(slices)
    copies = [
        (spread(s.values, source, devices), spread(s.indices, source, devices))
        for s, source in zip(slices, devices, strict=True)
    ]
    result = []
    for own, device in zip(slices, devices, strict=True):
        here = [
            s if s is own else tf.IndexedSlices(values[device], indices[device], own.dense_shape)
            for s, (values, indices) in zip(slices, copies, strict=True)
        ]
        with on(device):
            result.append(join_slices(here))
    return result


def join_slices(slices: Sequence[tf.IndexedSlices]) -> tf.IndexedSlices:
    """The rows of several sparse gradients on one device."""
    if len(slices) == 1:
        return slices[0]
    return tf.IndexedSlices(
        tf.concat([s.values for s in slices], 0),
        tf.concat([s.indices for s in slices], 0),
        slices[0].dense_shape,
    )


def _on(device: str, function: Callable[..., tf.Tensor], argument: Any) -> tf.Tensor:
    with on(device):
        return function(argument)
