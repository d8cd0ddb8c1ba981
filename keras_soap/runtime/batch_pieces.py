"""Pieces of batches: what each part of an input operator gets, on its device."""

from collections.abc import Sequence

import tensorflow as tf

from keras_soap.capture.captured_model import CapturedModel
from keras_soap.runtime import cluster
from keras_soap.runtime.batch_shards import Sizes, rows
from keras_soap.runtime.exchange import FEED, host_of, hosts, is_here, move, on, placeholder
from keras_soap.runtime.pieces import assemble, cut
from keras_soap.runtime.step import StepTracer


def signature(
    captured: CapturedModel, order: Sequence[int], sizes: Sizes | None = None
) -> list[tf.TensorSpec]:
    """Of the tensors of a batch, or of this client's shard of them."""
    specs = [captured.graph.operators[number].output for number in order]
    own = () if sizes is None else (sizes[cluster.client()],)
    return [tf.TensorSpec((*own, *spec.shape[len(own) :]), spec.dtype) for spec in specs]


def cut_batch(
    tracer: StepTracer,
    order: Sequence[int],
    tensors: Sequence[tf.Tensor],
    sizes: Sizes | None = None,
) -> dict[int, list[tf.Tensor]]:
    """For each input operator the pieces of its parts, on their devices.

    Args:
        tracer: Whose input operators they are.
        order: Numbers of these.
        tensors: What this client has of each.
        sizes: Samples that each client has; None if each has them all.
    """
    return {
        number: _cut(tracer, number, tensor, sizes)
        for number, tensor in zip(order, tensors, strict=True)
    }


def _cut(
    tracer: StepTracer, number: int, tensor: tf.Tensor, sizes: Sizes | None
) -> list[tf.Tensor]:
    samples, *others = ((0, size) for size in tracer.graph.operators[number].output.shape)
    pieces = []
    for part, device in zip(tracer.parts[number], tracer.devices(number), strict=True):
        own = [(host_of(device), samples)]
        sources = own if sizes is None else zip(hosts(), rows(sizes), strict=True)
        found = []
        for host, (first, last) in sources:
            start, stop = part.output[0]
            if max(start, first) < min(stop, last):
                wanted = ((max(start, first), min(stop, last)), *part.output[1:])
                with tf.name_scope(FEED), on(host):
                    like = [last - first, *tensor.shape[1:]]
                    held = tensor if is_here(host) else placeholder(like, tensor.dtype, host)
                    piece = cut(held, ((first, last), *others), wanted)
                found.append((wanted, move(piece, host, device)))
        with tf.name_scope(FEED), on(device):
            pieces.append(assemble(found))
    return pieces


def piece_signature(tracer: StepTracer, order: Sequence[int]) -> list[tf.TensorSpec]:
    """Of the pieces that are placed on devices of this client."""
    return [
        tf.TensorSpec(_sizes(part.output), tracer.graph.operators[number].output.dtype)
        for number in order
        for part, device in zip(tracer.parts[number], tracer.devices(number), strict=True)
        if is_here(device)
    ]


def by_input(
    tracer: StepTracer, order: Sequence[int], pieces: Sequence[tf.Tensor]
) -> dict[int, Sequence[tf.Tensor]]:
    """Pieces by the number of their input operator; in outline, those of other clients."""
    left = iter(pieces)
    return {
        number: [
            next(left)
            if is_here(device)
            else placeholder(
                _sizes(part.output),
                tf.as_dtype(tracer.graph.operators[number].output.dtype),
                device,
            )
            for part, device in zip(tracer.parts[number], tracer.devices(number), strict=True)
        ]
        for number in order
    }


def _sizes(region: Sequence[tuple[int, int]]) -> list[int]:
    return [stop - start for start, stop in region]
