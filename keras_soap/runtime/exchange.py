"""Traces one step on every client: its own part as it runs, the others' parts in outline.

1. All clients trace the same program, in the same order. `on(device)` decides where what follows
   goes: into the step, if the device is of this client; else into a graph that is thrown away.
   What is traced there never runs, but says shapes and types of what others make.
2. `move` between devices of one client is a copy. Between two clients, the source sends and the
   destination receives, by collective operations of a group of two. All clients count all moves,
   so both sides name a move alike.
3. No tensor of the other graph can reach the step: TensorFlow refuses it.

Without a cluster every device is of this process, and nothing of this leaves a trace.
"""

import contextlib
import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import tensorflow as tf
from tensorflow.python.framework.func_graph import FuncGraph

from keras_soap.errors import ExecutionError
from keras_soap.runtime import cluster

FIRST_GROUP = 1 << 20
"""Groups of two are numbered from here. DTensor's own groups have small numbers."""

FEED = "feed/"
"""Scope of what places batches."""

SENT_AS = {
    tf.bfloat16: tf.float16,
    tf.uint8: tf.int32,
    tf.int8: tf.int32,
    tf.int16: tf.int32,
    tf.uint16: tf.int32,
}
"""Types that collective operations do not take, and what they travel as."""


@dataclass
class _Tracing:
    """The graph of the step of this client, one for what others do, and moves between clients."""

    here: tf.Graph
    elsewhere: FuncGraph
    moves: list[str] = field(default_factory=list)
    num_bytes: int = 0


_tracing: list[_Tracing] = []


@contextlib.contextmanager
def tracing(what: str) -> Iterator[None]:
    """Surrounds what is traced of one function that runs on all clients.

    Args:
        what: Of which function, for errors.
    """
    ours = cluster.current()
    if ours is None:
        yield
        return
    _tracing.append(_Tracing(tf.compat.v1.get_default_graph(), FuncGraph("elsewhere")))
    try:
        yield
        moves, ours.bytes_between[what] = _tracing[-1].moves, _tracing[-1].num_bytes
    finally:
        _tracing.pop()
    # If these differed, clients would wait for each other for ever.
    ours.agree(
        f"tracing {what}",
        _digests(moves),
        cluster.REPORT,
    )


def _digests(moves: list[str]) -> dict[str, str]:
    """What clients compare of their moves; a table of all of them could be too long to send."""
    facts = {"the number of moves": str(len(moves))}
    for start in range(0, len(moves), 100):
        some = "\n".join(moves[start : start + 100])
        digest = hashlib.sha256(some.encode()).hexdigest()[:8]
        facts[f"moves from number {start}"] = f"{digest} ({moves[start]}, …)"
    return facts


@functools.cache
def client_of(device: str) -> int:
    """The number of the client that has a device."""
    return tf.DeviceSpec.from_string(device).task or 0


def is_here(device: str) -> bool:
    """Whether a device is of this client."""
    return client_of(device) == cluster.client()


@functools.cache
def host_of(device: str) -> str:
    """The host of a device: where batches arrive, and logs are made."""
    spec = tf.DeviceSpec.from_string(device)
    return spec.replace(device_type="CPU", device_index=0).to_string()


@functools.cache
def _kind(device: str) -> str | None:
    return tf.DeviceSpec.from_string(device).device_type


def hosts() -> list[str]:
    """The hosts of all clients, in the order of their numbers."""
    return [full_name("CPU:0", client) for client in range(cluster.num_clients())]


def here() -> str:
    """The host of this client."""
    return full_name("CPU:0", cluster.client())


def full_name(device: str, client: int = 0) -> str:
    """`"CPU:0"` as TensorFlow names it in graphs."""
    job = "localhost" if cluster.current() is None else cluster.JOB
    return f"/job:{job}/replica:0/task:{client}/device:{device}"


@contextlib.contextmanager
def on(device: str) -> Iterator[None]:
    """Places what follows on a device, of this client or of another."""
    with contextlib.ExitStack() as stack:
        if _tracing:
            graphs = _tracing[-1]
            graph = graphs.here if is_here(device) else graphs.elsewhere
            if tf.compat.v1.get_default_graph() is not graph:
                stack.enter_context(graph.as_default())
        else:
            assert is_here(device), f"{device} is elsewhere"
        stack.enter_context(tf.device(device))
        yield


def move(tensor: tf.Tensor, source: str, device: str) -> tf.Tensor:
    """A copy on `device` of a tensor on `source`."""
    if client_of(source) == client_of(device):
        with on(device):
            return tf.identity(tensor)
    if _kind(source) != _kind(device):
        # The devices of a collective operation are of one kind: it goes from host to host.
        there, here_ = host_of(source), host_of(device)
        return move(move(move(tensor, source, there), there, here_), here_, device)
    ours = cluster.current()
    assert ours is not None
    keys = ours.number_transfer(source, device)
    shape = tensor.shape.as_list() if tensor.shape.rank is not None else None
    graphs = _tracing[-1]
    graphs.moves.append(f"{tensor.dtype.name} {shape} from {source} to {device}")
    graphs.num_bytes += (tensor.shape.num_elements() or 0) * tensor.dtype.size
    if is_here(source):
        with on(source):
            _send(tensor, *keys)
    elif is_here(device):
        with on(device):
            return _receive(tensor, *keys)
    return placeholder(tensor.shape, tensor.dtype, device)


def placeholder(shape: tf.TensorShape | Sequence[int], dtype: tf.DType, device: str) -> tf.Tensor:
    """What stands for a tensor that another client makes."""
    with on(device):
        return tf.raw_ops.Placeholder(dtype=dtype, shape=shape)


def _send(tensor: tf.Tensor, group: int, instance: int) -> None:
    if tensor.dtype == tf.bfloat16:
        tensor = tf.bitcast(tensor, SENT_AS[tensor.dtype])
    elif tensor.dtype in SENT_AS:
        tensor = tf.cast(tensor, SENT_AS[tensor.dtype])
    sent = tf.raw_ops.CollectiveBcastSendV2(
        input=tensor,
        group_size=2,
        group_key=FIRST_GROUP + group,
        instance_key=instance,
        # Not timed out: TensorFlow keeps a thread for every time limit. The coordination service
        # notices a client that has ended, and ends all operations with an error.
        communication_hint="ring",
    )
    # Nothing reads what was sent; without this it would be pruned.
    _keep(sent)


def _receive(like: tf.Tensor, group: int, instance: int) -> tf.Tensor:
    if not like.shape.is_fully_defined():
        raise ExecutionError(
            f"{like.op.name!r}, of shape {like.shape}, cannot be sent to another host: its size "
            "must be known ahead. Place what makes and reads it on the devices of one host."
        )
    dtype = SENT_AS.get(like.dtype, like.dtype)
    arrived = tf.raw_ops.CollectiveBcastRecvV2(
        T=dtype,
        shape=like.shape.as_list(),
        group_size=2,
        group_key=FIRST_GROUP + group,
        instance_key=instance,
        communication_hint="ring",
    )
    arrived.set_shape(like.shape)
    # Where nothing needs what arrives, it must arrive all the same, or the sender waits for ever.
    _keep(arrived)
    if like.dtype == tf.bfloat16:
        return tf.bitcast(arrived, tf.bfloat16)
    return tf.cast(arrived, like.dtype) if like.dtype != dtype else arrived


def _keep(tensor: tf.Tensor) -> None:
    tensor.graph.control_outputs.append(tensor.op)
