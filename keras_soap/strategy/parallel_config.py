"""How one operator is split: a degree for each dimension, a device for each part.

1. Parts are numbered row-major over the degrees: the last dimension varies fastest.
2. Parts are of equal size, and each has a device of its own: two parts of one operator on one
   device would do, one after the other, what one larger part does, and no DTensor mesh holds them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_soap.errors import StrategyError
from keras_soap.operators.rule import Dimension


@dataclass(frozen=True, slots=True)
class ParallelConfig:
    """Degrees for an operator's dimensions, and devices for its parts.

    Example:
        `ParallelConfig(degrees=(2, 1, 1, 2), devices=(0, 1, 2, 3))` for a Conv2D halves the batch
        and the channels; device 1 has the first half of the batch and the second of the channels.

    Args:
        degrees: For each dimension of the operator's rule, in its order, into how many parts.
        devices: For each part its device's number in the topology.
    """

    degrees: tuple[int, ...]
    devices: tuple[int, ...]

    def __post_init__(self) -> None:
        parts = math.prod(self.degrees)
        if any(degree < 1 for degree in self.degrees):
            raise StrategyError(f"degrees={self.degrees} must all be 1 or more.")
        if parts != len(self.devices):
            raise StrategyError(
                f"degrees={self.degrees} make {parts} parts, but devices={self.devices} names "
                f"{len(self.devices)}. Give each part a device."
            )
        if len(set(self.devices)) != len(self.devices):
            raise StrategyError(
                f"devices={self.devices} names a device twice. Give each part a device of its own, "
                "or lower a degree."
            )

    @property
    def num_parts(self) -> int:
        return len(self.devices)

    def part_indices(self) -> np.ndarray:
        """int64 (parts, dimensions): where each part stands along each dimension."""
        return part_indices(self.degrees)


FED = ParallelConfig((), (0,))
"""Of inputs: they have no dimensions, and lie where they are read, whatever device this names."""


def part_indices(degrees: Sequence[int]) -> np.ndarray:
    """int64 (parts, dimensions): the row-major grid positions of `degrees`."""
    if not degrees:
        return np.zeros((1, 0), np.int64)
    return np.stack(np.unravel_index(np.arange(math.prod(degrees)), tuple(degrees)), axis=1).astype(
        np.int64
    )


def check_config(
    name: str, dimensions: Sequence[Dimension], config: ParallelConfig, num_devices: int
) -> None:
    """Raises `StrategyError` where `config` does not fit operator `name` or its devices."""
    if len(config.degrees) != len(dimensions):
        names = ", ".join(dimension.name for dimension in dimensions) or "none"
        raise StrategyError(
            f"degrees={config.degrees} for {name} has {len(config.degrees)} entries, but its "
            f"parallelizable dimensions are {len(dimensions)}: {names}. Give each a degree."
        )
    for dimension, degree in zip(dimensions, config.degrees, strict=True):
        if not dimension.allows(degree):
            nearest = max(d for d in dimension.degrees(degree))
            raise StrategyError(
                f"Cannot split {dimension.name} of {name} into {degree} equal parts: its size is "
                f"{dimension.size}"
                + (f", in blocks of {dimension.step}" if dimension.step > 1 else "")
                + f". Use a degree that divides it, such as {nearest}."
            )
    for device in config.devices:
        if not 0 <= device < num_devices:
            raise StrategyError(
                f"{name} is placed on device {device}, but the topology has devices 0 to "
                f"{num_devices - 1}. Place it on those."
            )
