"""Tasks and the order they must run in, laid out for the simulator.

Resources are numbered: compute devices first (their numbers in the topology), then links. Devices
that share what they compute with use the resource of the first of them, which then runs several
tasks at once.
Tasks are numbered block by block; which blocks there are, and their order, depends on the operator
graph alone, so ties between tasks are broken alike however a task graph came to be.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np


class TaskKind(IntEnum):
    """What a task does."""

    FORWARD = 0
    BACKWARD = 1
    WEIGHT_GRADIENT = 2
    UPDATE = 3
    REPORT = 4
    TRANSFER = 5
    GRADIENT_TRANSFER = 6
    REPORT_TRANSFER = 7
    COMBINE = 8
    GRADIENT_COMBINE = 9
    ALL_REDUCE = 10

    @property
    def label(self) -> str:
        """For people: `"weight gradient"`."""
        return self.name.lower().replace("_", " ")

    @property
    def is_communication(self) -> bool:
        return self >= TaskKind.TRANSFER


@dataclass(frozen=True)
class TaskGraph:
    """Tasks as flat arrays.

    Attributes:
        num_devices: Compute devices; resources from this number on are links.
        num_resources: Devices and links together.
        capacity: int64 (num_resources,). How many tasks each can run at once; 1 of links.
        run_time_ns: int64 (T,). How long each task holds its resources.
        alone_time_ns: int64 (T,). How long each takes from when it is ready while no other one that
            holds its resources is; no less than it holds them. What it leaves unused of a place in
            a pool others use, so that it need not end when it frees its place.
        resource_offsets: int64 (T + 1,). Task `t` holds the resources
            `resources[resource_offsets[t]:resource_offsets[t + 1]]`, all at once.
        resources: int32 (R,). See `resource_offsets`.
        successor_offsets: int64 (T + 1,). Task `t` is followed by the tasks
            `successors[successor_offsets[t]:successor_offsets[t + 1]]`.
        successors: int32 (E,). See `successor_offsets`.
        kind: int8 (T,). A `TaskKind`.
        operator: int32 (T,). The operator it works for; for a transfer the consumer of its edge.
        part: int32 (T,). Which part of the operator; for an update the device; for reductions the
            number of the group.
        source: int32 (T,). Device that a transfer comes from; -1 for other tasks.
        destination: int32 (T,). Device that a transfer goes to; -1 for other tasks.
        num_bytes: int64 (T,). Bytes that it moves between devices, all pairs together.
    """

    num_devices: int
    num_resources: int
    capacity: np.ndarray
    run_time_ns: np.ndarray
    alone_time_ns: np.ndarray
    resource_offsets: np.ndarray
    resources: np.ndarray
    successor_offsets: np.ndarray
    successors: np.ndarray
    kind: np.ndarray
    operator: np.ndarray
    part: np.ndarray
    source: np.ndarray
    destination: np.ndarray
    num_bytes: np.ndarray

    @property
    def num_tasks(self) -> int:
        return len(self.run_time_ns)

    @property
    def communication_bytes(self) -> int:
        """Bytes that all tasks together move between devices."""
        return int(self.num_bytes.sum())
