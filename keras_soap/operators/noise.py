"""Layers that draw random numbers. Every part draws its own, from the layer's own seed.

A Keras seed is an int64 state (seed, calls so far). A part adds its number, times a stride, to the
seed for its own use; the state that it hands back is the layer's, so all parts agree on it, a run
can be repeated, and a single part draws exactly what the layer draws.
"""

import dataclasses
from typing import Any

import numpy as np

from keras_soap.graph.operator_graph import Operator, WeightSpec
from keras_soap.graph.region import Regions, volume
from keras_soap.operators.rule import Part, PartCall, PartResult, Rule
from keras_soap.operators.windows import channels_first

SEED_STRIDE = 1_000_003
"""Seeds of parts of one layer are this far apart, so that they do not meet those of layers whose
seeds the user has numbered 1, 2, 3, …"""


def is_seed(spec: WeightSpec) -> bool:
    """Whether a weight is the state of a Keras seed generator."""
    return (
        not spec.trainable
        and spec.shape == (2,)
        and spec.dtype == "int64"
        and "seed_generator" in spec.name
    )


def with_own_seeds(call: PartCall, number: int) -> PartCall:
    """The call with its seeds moved on to those of part `number`."""
    return dataclasses.replace(call, weights=_shifted(call, dict(enumerate(call.weights)), number))


def with_shared_seeds(call: PartCall, number: int, result: PartResult) -> PartResult:
    """What the call gave, with the seeds among its updates moved back."""
    positions = sorted(result.updates)
    moved = _shifted(call, result.updates, -number)
    return PartResult(result.outputs, dict(zip(positions, moved, strict=True)))


def _shifted(call: PartCall, values: dict[int, Any], number: int) -> list[Any]:
    specs = call.part.operator.weight_specs
    shift = np.array([number * SEED_STRIDE, 0], np.int64)
    return [
        values[position] + shift if number and is_seed(specs[position]) else values[position]
        for position in sorted(values)
    ]


def number_of_part(part: Part, shared: frozenset[int] = frozenset()) -> int:
    """A number that tells parts apart, but for those that differ along `shared` axes only."""
    number = 0
    for axis, (start, stop) in enumerate(part.output):
        if axis not in shared:
            degree = part.operator.output.shape[axis] // (stop - start)
            number = number * degree + start // (stop - start)
    return number


class Noise(Rule):
    """Dropout, noise and their like, split along any axis."""

    kind = "noise"
    layers = ("Dropout", "AlphaDropout", "GaussianNoise", "GaussianDropout")

    def refuses(self, attributes, inputs, output):
        return channels_first(attributes)

    def shared_axes(self, operator: Operator) -> frozenset[int]:
        """Axes along which one number is drawn for all elements."""
        shape = operator.attributes.get("noise_shape") or ()
        return frozenset(axis for axis, size in enumerate(shape) if size == 1)

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        # A Philox number is about ten operations; a comparison and a product follow.
        return 12.0 * volume(regions)

    def backward_flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return 1.0 * volume(regions)

    def shrink(self, part: Part) -> dict[str, Any]:
        shape = part.operator.attributes.get("noise_shape")
        if shape is None:
            return {}
        return {"noise_shape": [1 if size == 1 else None for size in shape]}

    def compute(self, call: PartCall) -> PartResult:
        # Parts that differ along shared axes only must draw the same.
        number = number_of_part(call.part, self.shared_axes(call.part.operator))
        # Blocks of steps of one layer are on one seed.
        block, num_blocks = call.part.operator.attributes.get("block", (0, 1))
        number = number * num_blocks + block
        return with_shared_seeds(call, number, super().compute(with_own_seeds(call, number)))


class SpatialNoise(Noise):
    """SpatialDropout, which drops whole channels of a sample."""

    kind = "spatial_noise"
    layers = ("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D")

    def shared_axes(self, operator: Operator) -> frozenset[int]:
        return frozenset(range(1, len(operator.output.shape) - 1))
