"""Reduces the gradients of weights over the devices that hold them, as the lowering says.

1. What the operators on a weight made for it on a device is added up there.
2. Gradients of a bucket (`tasks/weights.py`) are reduced as one value. A sparse one that the
   lowering did not foresee is gathered by itself.
3. A last, smaller batch has fewer parts: what else holds a weight then receives the gradient.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_soap.runtime import collectives
from keras_soap.runtime.exchange import on
from keras_soap.runtime.pieces import add_up
from keras_soap.runtime.shards import ShardedVariable
from keras_soap.runtime.step import StepTracer
from keras_soap.tasks.task_graph import TaskKind
from keras_soap.tasks.task_names import TaskName

ByDevice = dict[str, Any]
"""Gradients of one weight: tensors or `IndexedSlices`."""


def reduced_gradients(tracer: StepTracer) -> dict[int, ByDevice]:
    """The gradients of all weights, by `id` of the variable, on every device that holds it.

    Args:
        tracer: After its backward pass.
    """
    result: dict[int, ByDevice] = {}
    buckets = _buckets(tracer)
    local: dict[int, ByDevice] = {}
    together: dict[Any, list[int]] = {}
    for weight, by_device in sorted(tracer.weight_gradients.items()):
        owner, bucket = buckets[weight]
        with tf.name_scope(TaskName(TaskKind.ALL_REDUCE, owner).scope):
            local[weight] = {}
            for device, gradients in by_device.items():
                with on(device):
                    local[weight][device] = _sum(gradients)
        is_sparse = any(isinstance(g, tf.IndexedSlices) for g in local[weight].values())
        key = weight if is_sparse else (bucket, tuple(local[weight]))
        together.setdefault(key, []).append(weight)
    for weights in together.values():
        owner, _ = buckets[weights[0]]
        variables = [tracer.captured.variables[weight] for weight in weights]
        with tf.name_scope(TaskName(TaskKind.ALL_REDUCE, owner).scope):
            shards = [tracer.store[variable] for variable in variables]
            reduced = _over_regions(tracer, [local[weight] for weight in weights], shards)
        for variable, by_device in zip(variables, reduced, strict=True):
            result[id(variable)] = by_device
    return result


def _buckets(tracer: StepTracer) -> dict[int, tuple[str, tuple[int, ...]]]:
    """For each weight the first operator on it, and all weights of its bucket."""
    result: dict[int, tuple[str, tuple[int, ...]]] = {}
    for number, operator in enumerate(tracer.graph.operators):
        block = tracer.lowering.operator(number, tracer.configs[number].degrees)
        bucket_of = {at: each.weights for each in block.reductions for at in each.weights}
        for at, weight in enumerate(operator.weights):
            bucket = bucket_of.get(at, (at,))
            result.setdefault(weight, (operator.name, tuple(operator.weights[at] for at in bucket)))
    return result


def _sum(gradients: Sequence[Any]) -> Any:
    if all(isinstance(gradient, tf.IndexedSlices) for gradient in gradients):
        return collectives.join_slices(gradients)
    return add_up(gradients)


def _over_regions(
    tracer: StepTracer, local: Sequence[ByDevice], shards: Sequence[ShardedVariable]
) -> list[ByDevice]:
    """Sums gradients of the weights of a bucket over the holders of each region."""
    result: list[ByDevice] = [{} for _ in local]
    holders = [_holders(tracer, sharded) for sharded in shards]
    assert all(held == holders[0] for held in holders), "a bucket of weights that are split apart"
    for devices in holders[0]:
        for found, summed in zip(result, _reduce(tracer, local, devices), strict=True):
            found |= summed
    return result


def _holders(tracer: StepTracer, sharded: ShardedVariable) -> list[list[str]]:
    """For each region of a weight the devices that hold it, in the order of their numbers."""
    return [
        [d for d in tracer.device_names if d in sharded.devices and sharded.region(d) == region]
        for region in dict.fromkeys(sharded.regions)
    ]


def _reduce(
    tracer: StepTracer, local: Sequence[Mapping[str, Any]], holders: Sequence[str]
) -> list[ByDevice]:
    """Sums over the devices that have gradients; all holders get the sums, weight by weight."""
    sources = [device for device in holders if device in local[0]]
    if not sources:
        return [{} for _ in local]
    gradients = [[by_device[device] for by_device in local] for device in sources]
    if all(isinstance(gradient, tf.IndexedSlices) for (gradient, *_) in gradients):
        slices = [gradient for (gradient,) in gradients]
        summed = [[joined] for joined in tracer.reductions.gather_slices(slices, sources)]
    else:
        for device, tensors in zip(sources, gradients, strict=True):
            with on(device):
                tensors[:] = map(tf.convert_to_tensor, tensors)
        summed = tracer.reductions.reduce_together(gradients, sources)
    others = [device for device in holders if device not in sources]
    result = []
    for of_devices in zip(*summed, strict=True):
        found = dict(zip(sources, of_devices, strict=True))
        flat = tf.nest.flatten(of_devices[0], expand_composites=True)
        copies = [collectives.spread(tensor, sources[0], others) for tensor in flat]
        for device in others:
            here = [copy[device] for copy in copies]
            found[device] = tf.nest.pack_sequence_as(of_devices[0], here, expand_composites=True)
        result.append(found)
    return result
