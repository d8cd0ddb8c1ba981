"""Times of operator parts by what they compute: what a profiler fills in, for one model of device.

1. Parts with the same key take the same time; a key has the part's shapes, never its position.
2. A part that is not listed takes what the roofline says.
3. An update takes what lies between the listed updates of the next sizes, in proportion to bytes.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from keras_soap.costs.cost_profile import CostSource, PartTimes
from keras_soap.costs.roofline import Roofline
from keras_soap.errors import CostError
from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions
from keras_soap.operators import registry
from keras_soap.topology.device_topology import Device


@dataclass(frozen=True, slots=True)
class PartTime:
    """Times of one part, or of one update.

    Attributes:
        forward_ns: Median time of the forward pass; for an update, of the update.
        backward_ns: Median time of the backward pass but for the gradients of weights.
        relative_spread: Standard deviation of all together over their median.
        num_runs: Runs that the medians are over.
        weight_gradient_ns: Median time of the gradients of weights.
        num_looks: How often it was measured, at moments apart; see `MeasuredProfile.measure_again`.
    """

    forward_ns: int
    backward_ns: int
    relative_spread: float = 0.0
    num_runs: int = 0
    weight_gradient_ns: int = 0
    num_looks: int = 1


@dataclass(frozen=True)
class CostTable:
    """A `CostProfile` of listed times.

    Attributes:
        device_model: The model of device that it holds for, as in `Device.model`.
        entries: Times by `part_keys` and `update_key`.
        roofline: For what is not listed.
        source: Where the entries come from.
        created: When it was made, as RFC 3339, or `""`.
        versions: Of what was measured.
    """

    device_model: str
    entries: Mapping[str, PartTime] = field(default_factory=dict, hash=False)
    roofline: Roofline = field(default_factory=Roofline)
    source: CostSource = CostSource.MEASURED
    created: str = ""
    versions: Mapping[str, str] = field(default_factory=dict, hash=False)

    def part_times_ns(self, operator: Operator, regions: Regions, device: Device) -> PartTimes:
        self._check(device)
        times = np.stack(self.roofline.part_times_ns(operator, regions, device))
        for part, key in enumerate(part_keys(operator, regions)):
            time = self.entries.get(key)
            if time is not None:
                times[:, part] = time.forward_ns, time.backward_ns, time.weight_gradient_ns
        return PartTimes(*times)

    def update_time_ns(self, num_bytes: int, device: Device) -> int:
        self._check(device)
        sizes, times = self._updates
        if not len(sizes):
            return self.roofline.update_time_ns(num_bytes, device)
        if num_bytes > sizes[-1]:
            return round(times[-1] * num_bytes / sizes[-1])
        return round(np.interp(num_bytes, sizes, times))

    @functools.cached_property
    def _updates(self) -> tuple[np.ndarray, np.ndarray]:
        """float64 twice: bytes of the listed updates, ascending, and their times in nanoseconds."""
        found = sorted(
            (json.loads(key)[2], time.forward_ns)
            for key, time in self.entries.items()
            if key.startswith(_UPDATE)
        )
        sizes, times = np.array(found, np.float64).reshape(-1, 2).T
        return sizes, times

    def _check(self, device: Device) -> None:
        if device.model != self.device_model:
            raise CostError(
                f"The profile is for devices of model {self.device_model!r}, but {device.name!r} "
                f"is of model {device.model!r}. Profile that one, or use the analytic costs."
            )


_UPDATE = '["update",'


def update_key(optimizer: str, num_bytes: int) -> str:
    """What identifies the cost of an update by an optimizer, as compact JSON."""
    return json.dumps(["update", optimizer, num_bytes], separators=(",", ":"))


def part_keys(operator: Operator, regions: Regions) -> list[str]:
    """For each part that makes `regions` what identifies its cost, as compact JSON."""
    rule = registry.find(operator.kind)
    inputs = rule.input_regions(operator, regions)
    weights = rule.weight_regions(operator, regions)
    dtypes = [
        [spec.dtype for spec in operator.input_specs],
        [spec.dtype for spec in operator.output_specs],
        [spec.dtype for spec in operator.weight_specs],
    ]
    return [
        json.dumps(
            [
                operator.kind,
                [_shape(region[part]) for region in inputs],
                _shape(regions[part]),
                [_shape(region[part]) for region in weights],
                dtypes,
                dict(operator.attributes),
            ],
            sort_keys=True,
            separators=(",", ":"),
        )
        for part in range(len(regions))
    ]


def _shape(region: np.ndarray) -> list[int]:
    return (region[:, 1] - region[:, 0]).tolist()
