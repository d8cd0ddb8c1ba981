"""This machine's topology with what its connections and its tasks really take.

1. A copy is what the runtime does for a transfer: cut on one device, moved, joined on the other.
   It is cut and joined along the last axis, as channels and units are, which takes longer than
   along the first, and it is of a tensor that no cache of a core holds.
2. A reduction is the runtime's own, among all devices.
3. Both are timed by size, several in a row beyond `FEW_HOPS` (calling a function that does nothing
   on two devices takes longer than calling one that does a little); where devices share cores,
   their share of the time of these counts. Latency and bandwidth are those with which the topology
   predicts all of these times best (least squares of the logarithms: a transfer of 1 kB counts as
   much as one of 64 MB).
"""

import dataclasses
import datetime
import functools
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_soap.costs import environment
from keras_soap.costs.cache import CostCache
from keras_soap.costs.cores import of_this_process
from keras_soap.costs.cost_profile import CostProfile, CostSource
from keras_soap.costs.cost_table import PartTime
from keras_soap.costs.measure import cores_of_task
from keras_soap.costs.measure_parts import measure_task_overhead
from keras_soap.costs.running import MOST_SETS, UNCACHED_BYTES
from keras_soap.costs.timing import Precision, time_in_turn
from keras_soap.errors import TopologyError
from keras_soap.runtime.collectives import Reductions
from keras_soap.runtime.exchange import move
from keras_soap.tasks import all_reduce
from keras_soap.topology.device_topology import DeviceTopology
from keras_soap.topology.local import sync_devices

COPY_BYTES = (4 * 2**10, 64 * 2**10, 2**20, 4 * 2**20, 16 * 2**20)
"""Sizes of copies and reductions that are timed. Tensors from 32 MB on, which are rare, take
much longer by the byte on CPUs: the C library gets new memory for each from the system."""

ROW_LENGTH = 128
"""Of tensors that are copied: float32 numbers along the last axis."""

FEW_HOPS = 2
"""What is timed goes beyond so many. An even number, so that both directions count alike."""

LATENCIES_NS = np.geomspace(100, 1e6, 41)
BANDWIDTHS_BYTES_PER_S = np.geomspace(1e8, 1e12, 65)
"""What connections are searched for."""


@dataclass(frozen=True, slots=True)
class LinkTime:
    """One measurement.

    Attributes:
        kind: `"copy"` from the first device to the second, or `"all_reduce"` among all.
        num_bytes: Of the tensor.
        time_ns: Median.
        relative_spread: Standard deviation over the median.
    """

    kind: str
    num_bytes: int
    time_ns: int
    relative_spread: float


def measure_topology(
    topology: DeviceTopology,
    precision: Precision | None = None,
    *,
    cache_folder: "str | os.PathLike[str] | None" = None,
    progress: bool = False,
) -> tuple[DeviceTopology, list[LinkTime]]:
    """The topology with measured task overhead and connections, and the measurements.

    What the cache knows of this environment is not measured again.

    Args:
        topology: Of this process, as `topology.local` describes it: all devices on one switch;
            with a pool, or to be given that of `with_pool`.
        precision: When to stop repeating.
        cache_folder: By default the user's cache directory.
        progress: Whether to show a progress bar, on stderr.
    """
    precision = precision or Precision()
    topology = with_pool(topology)
    first, cores = topology.devices[0].name, cores_of_task(topology)
    cache = CostCache(environment.describe(first, cores), cache_folder)
    wanted: dict[str, tuple[str, int, Callable[[], PartTime]]] = {
        "task": ("task", 0, lambda: measure_task_overhead(first, precision, cores))
    }
    for size in COPY_BYTES if topology.num_devices > 1 else ():
        for kind, measure in (("copy", measure_copy), ("all_reduce", measure_all_reduce)):
            key = json.dumps([kind, topology.num_devices, size])
            wanted[key] = kind, size, functools.partial(measure, topology, size, precision)
    found: list[LinkTime] = []
    overhead_ns = 0
    bar = tqdm(wanted.items(), "measuring connections", disable=not progress, leave=False)
    for key, (kind, size, measure) in bar:
        timed = cache.get(key)
        if timed is None:
            timed = measure()
            cache.add(key, timed)
        if kind == "task":
            overhead_ns = timed.forward_ns
        else:
            found.append(LinkTime(kind, size, timed.forward_ns, timed.relative_spread))
    today = datetime.datetime.now(datetime.UTC).date()
    source = f"measured by keras_soap, written on {today}"
    devices = tuple(
        dataclasses.replace(device, task_overhead_ns=overhead_ns) for device in topology.devices
    )
    topology = dataclasses.replace(topology, devices=devices, source=source)
    return (fit(topology, found) if found else topology), found


def with_pool(topology: DeviceTopology) -> DeviceTopology:
    """The topology whose logical CPUs share the cores of the machine, as TensorFlow's do.

    One task at a time has all of them. GPUs are left as they are, and so are pools.
    """
    if any(device.kind != "CPU" or device.pool for device in topology.devices):
        return topology
    devices = tuple(
        dataclasses.replace(
            device,
            pool="cores",
            peak_flops_per_s=device.peak_flops_per_s * topology.num_devices,
            memory_bandwidth_bytes_per_s=(
                device.memory_bandwidth_bytes_per_s * topology.num_devices
            ),
        )
        for device in topology.devices
    )
    return dataclasses.replace(topology, devices=devices)


def as_measured(topology: DeviceTopology, profile: CostProfile) -> DeviceTopology:
    """This machine's topology as the times of a profile are meant: measured ones are shares."""
    return with_pool(topology) if profile.source == CostSource.MEASURED else topology


def measure_copy(topology: DeviceTopology, num_bytes: int, precision: Precision) -> PartTime:
    """Times transfers of `num_bytes` between two devices, one after the other, to and fro."""
    names = [device.name for device in topology.devices[:2]]
    rows = max(1, num_bytes // 4 // ROW_LENGTH)
    hops = _hops(num_bytes)

    def copies(count: int, *given: tf.Tensor) -> list[tf.Tensor]:
        rests, tensors = given[:2], given[2 : 2 + count]
        made: list[tf.Tensor] = []
        for hop, tensor in enumerate(tensors):
            source, target = hop % 2, (hop + 1) % 2
            # One after the other.
            with tf.control_dependencies(made[-1:]):
                with tf.device(names[source]):
                    piece = tf.slice(tensor, [0, 1], [rows, ROW_LENGTH - 1])
                piece = move(piece, names[source], names[target])
                with tf.device(names[target]):
                    made.append(tf.concat([rests[target], piece], 1))
        return made

    rests = [_ones(name, rows, 1) for name in names]
    in_call = FEW_HOPS + hops
    count = in_call * max(1, min(MOST_SETS, UNCACHED_BYTES // num_bytes // in_call))
    tensors = itertools.cycle([_ones(names[k % 2], rows, ROW_LENGTH) for k in range(count)])
    return _time(
        topology, copies, lambda: [*rests, *itertools.islice(tensors, in_call)], hops, precision
    )


def measure_all_reduce(topology: DeviceTopology, num_bytes: int, precision: Precision) -> PartTime:
    """Times the runtime's reductions of `num_bytes` among all devices, one after the other."""
    names = [device.name for device in topology.devices]
    among_all = Reductions(topology, names)

    def reductions(count: int, *tensors: tf.Tensor) -> list[tf.Tensor]:
        made = list(tensors)
        for _ in range(count):
            made = among_all.reduce(made, names)
        return made

    arguments = [_ones(name, max(1, num_bytes // 4)) for name in names]
    return _time(topology, reductions, lambda: arguments, _hops(num_bytes), precision)


def _hops(num_bytes: int) -> int:
    """How many are timed: several, so that threads are awake, as in a step. An even number."""
    return 64 if num_bytes <= 2**16 else 16 if num_bytes <= 2**20 else 8


def _ones(device: str, *shape: int) -> tf.Tensor:
    with tf.device(device):
        return tf.ones(shape)


def fit(topology: DeviceTopology, found: Sequence[LinkTime]) -> DeviceTopology:
    """The topology whose connections predict `found` best, all of them alike."""
    if any(len(topology.route(0, other).links) != 2 for other in range(1, topology.num_devices)):
        raise TopologyError(
            f"Topology {topology.name!r} joins devices otherwise than by one switch, which cannot "
            "be measured. Use the topology that 'local' gives."
        )
    found = [measured for measured in found if measured.time_ns > 0]

    def error(log_latency: float, log_bandwidth: float) -> float:
        guess = _with_links(topology, math.exp(log_latency), math.exp(log_bandwidth))
        return sum(math.log(predict(guess, m) / m.time_ns) ** 2 for m in found)

    latencies, bandwidths = np.log(LATENCIES_NS), np.log(BANDWIDTHS_BYTES_PER_S)
    latency, bandwidth = latencies[len(latencies) // 2], bandwidths[len(bandwidths) // 2]
    for _ in range(10):  # One after the other, until neither moves.
        before = latency, bandwidth
        bandwidth = min(bandwidths, key=lambda b: error(before[0], b))
        latency = min(latencies, key=lambda a: error(a, bandwidth))
        if (latency, bandwidth) == before:
            break
    return _with_links(topology, math.exp(latency), math.exp(bandwidth))


def predict(topology: DeviceTopology, measured: LinkTime) -> int:
    """What `topology` says of the time of a measurement."""
    if measured.kind == "copy":
        return topology.transfer_time_ns(0, 1, measured.num_bytes)
    devices = list(range(topology.num_devices))
    return all_reduce.plan(topology, devices, measured.num_bytes // 4, 4).time_ns


def _with_links(topology: DeviceTopology, latency_ns: float, bandwidth: float) -> DeviceTopology:
    """All connections with half of a latency (a route has two of them), and a bandwidth."""
    return dataclasses.replace(
        topology,
        connections=tuple(
            dataclasses.replace(
                connection,
                latency_ns=max(1, round(latency_ns / 2)),
                bandwidth_bytes_per_s=float(f"{bandwidth:.4g}"),
            )
            for connection in topology.connections
        ),
    )


def _time(
    topology: DeviceTopology,
    function: Callable[..., Any],
    next_arguments: Callable[[], list[tf.Tensor]],
    hops: int,
    precision: Precision,
) -> PartTime:
    """What each of `hops` takes, beyond `FEW_HOPS`, that `function` makes of `next_arguments()`.

    Where devices share cores, a transfer or a reduction has all of them for its time
    (`DeviceTopology.movers`), as a part has: this is its share of theirs, since others use what it
    leaves idle.
    """
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in next_arguments()]
    runners = []
    for count in (FEW_HOPS, FEW_HOPS + hops):
        body = functools.partial(function, count)
        concrete = tf.function(body, autograph=False).get_concrete_function(*specs)

        def run(concrete=concrete) -> object:
            made = concrete(*next_arguments())
            sync_devices()
            return made

        run()
        runners.append(run)
    shared = cores_of_task(topology)
    cores = of_this_process() if topology.devices[0].kind == "CPU" else None
    clock_ns = time.process_time_ns if shared else time.perf_counter_ns
    timing = time_in_turn(runners, precision, clock_ns, cores)
    time_ns = timing.beyond_previous_ns[0] // hops // max(1, shared)
    return PartTime(time_ns, 0, timing.relative_spread, timing.num_runs)
