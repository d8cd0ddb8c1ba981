"""Measures all that a search may ask of a model on this machine, before it asks."""

from collections.abc import Iterator

from tqdm import tqdm

from keras_soap.costs.measure import MeasuredProfile
from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions
from keras_soap.strategy.search_space import all_degrees
from keras_soap.tasks.lowering import Lowering
from keras_soap.topology.device_topology import DeviceTopology


def all_parts(
    lowering: Lowering, num_devices: int, dims: str = "SAP"
) -> Iterator[tuple[Operator, Regions]]:
    """Parts of every operator under all degrees that make no more than `num_devices` of them."""
    seen = set()
    for number, operator in enumerate(lowering.graph.operators):
        if operator.signature not in seen:
            seen.add(operator.signature)
            for degrees in all_degrees(lowering.dimensions[number], num_devices, dims):
                yield operator, lowering.operator(number, degrees).outputs[0]


def measure_all(
    profile: MeasuredProfile,
    lowering: Lowering,
    topology: DeviceTopology,
    dims: str = "SAP",
    progress: bool = True,
) -> None:
    """Measures what `profile` does not know yet of `all_parts`, and updates.

    May be interrupted: what was measured is kept, and the next time begins there.

    Args:
        profile: Of the model.
        lowering: Of its graph.
        topology: Of this machine.
        dims: Letters of the kinds of splits to measure.
        progress: Whether to show a progress bar, on stderr.
    """
    missing = profile.missing(all_parts(lowering, topology.num_devices, dims))
    if missing:
        bar = tqdm(missing, "measuring parts", unit="part", disable=not progress, leave=False)
        for operator, regions in bar:
            bar.set_postfix_str(operator.name, refresh=False)
            profile.part_times_ns(operator, regions, topology.devices[0])
    profile.measure_updates()
