"""`keras-soap show FILE`: any of our protos as a table."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from keras_soap.cli.main import UsageError
from keras_soap.cli.quiet import quiet
from keras_soap.costs import proto_io as cost_io
from keras_soap.errors import SoapError
from keras_soap.graph import proto_io as graph_io
from keras_soap.proto.files import declared_message
from keras_soap.report.describe import describe_graph, describe_profile, describe_topology
from keras_soap.report.summary import describe_saved
from keras_soap.strategy import proto_io as strategy_io
from keras_soap.topology import proto_io as topology_io
from keras_soap.topology.resolve import resolve

SUMMARY = "Shows a strategy, topology, operator graph or cost profile as a table."
USAGE = """FILE

FILE is a text proto, or a binary one if it ends in .pb; or the name of a topology, such as p100."""

_READERS: dict[str, tuple[Callable[[str], Any], Callable[[Any], str]]] = {
    "Strategy": (strategy_io.read, describe_saved),
    "DeviceTopology": (topology_io.load, describe_topology),
    "OperatorGraph": (graph_io.load, describe_graph),
    "CostProfile": (cost_io.load, describe_profile),
}


def define_flags(values: flags.FlagValues) -> None:
    """It has none."""


def run(values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Prints the table."""
    if len(arguments) != 1:
        raise UsageError(f"show takes one file, not {len(arguments)}.")
    print(describe(arguments[0]))


def describe(name: str) -> str:
    """The table of the file or topology called `name`."""
    if not Path(name).is_file() and not name.endswith((".textproto", ".pb")):
        with quiet():
            topology = resolve(name)
        return describe_topology(topology)
    kind = None
    if not name.endswith(".pb"):
        try:
            declared = declared_message(Path(name).read_text("utf-8"))
        except UnicodeDecodeError:
            declared = None  # which the readers below explain
        kind = declared.rpartition(".")[2] if declared else None
    if kind in _READERS:
        read, write = _READERS[kind]
        return write(read(name))
    reasons = []
    for read, write in _READERS.values():
        try:
            return write(read(name))
        except SoapError as error:
            reasons.append(str(error))
    kinds = ", ".join(_READERS)
    raise SoapError(
        f"{name} is none of {kinds}. If it is a text file, let it begin with a line such as "
        f"'# proto-message: keras_soap.v1.Strategy' to learn what is wrong with it. Tried first: "
        f"{reasons[0]}"
    )
