"""What the network between clients really takes, as the runtime uses it.

1. Client 0 sends tensors to each other client, which sends them back, several times in one
   function.
2. Latency and bandwidth are those that predict the times of all sizes best (least squares of the
   logarithms, as for connections inside a host).
3. Both ends have half of the latency. The card of client 0 gets the best that was seen of it.
"""

import dataclasses
import datetime
import itertools
import statistics
import time
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_soap.runtime import cluster
from keras_soap.runtime.cluster_topology import CARD
from keras_soap.runtime.exchange import is_here, move, on, placeholder, tracing
from keras_soap.runtime.measured_topology import LinkTime
from keras_soap.topology.device_topology import DeviceTopology

SIZES_BYTES = (4 * 2**10, 64 * 2**10, 2**20, 8 * 2**20)
"""Of the tensors that are sent."""

NUM_RUNS = 9
"""As many on all clients: the slower of two must not wait for the other."""

LATENCIES_NS = np.geomspace(1e3, 1e8, 101)
BANDWIDTHS_BYTES_PER_S = np.geomspace(1e6, 1e11, 101)
"""What the network is searched for."""


def measure_network(
    topology: DeviceTopology, device_names: Sequence[str]
) -> tuple[DeviceTopology, list[LinkTime]]:
    """The topology with measured cards, and the measurements. All clients call it at once.

    Args:
        topology: Of all clients, as `cluster_topology` describes it.
        device_names: TensorFlow's names of its devices.
    """
    ours = cluster.current()
    assert ours is not None
    first = {device.node: n for n, device in reversed(list(enumerate(topology.devices)))}
    figures: dict[int, list[float]] = {}
    found: list[LinkTime] = []
    for node in sorted(set(first) - {0}):
        pair = device_names[first[0]], device_names[first[node]]
        mine = [_time(pair, num_bytes, node) for num_bytes in SIZES_BYTES]
        times_ns, spreads = zip(*ours.meet(f"the network to client {node}", mine)[0], strict=True)
        found += [
            LinkTime(f"to node{node}", *each)
            for each in zip(SIZES_BYTES, times_ns, spreads, strict=True)
        ]
        figures[node] = list(fit(SIZES_BYTES, times_ns))
    latencies, bandwidths = zip(*figures.values(), strict=True)
    figures[0] = [min(latencies), max(bandwidths)]
    connections = []
    for connection in topology.connections:
        node_name, _, name = connection.name.partition("/")
        if name == CARD:
            latency_ns, bandwidth = figures[int(node_name.removeprefix("node"))]
            connection = dataclasses.replace(
                connection,
                latency_ns=max(1, round(latency_ns / 2)),
                bandwidth_bytes_per_s=float(f"{bandwidth:.4g}"),
            )
        connections.append(connection)
    today = datetime.datetime.now(datetime.UTC).date()
    source = f"{topology.source}; network measured by keras_soap on {today}"
    return dataclasses.replace(topology, connections=tuple(connections), source=source), found


def fit(sizes_bytes: Sequence[int], times_ns: Sequence[int]) -> tuple[float, float]:
    """Latency in ns and bandwidth in bytes/s that predict the times best."""
    latencies = LATENCIES_NS[:, None, None]
    bandwidths = BANDWIDTHS_BYTES_PER_S[None, :, None]
    predicted = latencies + 1e9 * np.array(sizes_bytes) / bandwidths
    errors = (np.log(predicted / np.array(times_ns)) ** 2).sum(axis=2)
    row, column = np.unravel_index(np.argmin(errors), errors.shape)
    return float(LATENCIES_NS[row]), float(BANDWIDTHS_BYTES_PER_S[column])


def _time(pair: tuple[str, str], num_bytes: int, node: int) -> tuple[int, float]:
    """Median time of one transfer, and its relative spread; of use on client 0."""
    hops = 8 if num_bytes <= 2**20 else 2
    shape = [max(1, num_bytes // 4)]

    @tf.function(autograph=False)
    def there_and_back() -> tf.Tensor:
        with tracing(f"{num_bytes} bytes to client {node} and back"):
            if is_here(pair[0]):
                with on(pair[0]):
                    tensor = tf.ones(shape)
            else:
                tensor = placeholder(tf.TensorShape(shape), tf.float32, pair[0])
            ends = itertools.cycle(pair)
            source = next(ends)
            for _ in range(hops):
                target = next(ends)
                tensor = move(tensor, source, target)
                source = target
            return tensor if is_here(pair[0]) else tf.zeros([])

    times_ns = []
    with cluster.watched("measuring the network"):
        for _ in range(NUM_RUNS):
            start = time.perf_counter_ns()
            there_and_back()
            times_ns.append((time.perf_counter_ns() - start) // hops)
    kept = times_ns[2:]  # The first traces, and finds the other end.
    median = max(1, int(statistics.median(kept)))
    return median, statistics.pstdev(kept) / median
