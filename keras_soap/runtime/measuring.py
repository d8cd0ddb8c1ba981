"""Measures all that a search may ask of a model on this machine, before it asks.

Logical CPUs share cores, and TensorFlow spreads the operations of all of them over all cores. So
each task has all cores, one after the other, and its time is its share of what several take beside
each other. What it leaves idle others fill, while any is ready. How much that is is measured for
each model: its heaviest operators are timed alone, too (`Device.pool_utilization`).
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from tqdm import tqdm

from keras_soap.costs.measure import MeasuredProfile, cores_of_task
from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions
from keras_soap.runtime.measured_topology import with_pool
from keras_soap.strategy.search_space import all_degrees
from keras_soap.tasks.lowering import Lowering
from keras_soap.topology.device_topology import Device, DeviceTopology

HEAVIEST_SHARE = 0.9
"""Of the time that a model takes; the operators that take it tell how many cores a task uses."""

MOST_HEAVIEST = 24
"""Of them, as measuring takes time."""

LESS = 0.85
"""A part of half of something takes no more than this of its time, or it met something else."""

LEAST_NS = 1_000_000
"""Parts that take less are mostly overhead, which is not halved."""


def all_parts(
    lowering: Lowering, num_devices: int, dims: str = "SAP"
) -> Iterator[tuple[Operator, Regions]]:
    """Parts of every operator under all degrees that make no more than `num_devices` of them."""
    for operator, ways in _all_ways(lowering, num_devices, dims):
        for regions in ways.values():
            yield operator, regions


def _all_ways(
    lowering: Lowering, num_devices: int, dims: str
) -> Iterator[tuple[Operator, dict[tuple[int, ...], Regions]]]:
    """One operator of each signature, and its parts by degrees."""
    seen = set()
    for number, operator in enumerate(lowering.graph.operators):
        if operator.signature not in seen:
            seen.add(operator.signature)
            all_of_them = all_degrees(lowering.dimensions[number], num_devices, dims)
            yield operator, {d: lowering.operator(number, d).outputs[0] for d in all_of_them}


def measure_all(
    profile: MeasuredProfile,
    lowering: Lowering,
    topology: DeviceTopology,
    dims: str = "SAP",
    progress: bool = True,
) -> None:
    """Measures what `profile` does not know yet of `all_parts`, and updates.

    May be interrupted: what was measured is kept, and the next time begins there. Parts that seem
    to take hardly less than others that they are halves of are measured again, at a later moment.

    Args:
        profile: Of the model.
        lowering: Of its graph.
        topology: Of this machine.
        dims: Letters of the kinds of splits to measure.
        progress: Whether to show a progress bar, on stderr.
    """
    parts = all_parts(lowering, topology.num_devices, dims)
    _measure(profile, parts, topology.devices[0], "measuring parts", progress)
    measure_again(profile, _doubtful(profile, lowering, topology, dims), progress)
    profile.measure_updates()


def measure_again(
    profile: MeasuredProfile, parts: Iterable[tuple[Operator, Regions]], progress: bool
) -> bool:
    """Measures those of the parts that were measured only once; says whether there were any."""
    once = [part for part in parts if profile.num_looks(*part) == 1]
    for operator, regions in _in_turn(once, "measuring again", progress):
        # Under other degrees it may have been the same part.
        if profile.num_looks(operator, regions) == 1:
            profile.measure_again(operator, regions)
    return bool(once)


def _in_turn(
    parts: Sequence[tuple[Operator, Regions]], what: str, progress: bool
) -> Iterator[tuple[Operator, Regions]]:
    """The parts, while a progress bar says which."""
    bar = tqdm(parts, what, unit="part", disable=not progress or not parts, leave=False)
    for operator, regions in bar:
        bar.set_postfix_str(operator.name, refresh=False)
        yield operator, regions


def _doubtful(
    profile: MeasuredProfile, lowering: Lowering, topology: DeviceTopology, dims: str
) -> Iterator[tuple[Operator, Regions]]:
    """Parts that take too long beside those that they are halves of."""
    for operator, ways in _all_ways(lowering, topology.num_devices, dims):
        time_ns = {
            degrees: int(sum(profile.part_times_ns(operator, regions, topology.devices[0])).max())
            for degrees, regions in ways.items()
        }
        for degrees, regions in ways.items():
            wholes = [
                time_ns[fewer]
                for fewer in ways
                if fewer != degrees
                and all(more % less == 0 for more, less in zip(degrees, fewer, strict=True))
            ]
            if time_ns[degrees] > max(LEAST_NS, LESS * min(wholes, default=math.inf)):
                yield operator, regions


def with_measured_pool(
    lowering: Lowering,
    topology: DeviceTopology,
    profile_on: Callable[[DeviceTopology], MeasuredProfile],
    progress: bool = True,
) -> DeviceTopology:
    """The topology whose logical CPUs share cores, and how many of them a task of the model uses.

    Args:
        lowering: Of the model's graph.
        topology: Of this machine. If it has a pool, or GPUs, it is left as it is.
        profile_on: Makes the profile of the model on a topology.
        progress: Whether to show a progress bar, on stderr.
    """
    device = topology.devices[0]
    together = with_pool(topology)
    num_cores = cores_of_task(together)
    if device.pool or not num_cores:
        return together
    alike: dict[str, list[Operator]] = {}
    for operator in lowering.graph.operators:
        alike.setdefault(operator.signature, []).append(operator)
    parts = [(one, _whole(lowering, one)) for one, *_ in alike.values()]
    beside, alone = profile_on(together), profile_on(with_pool(topology.subset(1)))

    def times_ns(profile: MeasuredProfile, parts: Sequence[tuple[Operator, Regions]]) -> list[int]:
        # But for gradients of weights, which are tasks of their own.
        _measure(profile, parts, device, "measuring cores", progress)
        return [
            len(alike[operator.signature]) * int(times.forward[0] + times.backward[0])
            for operator, regions in parts
            for times in [profile.part_times_ns(operator, regions, device)]
        ]

    heaviest = _heaviest(parts, times_ns(beside, parts))
    utilization = sum(times_ns(beside, heaviest)) / max(1, sum(times_ns(alone, heaviest)))
    # It has at least one core, and no more than there are.
    utilization = round(min(1.0, max(1 / num_cores, utilization)), 3)
    devices = tuple(
        dataclasses.replace(device, pool_utilization=utilization) for device in together.devices
    )
    return dataclasses.replace(together, devices=devices)


def _measure(
    profile: MeasuredProfile,
    parts: Iterable[tuple[Operator, Regions]],
    device: Device,
    what: str,
    progress: bool,
) -> None:
    """Measures what the profile does not know yet of the parts."""
    for operator, regions in _in_turn(profile.missing(parts), what, progress):
        profile.part_times_ns(operator, regions, device)


def _heaviest(
    parts: Sequence[tuple[Operator, Regions]], times_ns: Sequence[int]
) -> list[tuple[Operator, Regions]]:
    """Those that take most of the time of all, and enough of it."""
    found = []
    left_ns = HEAVIEST_SHARE * sum(times_ns)
    for time_ns, number in sorted(zip(times_ns, itertools.count()), reverse=True)[:MOST_HEAVIEST]:
        if left_ns > 0:
            found.append(parts[number])
        left_ns -= time_ns
    return found


def _whole(lowering: Lowering, operator: Operator) -> Regions:
    number = lowering.graph.index(operator.name)
    return lowering.operator(number, (1,) * len(lowering.dimensions[number])).outputs[0]
