"""Analytic costs: a part takes as long as its arithmetic or its memory traffic, whichever is more.

time = overhead + max(flops / (peak · f), bytes / (bandwidth · f)), with f = 70 % of the peaks
(S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model",
CACM 2009; the fraction of peak is what `meta-pytorch/autoparallel` plans with).
"""

from dataclasses import dataclass

import numpy as np

from keras_soap.costs.cost_profile import CostSource, PartTimes
from keras_soap.graph.operator_graph import Operator, dtype_bytes
from keras_soap.graph.region import Regions, volume
from keras_soap.operators import registry
from keras_soap.topology.device_topology import Device

UPDATE_PASSES = 6
"""Times that an update goes over a weight's bytes: weight, gradient and two slots are read (4),
weight and slots written (3); less where the optimizer has one slot. The mean of SGD with momentum
(5) and Adam (7)."""


@dataclass(frozen=True)
class Roofline:
    """The analytic `CostProfile`.

    Attributes:
        peak_fraction: Share of the peak arithmetic rate that kernels reach.
        bandwidth_fraction: Share of the peak memory bandwidth that they reach.
    """

    peak_fraction: float = 0.7
    bandwidth_fraction: float = 0.7

    @property
    def source(self) -> CostSource:
        return CostSource.ANALYTIC

    def part_times_ns(self, operator: Operator, regions: Regions, device: Device) -> PartTimes:
        rule = registry.find(operator.kind)
        if rule.free:
            return PartTimes(*np.zeros((3, len(regions)), np.int64))
        weight_regions = rule.weight_regions(operator, regions)
        made = operator.first_made
        written = rule.output_regions(operator, regions)[made] if made else regions
        read = volume(written) * dtype_bytes(operator.output_specs[made].dtype)
        in_rows = rule.rows_of_inputs(operator)
        for position, (spec, region) in enumerate(
            zip(operator.input_specs, rule.input_regions(operator, regions), strict=True)
        ):
            if position not in in_rows:
                read = read + volume(region) * dtype_bytes(spec.dtype)
        for position, (spec, region) in enumerate(
            zip(operator.weight_specs, weight_regions, strict=True)
        ):
            if position not in rule.sparse_weights:
                read = read + volume(region) * dtype_bytes(spec.dtype)
        forward = self._time_ns(rule.flops(operator, regions), read, device)
        # Backward reads what forward read and the gradient of its output, and writes gradients
        # of all that forward read. Where there are weights, half of that is for their gradients.
        flops = rule.backward_flops(operator, regions)
        if not any(spec.trainable for spec in operator.weight_specs):
            backward = self._time_ns(flops, 2 * read, device)
            return PartTimes(forward, backward, np.zeros(len(regions), np.int64))
        half = self._time_ns(flops / 2, read, device)
        return PartTimes(forward, half, half)

    def update_time_ns(self, num_bytes: int, device: Device) -> int:
        one = np.zeros(1)
        return int(self._time_ns(one, one + UPDATE_PASSES * num_bytes, device)[0])

    def _time_ns(self, flops: np.ndarray, num_bytes: np.ndarray, device: Device) -> np.ndarray:
        compute = flops / (device.peak_flops_per_s * self.peak_fraction)
        memory = num_bytes / (device.memory_bandwidth_bytes_per_s * self.bandwidth_fraction)
        return device.task_overhead_ns + np.ceil(1e9 * np.maximum(compute, memory)).astype(np.int64)
