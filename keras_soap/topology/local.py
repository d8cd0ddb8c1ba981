"""The machine at hand: the logical GPUs of this process, or its logical CPUs if it has no GPU.

Nothing is measured here; the figures are defaults, each with its reason. `keras-soap profile`
measures, and a topology file says what its writer knows.

1. Logical CPU devices share the machine's cores, memory and its bandwidth: each counts as an equal
   share, as if all were busy.
2. Logical GPUs on one physical GPU share it in the same way.
3. How GPUs are connected cannot be asked from TensorFlow: PCIe, through one switch, is assumed.
   Where there is NVLink, a preset or a topology file says so.
"""

import os
import re
from pathlib import Path

from keras_soap.errors import TopologyError
from keras_soap.topology import hardware
from keras_soap.topology.device_topology import Connection, Device, DeviceTopology

CPU_FLOPS_PER_S_PER_CORE = 1.2e11
"""32 float32 operations per cycle (two 256-bit or one 512-bit fused multiply-add units) at 3.7 GHz.
TensorFlow's matrix product reached 8.0e10, its convolution 1.07e11, on one core of a 2025 EPYC."""

CPU_BANDWIDTH_BYTES_PER_S_PER_CORE = 30e9
"""One core adding a constant to a large tensor moved 2.3e10 on the same machine, 77 % of this."""

CPU_MAX_BANDWIDTH_BYTES_PER_S = 200e9
"""Of all cores together: eight channels of DDR4-3200, 25.6e9 each."""

CPU_TASK_OVERHEAD_NS = 15_000
"""TensorFlow's executor took 0.8 µs for a small operation there; a layer's part, with its slices
and gradients, is a dozen or two."""

CPU_COPY_BYTES_PER_S = 10e9
"""TensorFlow hands a tensor from one logical CPU to another without copying, but the slice and the
concatenation around a transfer are copies by one core: twice 20e9."""

CPU_COPY_LATENCY_NS = 5_000
"""Send and receive between two logical CPUs took 3.5 µs more than none."""

GPU_COPY_LATENCY_NS = 10_000
"""A peer-to-peer copy by the driver, launch included. Assumed."""


def local_topology() -> DeviceTopology:
    """The topology of this process. Starts TensorFlow's devices: configure logical ones before."""
    import tensorflow as tf

    if of_this_process("GPU"):
        devices, port = _gpus(tf)
        latency_ns, hub = GPU_COPY_LATENCY_NS // 2, "pcie"
    else:
        devices = _cpus([_short(device.name) for device in of_this_process("CPU")])
        port, latency_ns, hub = CPU_COPY_BYTES_PER_S, CPU_COPY_LATENCY_NS // 2, "memory"
    several = len(devices) > 1
    return DeviceTopology(
        "local",
        devices,
        tuple(
            # A CPU's port is the one core that copies, in or out; PCIe goes both ways at once.
            Connection(f"{device.name}-{hub}", (device.name, hub), port, latency_ns, hub == "pcie")
            for device in devices
            if several
        ),
        (hub,) if several else (),
        "defaults of keras_soap.topology.local and .hardware, not measured",
    )


def check_present(topology: DeviceTopology) -> None:
    """Raises `TopologyError` where this process lacks a device of `topology`."""
    import tensorflow as tf

    present = {_short(device.name) for device in tf.config.list_logical_devices()}
    for device in topology.devices:
        if device.name not in present:
            raise TopologyError(
                f"Topology {topology.name!r} has device {device.name!r}, which does not exist in "
                f"this process. It has: {', '.join(sorted(present))}. Use topology='local', or "
                "keras_soap.use_logical_cpus(n) before TensorFlow starts, for more CPU devices."
            )


def of_this_process(kind: str) -> list:
    """Logical devices; TensorFlow lists those of other processes of a cluster as well."""
    import tensorflow as tf

    devices = tf.config.list_logical_devices(kind)
    # A process alone has no task in its names; a client's number is that of its task.
    others = re.compile(rf"/task:(?!{os.environ.get('DTENSOR_CLIENT_ID', '0')}/)")
    return [device for device in devices if not others.search(device.name)]


def sync_devices() -> None:
    """Waits until the devices of this process have done all that they were told.

    As `tf.test.experimental.sync_devices`, which fails where there are several processes.
    """
    import tensorflow as tf

    for kind in ("CPU", "GPU"):
        for device in of_this_process(kind):
            with tf.device(device.name):
                tf.raw_ops.SyncDevice()


def _short(name: str) -> str:
    """`"/device:CPU:0"` as `"CPU:0"`."""
    return name.rpartition("device:")[2]


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpus(names: list[str]) -> tuple[Device, ...]:
    share = num_cores() / len(names)
    bandwidth = min(
        share * CPU_BANDWIDTH_BYTES_PER_S_PER_CORE, CPU_MAX_BANDWIDTH_BYTES_PER_S / len(names)
    )
    return tuple(
        Device(
            name,
            "CPU",
            "CPU",
            memory_bytes=_memory_bytes() // len(names),
            peak_flops_per_s=share * CPU_FLOPS_PER_S_PER_CORE,
            memory_bandwidth_bytes_per_s=bandwidth,
            task_overhead_ns=CPU_TASK_OVERHEAD_NS,
        )
        for name in names
    )


def _gpus(tf) -> tuple[tuple[Device, ...], float]:
    """The logical GPUs, and the slowest bandwidth to the host among them."""
    devices: list[Device] = []
    bandwidths: list[float] = []
    for physical in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(physical)
        figures = hardware.find(details.get("device_name", ""))
        limits = [
            logical.memory_limit
            for logical in tf.config.get_logical_device_configuration(physical) or [None]
            if logical is not None
        ] or [None]
        for limit_mb in limits:
            devices.append(
                Device(
                    f"GPU:{len(devices)}",
                    "GPU",
                    figures.model,
                    memory_bytes=limit_mb * 2**20
                    if limit_mb
                    else figures.memory_bytes // len(limits),
                    peak_flops_per_s=figures.peak_flops_per_s / len(limits),
                    memory_bandwidth_bytes_per_s=figures.memory_bandwidth_bytes_per_s / len(limits),
                    task_overhead_ns=hardware.GPU_TASK_OVERHEAD_NS,
                )
            )
            bandwidths.append(figures.host_bandwidth_bytes_per_s)
    present = len(of_this_process("GPU"))
    return tuple(devices[:present]), min(bandwidths)


def _memory_bytes() -> int:
    """Memory of the machine, or of the control group that we run in."""
    try:
        sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, ValueError, OSError):
        sizes = [16 * 2**30]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            sizes.append(int(Path("/sys/fs/cgroup", name).read_text()))
        except (OSError, ValueError):
            continue
    return min(sizes)
