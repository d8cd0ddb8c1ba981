"""What an install must have made: messages that read and write text, and topologies to find."""

import importlib.metadata
import importlib.resources
import pkgutil
import re
import subprocess
import sys

import pytest
from google.protobuf import text_format

import keras_soap
from keras_soap.proto import (
    cost_profile_pb2,
    device_topology_pb2,
    operator_graph_pb2,
    strategy_pb2,
)

MODULES = [operator_graph_pb2, device_topology_pb2, cost_profile_pb2, strategy_pb2]
MESSAGES = [
    operator_graph_pb2.OperatorGraph,
    device_topology_pb2.DeviceTopology,
    cost_profile_pb2.CostProfile,
    strategy_pb2.Strategy,
]


def filled(message_class):
    """A message with a value other than the default in every field, at every depth."""
    message = message_class()
    for field in message_class.DESCRIPTOR.fields:
        value = value_of(field)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            getattr(message, field.name)["key"] = "value"
        elif field.is_repeated:
            getattr(message, field.name).extend([value, value])
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(value)
        else:
            setattr(message, field.name, value)
    return message


def value_of(field):
    if field.message_type is not None:
        return filled(field.message_type._concrete_class)
    if field.enum_type is not None:
        return field.enum_type.values[-1].number
    return {
        field.CPPTYPE_STRING: "a word",
        field.CPPTYPE_BOOL: True,
        field.CPPTYPE_DOUBLE: 0.1,
        field.CPPTYPE_INT32: 2**31 - 1,
        field.CPPTYPE_INT64: 2**53 + 1,
    }[field.cpp_type]


@pytest.mark.parametrize("message_class", MESSAGES, ids=lambda c: c.__name__)
def test_text_keeps_every_field(message_class):
    message = filled(message_class)
    text = text_format.MessageToString(message)
    assert text_format.Parse(text, message_class()) == message


@pytest.mark.parametrize("message_class", MESSAGES, ids=lambda c: c.__name__)
def test_every_top_message_says_its_version(message_class):
    assert message_class.DESCRIPTOR.fields_by_name["schema_version"].number == 1


@pytest.mark.parametrize("message_class", MESSAGES, ids=lambda c: c.__name__)
def test_a_misspelt_field_is_refused_at_its_line(message_class):
    with pytest.raises(text_format.ParseError, match=r"^2:1 .*schema_verson") as caught:
        text_format.Parse("# a comment\nschema_verson: 1\n", message_class())
    assert caught.value.GetLine() == 2


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__.rpartition(".")[2])
def test_enums_are_unspecified_unless_set(module):
    messages = module.DESCRIPTOR.message_types_by_name.values()
    enums = [
        *module.DESCRIPTOR.enum_types_by_name.values(),
        *(enum for message in messages for enum in message.enum_types),
    ]
    for enum in enums:
        assert enum.values_by_number[0].name.endswith("_UNSPECIFIED")


def test_generated_code_runs_on_the_oldest_protobuf_that_we_accept():
    requirements = importlib.metadata.requires("keras_soap")
    lowest = re.search(r"protobuf.*>=([\d.]+)", "\n".join(requirements)).group(1)
    package = importlib.resources.files("keras_soap.proto")
    for module in MODULES:
        source = (package / f"{module.__name__.rpartition('.')[2]}.py").read_text("utf-8")
        generated_for = re.search(r"Protobuf Python Version: ([\d.]+)", source).group(1)
        assert version(generated_for) <= version(lowest)


def version(text):
    return tuple(int(part) for part in text.split("."))


def test_topologies_are_found_and_complete():
    folder = importlib.resources.files("keras_soap") / "topologies"
    files = [file for file in folder.iterdir() if file.name.endswith(".textproto")]
    assert files
    for file in files:
        topology = text_format.Parse(file.read_text("utf-8"), device_topology_pb2.DeviceTopology())
        assert topology.name == file.name.removesuffix(".textproto")
        assert topology.source, f"{file.name} does not say where its figures come from"


def test_planning_imports_neither_tensorflow_nor_keras():
    planning = ("graph.operator_graph", "strategy", "tasks", "simulator", "objective", "search")
    names = [
        module.name
        for module in pkgutil.walk_packages(keras_soap.__path__, "keras_soap.")
        if module.name.removeprefix("keras_soap.").startswith(planning)
    ]
    assert len(names) >= len(planning)
    program = (
        f"import sys; [__import__(name) for name in {names}]; "
        "sys.exit(', '.join({'keras', 'tensorflow'} & set(sys.modules)) or None)"
    )
    finished = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    assert finished.returncode == 0, f"imported: {finished.stderr}"
