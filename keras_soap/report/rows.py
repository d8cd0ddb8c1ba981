"""Rows of a timeline: one for each device and for each link that carries anything.

Devices that share what they compute with have as many rows together as tasks that run at once.
"""

from dataclasses import dataclass

import numpy as np

from keras_soap.simulator.timeline import Timeline
from keras_soap.tasks.task_graph import TaskGraph
from keras_soap.topology.device_topology import DeviceTopology


@dataclass(frozen=True, slots=True)
class Row:
    """Where tasks that run one after the other are drawn.

    Attributes:
        name: Of the device, the pool and the place in it, or the link.
        is_link: Whether it is a link.
    """

    name: str
    is_link: bool


def arrange(
    topology: DeviceTopology, tasks: TaskGraph, timeline: Timeline
) -> tuple[list[Row], np.ndarray]:
    """The rows, and int64 (R,): for each entry of `tasks.resources` its row, free of overlaps."""
    used = set(tasks.resources.tolist())
    rows: list[Row] = []
    first: dict[int, int] = {}
    for number, device in enumerate(topology.devices):
        if topology.compute[number] == number:
            first[number] = len(rows)
            places = range(device.pool_size)
            rows += [
                Row(f"{device.pool} {n}" if device.pool else device.name, False) for n in places
            ]
    for number, link in enumerate(topology.links, tasks.num_devices):
        if number in used:
            first[number] = len(rows)
            rows.append(Row(link.name, True))
    free = np.zeros(len(rows), np.int64)
    of_entry = np.zeros(len(tasks.resources), np.int64)
    freed_ns = timeline.start_ns + tasks.run_time_ns
    for task in np.lexsort((timeline.ready_ns, freed_ns, timeline.start_ns)).tolist():
        for entry in range(tasks.resource_offsets[task], tasks.resource_offsets[task + 1]):
            resource = int(tasks.resources[entry])
            row = first[resource]
            last = row + int(tasks.capacity[resource]) - 1
            while row < last and free[row] > timeline.start_ns[task]:
                row += 1
            of_entry[entry] = row
            free[row] = freed_ns[task]
    return rows, of_entry
