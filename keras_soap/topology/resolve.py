"""From what a user says to a topology: `"local"`, a preset, a file, or the first devices of one.

A preset is a file in `protos/topologies/`, installed as `keras_soap/topologies/`: adding a machine
is adding a file there. Clusters go on beyond their file by rule: `"k80:128"` has 32 nodes. So do
slices of a TPU v5e pod, `"tpu_v5e_RxC"` for R rows and C columns of chips.
"""

import difflib
import importlib.resources
import os
import re
from importlib.resources.abc import Traversable
from pathlib import Path

from keras_soap.errors import TopologyError
from keras_soap.topology import proto_io
from keras_soap.topology.device_topology import DeviceTopology
from keras_soap.topology.local import local_topology
from keras_soap.topology.presets import CLUSTERS, TPU_POD_SIDE, tpu_v5e

_SUFFIXES = (".textproto", ".pb")


def resolve(topology: "str | os.PathLike[str] | DeviceTopology") -> DeviceTopology:
    """The topology that `topology` names.

    Args:
        topology: `"local"` (this process), the name of a preset such as `"p100"`, the path of a
            topology file, any of these with `:n` for its first n devices (`"p100:8"`), a cluster
            with `:n` for as many as that (`"k80:128"`), or a topology, which is returned as it is.

    Raises:
        TopologyError: If there is no such topology, or it has fewer devices.
    """
    if isinstance(topology, DeviceTopology):
        return topology
    name = os.fspath(topology)
    if Path(name).is_file():
        return proto_io.load(name)
    base, colon, count = name.rpartition(":")
    if not colon:
        return _find(name)
    if not count.isdecimal():
        raise TopologyError(
            f"Cannot tell how many devices topology {name!r} asks for: {count!r} is no number. "
            "Write for example 'p100:8'."
        )
    found = _find(base)
    if base in CLUSTERS and int(count) > found.num_devices:
        make, devices_per_node = CLUSTERS[base]
        found = make(-(-int(count) // devices_per_node))
    return found.subset(int(count))


def presets() -> dict[str, Traversable]:
    """The files of all presets by name."""
    folder = importlib.resources.files("keras_soap") / "topologies"
    if not folder.is_dir():
        return {}
    return {
        file.name.removesuffix(".textproto"): file
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".textproto")
    }


def _find(name: str) -> DeviceTopology:
    if name == "local":
        return local_topology()
    known = presets()
    if name in known:
        with importlib.resources.as_file(known[name]) as path:
            return proto_io.load(path)
    if slice_of_pod := re.fullmatch(r"tpu_v5e_(\d+)x(\d+)", name):
        rows, columns = map(int, slice_of_pod.groups())
        if not (1 <= rows <= TPU_POD_SIDE and 1 <= columns <= TPU_POD_SIDE):
            raise TopologyError(
                f"A TPU v5e pod has {TPU_POD_SIDE} rows and columns of chips, so there is no "
                f"{name!r}. Ask for 1 to {TPU_POD_SIDE} of each."
            )
        return tpu_v5e(rows, columns)
    if name.endswith(_SUFFIXES) or os.sep in name:
        return proto_io.load(name)
    close = difflib.get_close_matches(name, ["local", *known], 1)
    guess = f"Did you mean {close[0]!r}? " if close else ""
    raise TopologyError(
        f"There is no topology {name!r}. {guess}Use 'local', a preset ({', '.join(known)}), or the "
        "path of a topology file."
    )
