"""What measured times depend on beside what is measured: the machine, its software, its threads."""

import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path

SOFTWARE = ("tensorflow", "keras", "keras_soap")
"""Distributions whose versions count."""


def software_versions() -> dict[str, str]:
    """Versions of what runs parts. Imports none of it."""
    versions = {}
    for name in SOFTWARE:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "unknown"
    return versions


def describe(device: str, cores_of_task: int = 0) -> dict[str, str]:
    """The environment of measurements.

    Args:
        device: What is measured, such as `"CPU:0"`.
        cores_of_task: How many cores a task has; 0: it is timed alone.
    """
    import tensorflow as tf

    kind = device.partition(":")[0]
    threading = tf.config.threading
    return {
        **software_versions(),
        "device_type": kind,
        "hardware": _gpu_name(tf) if kind == "GPU" else _cpu_name(),
        "cores_of_task": str(cores_of_task),
        "intra_op_threads": str(threading.get_intra_op_parallelism_threads()),
        "inter_op_threads": str(threading.get_inter_op_parallelism_threads()),
    }


def differences(found: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """What is not the same, in words; what only one of the two says is not compared."""
    return [
        f"{name.replace('_', ' ')} {found[name]!r} there, {here[name]!r} here"
        for name in sorted(found.keys() & here.keys())
        if found[name] != here[name]
    ]


def _gpu_name(tf) -> str:
    physical = tf.config.list_physical_devices("GPU")[0]
    return str(tf.config.experimental.get_device_details(physical).get("device_name", "GPU"))


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
