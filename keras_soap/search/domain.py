"""Which configurations a family may still have, and what moves between them and others'."""

from dataclasses import dataclass

import numpy as np

from keras_soap.graph.operator_graph import Edge, dtype_bytes
from keras_soap.search.problem import Problem
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.topology.device_topology import DeviceTopology

NEVER = -(1 << 50)
"""Time of a move that does not happen."""


@dataclass
class Domain:
    """Configurations that a family may still have.

    Attributes:
        configs: The configurations.
        devices: int32 (configs, most parts). Devices of the parts; -1 beyond the last part.
    """

    configs: list[ParallelConfig]
    devices: np.ndarray

    @staticmethod
    def of(configs: list[ParallelConfig], num_devices: int) -> "Domain":
        devices = np.full((len(configs), num_devices), -1, np.int32)
        for row, config in enumerate(configs):
            devices[row, : config.num_parts] = config.devices
        return Domain(configs, devices)


def moves_ns(
    problem: Problem, edge: Edge, producer: Domain, consumer: Domain
) -> tuple[np.ndarray, np.ndarray]:
    """Times of the transfers of an edge, there and back, by configurations and parts of its ends.

    int64 (producer configs, consumer configs, producer parts, consumer parts); `NEVER` there, where
    nothing is read.
    """
    width = problem.topology.num_devices
    shape = (len(producer.configs), len(consumer.configs), width, width)
    there, back = np.full(shape, NEVER), np.zeros(shape, np.int64)
    spec = problem.graph.operators[edge.consumer].input_specs[edge.input]
    times: dict[int, np.ndarray] = {}
    for before, rows in _by_degrees(producer.configs).items():
        for after, columns in _by_degrees(consumer.configs).items():
            found = problem.lowering.edge(edge, before, after)
            cells = np.ix_(rows, columns)
            for p, c, elements in zip(
                found.producer, found.consumer, found.num_elements.tolist(), strict=True
            ):
                if elements not in times:
                    num_bytes = elements * dtype_bytes(spec.dtype)
                    times[elements] = _times_between(problem.topology, num_bytes)
                source = producer.devices[rows, p][:, None]
                target = consumer.devices[columns, c][None, :]
                there[(*cells, p, c)] = times[elements][source, target]
                back[(*cells, p, c)] = times[elements][target, source]
    return there, back


def _times_between(topology: DeviceTopology, num_bytes: int) -> np.ndarray:
    size = topology.num_devices
    times = np.zeros((size, size), np.int64)
    for a in range(size):
        for b in range(size):
            if a != b:
                times[a, b] = topology.route(a, b).time_ns(num_bytes)
    return times


def _by_degrees(configs: list[ParallelConfig]) -> dict[tuple[int, ...], np.ndarray]:
    rows: dict[tuple[int, ...], list[int]] = {}
    for row, config in enumerate(configs):
        rows.setdefault(config.degrees, []).append(row)
    return {degrees: np.array(numbers) for degrees, numbers in rows.items()}
