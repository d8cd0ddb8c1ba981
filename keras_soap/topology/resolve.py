"""From what a user says to a topology: `"local"`, a preset, a file, or the first devices of one.

A preset is a file in `protos/topologies/`, installed as `keras_soap/topologies/`: adding a machine
is adding a file there.
"""

import difflib
import importlib.resources
import os
from importlib.resources.abc import Traversable
from pathlib import Path

from keras_soap.errors import TopologyError
from keras_soap.topology import proto_io
from keras_soap.topology.device_topology import DeviceTopology
from keras_soap.topology.local import local_topology

_SUFFIXES = (".textproto", ".pb")


def resolve(topology: "str | os.PathLike[str] | DeviceTopology") -> DeviceTopology:
    """The topology that `topology` names.

    Args:
        topology: `"local"` (this process), the name of a preset such as `"p100"`, the path of a
            topology file, any of these with `:n` for its first n devices (`"p100:8"`), or a
            topology, which is returned as it is.

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
    return _find(base).subset(int(count))


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
    if name.endswith(_SUFFIXES) or os.sep in name:
        return proto_io.load(name)
    close = difflib.get_close_matches(name, ["local", *known], 1)
    guess = f"Did you mean {close[0]!r}? " if close else ""
    raise TopologyError(
        f"There is no topology {name!r}. {guess}Use 'local', a preset ({', '.join(known)}), or the "
        "path of a topology file."
    )
