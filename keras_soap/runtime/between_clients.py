"""Variables between clients: taking over client 0's values, and gathering shards of all of them.

Both are meetings: every client calls them at the same point of the program.
"""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from keras_soap.runtime import cluster, collectives
from keras_soap.runtime.exchange import client_of, full_name, here, hosts, on, tracing
from keras_soap.runtime.pieces import assemble

if TYPE_CHECKING:
    from keras_soap.runtime.shards import ShardedVariable


def take_over(variables: Sequence[Any]) -> None:
    """Gives variables (of Keras) the values that they have on client 0; nothing without others."""
    ours = cluster.current()
    if ours is None or not variables:
        return
    first = full_name("CPU:0", 0)

    @tf.function(autograph=False)
    def hand_out(*values: tf.Tensor) -> list[tf.Tensor]:
        with tracing("the first weights"):
            result = []
            for value in values:
                with on(first):
                    mine = tf.identity(value)
                result.append(collectives.on_host(mine, first))
            return result

    ours.meet("the first weights", [[v.path, list(v.shape)] for v in variables])
    with ours.watching("the first weights"), tf.device(here()):
        values = [v.value.read_value() for v in variables]
        # Called by itself, it would warn of the many functions that are traced here.
        values = hand_out.get_concrete_function(*values)(*values)
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def is_spread(sharded: "ShardedVariable") -> bool:
    """Whether any client lacks a region, so that gathering takes all of them."""
    regions = set(sharded.regions)
    return any(
        regions
        != {
            region
            for region, device in zip(sharded.regions, sharded.devices, strict=True)
            if client_of(device) == client_of(host)
        }
        for host in hosts()
    )


def gather_function(variables: "Sequence[ShardedVariable]") -> Callable[[], list[tf.Tensor]]:
    """A function that gives variables as wholes, on the host of every client."""

    @functools.cache
    def traced() -> Callable[[], list[tf.Tensor]]:
        return gather.get_concrete_function()

    @tf.function(autograph=False)
    def gather() -> list[tf.Tensor]:
        with tracing("the gathering of weights"):
            return [_gathered(variable) for variable in variables]

    names = [variable.variable.path for variable in variables]
    what = f"reading {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")

    def run() -> list[tf.Tensor]:
        ours = cluster.current()
        assert ours is not None
        ours.meet(what, len(names))
        with ours.watching(what):
            return traced()()

    return run


def _gathered(sharded: "ShardedVariable") -> tf.Tensor:
    pieces = []
    for region in dict.fromkeys(sharded.regions):
        device = sharded.devices[sharded.regions.index(region)]
        with on(device):
            piece = sharded.on(device).value.read_value()
        pieces.append((region, collectives.on_host(piece, device)))
    with on(here()):
        return assemble(pieces)
