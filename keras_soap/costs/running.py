"""Runs functions on one device, as tasks of a step run."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_soap.topology.local import sync_devices

UNCACHED_BYTES = 64 * 2**20
"""Of what runs go through before they come to the same again. In a step, what a part reads was last
touched long ago, and is in no cache of a core any more."""

MOST_SETS = 64
"""Of arguments: what is so small takes no time to be read."""


def runner(
    function: Callable[[Sequence[tf.Tensor]], list[Any]],
    arguments: Sequence[tf.Tensor],
    device: str,
    copies: int = 1,
    beside: int = 1,
    uncached: bool = False,
    num_made: int = 0,
) -> Callable[[], list[tf.Tensor]]:
    """Runs `function` on the arguments, which are on `device`; has run once.

    Args:
        function: What to run. All that it makes is returned, so that nothing is pruned.
        arguments: Of the function.
        device: Where.
        copies: How often, one after the other.
        beside: How many such rows of copies run at once.
        uncached: Whether each copy finds its arguments where no cache holds them any more.
        num_made: So many of the arguments, the first ones, are made anew before each copy, and
            returned after what it makes.
    """
    sets = [list(arguments)]
    if uncached:
        num_bytes = sum(x.shape.num_elements() * x.dtype.size for x in arguments)
        wanted = max(beside, min(MOST_SETS, -(-UNCACHED_BYTES // max(1, num_bytes))))
        sets += [on_device(arguments, device) for _ in range(wanted - 1)]
    in_turn = itertools.cycle(sets)

    @tf.function(
        autograph=False,
        input_signature=[tf.TensorSpec(x.shape, x.dtype) for x in arguments] * (copies * beside),
    )
    def run(*given: tf.Tensor) -> list[Any]:
        made: list[Any] = []
        rows: list[list[Any]] = [[] for _ in range(beside)]
        for copy in range(copies * beside):
            before = rows[copy % beside]
            mine = given[copy * len(arguments) : (copy + 1) * len(arguments)]
            with tf.device(device):
                if before:
                    # Only arguments wait: constants that did would be merged, into a cycle.
                    with tf.control_dependencies(before):
                        mine = tuple(tf.identity(tensor) for tensor in mine)
                new = [tf.raw_ops.DeepCopy(x=tensor) for tensor in mine[:num_made]]
                # What reads some of them waits for all.
                with tf.control_dependencies(new):
                    read = [tf.identity(tensor) for tensor in new]
                rows[copy % beside] = [*function([*read, *mine[num_made:]]), *new]
            made += rows[copy % beside]
        return made

    concrete = run.get_concrete_function()

    def call() -> list[tf.Tensor]:
        made = concrete(*itertools.chain(*itertools.islice(in_turn, copies * beside)))
        sync_devices()
        return made

    call()
    return call


def on_device(values: Sequence[Any], device: str) -> list[tf.Tensor]:
    """Copies of the values on a device, in memory of their own."""
    with tf.device(device):
        return [tf.constant(np.array(value)) for value in values]
