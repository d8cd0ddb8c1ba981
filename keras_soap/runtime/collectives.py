"""Runs the reductions of `tasks.all_reduce` inside a multi-device function.

1. The moves are those of the plan, round by round, and nothing else moves.
2. Every device ends with bit-identical results: all reduce in the order of ranks, or receive what
   one of them has reduced.
3. Tensors are cut once for each phase, and joined where a later one asks for larger chunks.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tensorflow as tf

from keras_soap.runtime.exchange import client_of, host_of, hosts, is_here, move, on
from keras_soap.tasks.all_reduce import Plan, Round, plan
from keras_soap.topology.device_topology import DeviceTopology


def _sum(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    if len(tensors) == 2:
        return tf.add(*tensors)
    # Not add_n, which starts from whichever tensor it may overwrite, and which graph optimisation
    # makes of several additions: sums would differ by device.
    return tf.reduce_sum(tf.stack(tensors), axis=0)


def _max(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    return functools.reduce(tf.maximum, tensors)


REDUCTIONS: dict[str, Callable[[Sequence[tf.Tensor]], tf.Tensor]] = {"sum": _sum, "max": _max}


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


@dataclass(frozen=True)
class Reductions:
    """Reductions among devices of a topology, by the rounds of `tasks.all_reduce.plan`.

    Attributes:
        topology: The machine.
        device_names: TensorFlow's names of its devices.
    """

    topology: DeviceTopology
    device_names: Sequence[str]

    def reduce(
        self, tensors: Sequence[tf.Tensor], devices: Sequence[str], reduction: str = "sum"
    ) -> list[tf.Tensor]:
        """All-reduce: what each device has of the whole, for tensors of equal shape.

        Args:
            tensors: One on each of `devices`.
            devices: Names of different devices, in the order of their numbers.
            reduction: `"sum"` or `"max"`.
        """
        combine = REDUCTIONS[reduction]
        num_elements = tensors[0].shape.num_elements()
        plan = self._plan(devices, num_elements, tensors[0].dtype.size)
        held = [
            _Pieces(tensor, device, num_elements)
            for tensor, device in zip(tensors, devices, strict=True)
        ]
        for phase in plan.phases:
            rounds = list(phase.rounds())
            for step in itertools.chain.from_iterable(each.moves for each in rounds):
                held[step.source].cut(step.start, step.stop)
                held[step.destination].cut(step.start, step.stop)
            for each in rounds:
                _run(each, held, devices, combine)
        return [pieces.whole() for pieces in held]

    def reduce_together(
        self, tensors: Sequence[Sequence[tf.Tensor]], devices: Sequence[str]
    ) -> list[list[tf.Tensor]]:
        """Sums of several tensors that are reduced as one value: those of each device.

        Args:
            tensors: Of each of `devices`; of one dtype, and of equal shapes on all devices.
            devices: As of `reduce`.
        """
        if len(devices) == 1:
            return [list(own) for own in tensors]
        if len(tensors[0]) == 1:
            return [[whole] for whole in self.reduce([own for (own,) in tensors], devices)]
        shapes = [tensor.shape for tensor in tensors[0]]
        values = []
        for own, device in zip(tensors, devices, strict=True):
            with on(device):
                values.append(tf.concat([_flat(tensor) for tensor in own], 0))
        result = []
        for value, device in zip(self.reduce(values, devices), devices, strict=True):
            with on(device):
                pieces = tf.split(value, [shape.num_elements() for shape in shapes])
                result.append([_shaped(piece, s) for piece, s in zip(pieces, shapes, strict=True)])
        return result

    def gather_slices(
        self, slices: Sequence[tf.IndexedSlices], devices: Sequence[str]
    ) -> list[tf.IndexedSlices]:
        """All rows of sparse gradients, on each device, in the order of ranks."""
        values, indices = slices[0].values, slices[0].indices
        # Where it is not known how many rows there are, they count as one.
        num_rows = values.shape[0] or 1
        row_bytes = math.prod(values.shape[1:]) * values.dtype.size + indices.dtype.size
        plan = self._plan(devices, num_rows, row_bytes, gathers=True)
        held = [{rank: own} for rank, own in enumerate(slices)]
        for each in plan.rounds():
            for step in each.moves:
                owner = step.start // num_rows
                sent = held[step.source][owner]
                way = devices[step.source], devices[step.destination]
                shape = slices[step.destination].dense_shape  # Which is there.
                held[step.destination][owner] = tf.IndexedSlices(
                    move(sent.values, *way), move(sent.indices, *way), shape
                )
        result = []
        for by_rank, device in zip(held, devices, strict=True):
            with on(device):
                result.append(join_slices([by_rank[rank] for rank in sorted(by_rank)]))
        return result

    def _plan(
        self, devices: Sequence[str], num_elements: int, element_bytes: int, gathers: bool = False
    ) -> Plan:
        numbers = [self._numbers[device] for device in devices]
        return plan(self.topology, numbers, num_elements, element_bytes, gathers)

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.device_names)}


class _Pieces:
    """A tensor on a device, in pieces: cut and joined only where rounds ask for it.

    Args:
        tensor: The whole.
        device: Where it is.
        num_elements: Of the whole; spans [start, stop) count them.
    """

    def __init__(self, tensor: tf.Tensor, device: str, num_elements: int):
        self._shape = tensor.shape
        self._device = device
        self._pieces: dict[tuple[int, int], tf.Tensor] = {(0, num_elements): tensor}
        self._cuts: set[int] = set()

    def cut(self, start: int, stop: int) -> None:
        """Notes that a span will be read or written, so that all cuts are made at once."""
        self._cuts |= {start, stop}

    def read(self, start: int, stop: int) -> tf.Tensor:
        """The elements of a span that was noted."""
        spans = self._spans(start, stop)
        if len(spans) > 1:
            pieces = [self._pieces.pop(span) for span in spans]
            with on(self._device):
                self._pieces[start, stop] = tf.concat(pieces, 0)
        return self._pieces[start, stop]

    def write(self, start: int, stop: int, piece: tf.Tensor) -> None:
        """Replaces the elements of a span that was noted."""
        for span in self._spans(start, stop):
            del self._pieces[span]
        self._pieces[start, stop] = piece

    def whole(self) -> tf.Tensor:
        """The tensor, in its shape."""
        num_elements = max(stop for _, stop in self._pieces)
        piece = self.read(0, num_elements)
        with on(self._device):
            return _shaped(piece, self._shape)

    def _spans(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The pieces that make up a span, after what is to be cut is cut."""
        self._apply_cuts()
        return sorted(s for s in self._pieces if start <= s[0] and s[1] <= stop)

    def _apply_cuts(self) -> None:
        cuts, self._cuts = sorted(self._cuts), set()
        for start, stop in list(self._pieces) if cuts else []:
            inner = [start, *(cut for cut in cuts if start < cut < stop), stop]
            if len(inner) > 2:
                sizes = [b - a for a, b in itertools.pairwise(inner)]
                with on(self._device):
                    flat = _flat(self._pieces.pop((start, stop)))
                    parts = tf.split(flat, sizes)
                self._pieces |= dict(zip(itertools.pairwise(inner), parts, strict=True))


def _run(
    each: Round,
    held: Sequence[_Pieces],
    devices: Sequence[str],
    combine: Callable[[Sequence[tf.Tensor]], tf.Tensor],
) -> None:
    """Executes a round of a reduction.

    Args:
        each: The round.
        held: What each rank has, where its phase is cut already.
        devices: Of ranks.
        combine: What adds.
    """
    arrived: dict[tuple[int, int, int], dict[int, tf.Tensor]] = {}
    for step in each.moves:
        piece = held[step.source].read(step.start, step.stop)
        at = step.destination, step.start, step.stop
        arrived.setdefault(at, {})[step.source] = move(
            piece, devices[step.source], devices[step.destination]
        )
    for (rank, start, stop), by_rank in arrived.items():
        if each.adds:
            by_rank[rank] = held[rank].read(start, stop)
            pieces = [by_rank[source] for source in sorted(by_rank)]
            with on(devices[rank]):
                piece = combine(pieces)
        else:
            (piece,) = by_rank.values()
        held[rank].write(start, stop, piece)


def _flat(tensor: tf.Tensor) -> tf.Tensor:
    return tensor if tensor.shape.rank == 1 else tf.reshape(tensor, [-1])


def _shaped(tensor: tf.Tensor, shape: tf.TensorShape) -> tf.Tensor:
    return tensor if tensor.shape == shape else tf.reshape(tensor, shape)


def join_slices(slices: Sequence[tf.IndexedSlices]) -> tf.IndexedSlices:
    """The rows of several sparse gradients on one device."""
    if len(slices) == 1:
        return slices[0]
    return tf.IndexedSlices(
        tf.concat([s.values for s in slices], 0),
        tf.concat([s.indices for s in slices], 0),
        slices[0].dense_shape,
    )
