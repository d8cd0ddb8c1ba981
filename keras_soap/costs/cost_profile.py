"""How long parts of operators take on the devices of a topology."""

from enum import StrEnum
from typing import NamedTuple, Protocol

import numpy as np

from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions
from keras_soap.topology.device_topology import Device


class CostSource(StrEnum):
    """Where times come from. Every figure made of them is labelled with it."""

    ANALYTIC = "analytic"
    MEASURED = "measured"


class PartTimes(NamedTuple):
    """Times of some parts of an operator, in nanoseconds, each int64 (parts,).

    Attributes:
        forward: Of the forward pass.
        backward: Of the backward pass but for the gradients of weights.
        weight_gradient: Of those.
    """

    forward: np.ndarray
    backward: np.ndarray
    weight_gradient: np.ndarray


class CostProfile(Protocol):
    """Times of parts. Implementations are pure: equal questions have equal answers."""

    @property
    def source(self) -> CostSource: ...

    def part_times_ns(self, operator: Operator, regions: Regions, device: Device) -> PartTimes:
        """Times of parts that make `regions`."""
        ...

    def update_time_ns(self, num_bytes: int, device: Device) -> int:
        """Time of the optimizer's update of weights of `num_bytes`."""
        ...
