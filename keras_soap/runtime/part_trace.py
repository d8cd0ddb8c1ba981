"""What the forward pass of a part leaves for its backward pass."""

from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf


@dataclass
class PartTrace:
    """Of one part."""

    tape: tf.GradientTape
    inputs: list[tf.Tensor | None]
    weights: list[tf.Tensor]
    combined: list[tf.Tensor]
    contributions: list[tf.Tensor]
    outputs: tuple[Any, ...]
    """A tensor for each output; None for a space."""
    report: tf.Tensor | None = None
    kept: list[tuple[int, tf.Tensor, tf.Tensor]] = field(default_factory=list)
    """What the rule kept in memory: stage, tensor as made, tensor as later stages read it. Every
    stage is differentiated by itself, from its contribution and what it kept, back to what it
    read."""

    def watch(self) -> None:
        """Has the tape, which records, watch all that the part differentiates for."""
        kept = [copy for _, _, copy in self.kept]
        for tensor in (*self.inputs, *self.weights, *self.combined, *kept):
            if tensor is not None and tensor.dtype.is_floating:
                self.tape.watch(tensor)

    def sources(self) -> list[tf.Tensor]:
        """What a part differentiates for; a read of nothing is given a constant instead."""
        inputs = [tf.constant(0.0) if tensor is None else tensor for tensor in self.inputs]
        kept = [copy for _, _, copy in self.kept]
        return [*inputs, *self.weights, *self.combined, *kept]


def apart(tensor: tf.Tensor) -> tf.Tensor:
    """An input of a part behind which nothing can be seen.

    Keras's cross-entropies look for what a softmax or sigmoid was made of. A part would then read
    what is not among its inputs, and send no gradient for it.
    """
    shows = hasattr(tensor, "_keras_logits") or tensor.op.type in ("Softmax", "Sigmoid")
    return tf.identity(tensor) if shows else tensor
