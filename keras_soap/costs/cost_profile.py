"""How long parts of operators take on the devices of a topology."""

from enum import StrEnum
from typing import Protocol

import numpy as np

from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions
from keras_soap.topology.device_topology import Device


class CostSource(StrEnum):
    """Where times come from. Every figure made of them is labelled with it."""

    ANALYTIC = "analytic"
    MEASURED = "measured"


class CostProfile(Protocol):
    """Times of parts. Implementations are pure: equal questions have equal answers."""

    @property
    def source(self) -> CostSource: ...

    def part_times_ns(
        self, operator: Operator, regions: Regions, device: Device
    ) -> tuple[np.ndarray, np.ndarray]:
        """int64 (parts,) twice: forward and backward times of parts that make `regions`."""
        ...

    def update_time_ns(self, num_bytes: int, device: Device) -> int:
        """Time of the optimizer's update of weights of `num_bytes`."""
        ...
