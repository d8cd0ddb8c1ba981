"""Pieces of batches: what parts read of the inputs of a model, on their devices.

A region that several parts on one device read is one piece.
"""

from collections.abc import Collection, Mapping, Sequence

import tensorflow as tf

from keras_soap.capture.captured_model import CapturedModel
from keras_soap.runtime import cluster
from keras_soap.runtime.batch_shards import Sizes, rows
from keras_soap.runtime.exchange import FEED, host_of, hosts, is_here, move, on, placeholder
from keras_soap.runtime.pieces import Piece, assemble, cut
from keras_soap.runtime.step import StepTracer


def signature(
    captured: CapturedModel, order: Sequence[int], sizes: Sizes | None = None
) -> list[tf.TensorSpec]:
    """Of the tensors of a batch, or of this client's shard of them."""
    specs = [captured.graph.operators[number].output for number in order]
    own = () if sizes is None else (sizes[cluster.client()],)
    return [tf.TensorSpec((*own, *spec.shape[len(own) :]), spec.dtype) for spec in specs]


def wanted(
    tracer: StepTracer, order: Sequence[int], handed_out: Collection[int] = ()
) -> list[Piece]:
    """The pieces that a step reads, each once.

    Args:
        tracer: Of the step.
        order: Numbers of its input operators.
        handed_out: Those that are needed as a whole as well, on the device of their only part.
    """
    found: dict[int, dict[Piece, None]] = {number: {} for number in order}
    for feed in tracer.graph.feeds:
        number, consumer = feed.producer.operator, feed.consumer
        for part, device in zip(tracer.parts[consumer], tracer.devices(consumer), strict=True):
            region = part.inputs[feed.input]
            if all(start < stop for start, stop in region):
                found[number][Piece(number, region, device)] = None
    for number in handed_out:
        found[number][tracer.whole(number)] = None
    return [piece for of_input in found.values() for piece in of_input]


def cut_batch(
    tracer: StepTracer,
    order: Sequence[int],
    tensors: Sequence[tf.Tensor],
    sizes: Sizes | None = None,
    handed_out: Collection[int] = (),
) -> dict[Piece, tf.Tensor]:
    """The pieces of a batch that a step reads, on their devices.

    Args:
        tracer: As of `wanted`.
        order: As of `wanted`.
        tensors: What this client has of each input.
        sizes: Samples that each client has; None if each has them all.
        handed_out: As of `wanted`.
    """
    by_number = dict(zip(order, tensors, strict=True))
    return {
        piece: _cut(tracer, piece, by_number[piece.number], sizes)
        for piece in wanted(tracer, order, handed_out)
    }


def _cut(tracer: StepTracer, piece: Piece, tensor: tf.Tensor, sizes: Sizes | None) -> tf.Tensor:
    samples, *others = ((0, size) for size in tracer.graph.operators[piece.number].output.shape)
    own = [(host_of(piece.device), samples)]
    sources = own if sizes is None else zip(hosts(), rows(sizes), strict=True)
    found = []
    for host, (first, last) in sources:
        start, stop = piece.region[0]
        if max(start, first) < min(stop, last):
            here = ((max(start, first), min(stop, last)), *piece.region[1:])
            with tf.name_scope(FEED), on(host):
                like = [last - first, *tensor.shape[1:]]
                held = tensor if is_here(host) else placeholder(like, tensor.dtype, host)
                some = cut(held, ((first, last), *others), here)
            found.append((here, move(some, host, piece.device)))
    with tf.name_scope(FEED), on(piece.device):
        return assemble(found)


def piece_signature(tracer: StepTracer, order: Sequence[int]) -> list[tf.TensorSpec]:
    """Of the pieces that are placed on devices of this client."""
    return [
        tf.TensorSpec(_sizes(piece), _dtype(tracer, piece))
        for piece in wanted(tracer, order)
        if is_here(piece.device)
    ]


def by_piece(
    tracer: StepTracer, order: Sequence[int], tensors: Sequence[tf.Tensor]
) -> Mapping[Piece, tf.Tensor]:
    """Tensors by the piece that they are; in outline, those of other clients."""
    left = iter(tensors)
    return {
        piece: next(left)
        if is_here(piece.device)
        else placeholder(_sizes(piece), _dtype(tracer, piece), piece.device)
        for piece in wanted(tracer, order)
    }


def _sizes(piece: Piece) -> list[int]:
    return [stop - start for start, stop in piece.region]


def _dtype(tracer: StepTracer, piece: Piece) -> tf.DType:
    return tf.as_dtype(tracer.graph.operators[piece.number].output.dtype)
