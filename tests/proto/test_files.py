"""Files of protos: what a typo says, what is refused, and that writing is all or nothing."""

import os
import stat

import pytest
from google.protobuf import text_format

from keras_soap.errors import TopologyError
from keras_soap.proto import device_topology_pb2, files, strategy_pb2

MESSAGE = device_topology_pb2.DeviceTopology


def refusal(tmp_path, text, name="t.textproto"):
    path = tmp_path / name
    path.write_text(text, "utf-8")
    with pytest.raises(TopologyError) as caught:
        files.read(path, MESSAGE, TopologyError)
    assert str(path) in str(caught.value)
    return str(caught.value).replace(str(path), "FILE")


def test_a_misspelt_field_is_named_with_its_place_and_the_known_ones(tmp_path):
    said = refusal(tmp_path, "schema_version: 1\nlinks {\n  duplx: SHARED\n}\n")
    assert said.startswith('FILE:3:3: Message type "keras_soap.v1.Link" has no field named "duplx"')
    assert "Did you mean 'duplex'?" in said
    assert "Known fields: name, ends, bandwidth_bytes_per_s, latency_ns, duplex." in said


def test_a_misspelt_enum_value_is_named_with_the_known_ones(tmp_path):
    said = refusal(tmp_path, "schema_version: 1\nlinks {\n  duplex: FULL_DUPLX\n}\n")
    assert said.startswith("FILE:3:11:")
    assert "Did you mean 'FULL_DUPLEX'?" in said
    assert "Known values: DUPLEX_UNSPECIFIED, FULL_DUPLEX, SHARED." in said


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("schema_version: one", "FILE:1:17:"),
        ('name: "x"\nname: "y"', "FILE:2:"),
        ("devices {\n  memory_bytes: 1.5 }", "FILE:2:17:"),
        ('devices { name: "x }', "FILE:1:17:"),
        ("devices {", "FILE:1:"),
    ],
)
def test_other_mistakes_are_named_with_their_place(tmp_path, text, place):
    assert refusal(tmp_path, text).startswith(place)


def test_another_message_is_refused_by_its_header(tmp_path):
    text = "# a comment\n# proto-message: keras_soap.v1.Strategy\nschema_version: 1"
    assert refusal(tmp_path, text).startswith(
        "FILE holds a keras_soap.v1.Strategy, not a keras_soap.v1.DeviceTopology."
    )


def test_a_header_after_the_content_is_a_comment(tmp_path):
    path = tmp_path / "t.textproto"
    path.write_text("schema_version: 1\n# proto-message: keras_soap.v1.Strategy\n")
    assert files.read(path, MESSAGE, TopologyError) == MESSAGE(schema_version=1)


def test_versions_are_checked(tmp_path):
    assert "Write `schema_version: 1`" in refusal(tmp_path, 'name: "x"')
    assert "schema_version 2, but this keras_soap knows 1" in refusal(tmp_path, "schema_version: 2")


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(TopologyError, match=r"missing.textproto: No such file"):
        files.read(tmp_path / "missing.textproto", MESSAGE, TopologyError)
    (tmp_path / "bytes.textproto").write_bytes(b"\xff\xfe")
    with pytest.raises(TopologyError, match=r"not text in UTF-8.*'.pb'"):
        files.read(tmp_path / "bytes.textproto", MESSAGE, TopologyError)


def test_binary_files_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "s.pb"
    files.write(path, strategy_pb2.Strategy(schema_version=1, num_devices=3, batch_size=4))
    with pytest.raises(TopologyError, match="does not have"):
        files.read(path, MESSAGE, TopologyError)
    path.write_bytes(b"nonsense")
    with pytest.raises(TopologyError, match=r"not a binary keras_soap.v1.DeviceTopology"):
        files.read(path, MESSAGE, TopologyError)


def awkward_message():
    """With strings that look like the text format itself."""
    names = ['a "quoted" {', "}", "new\nline", "ünï", "# comment", "x: 1", 'e: "f"', ""]
    return strategy_pb2.Strategy(
        schema_version=1,
        device_names=names * 9,
        device_models=["one"],
        configs=[
            strategy_pb2.ParallelConfig(
                operator_name=name,
                dimensions=[strategy_pb2.DimensionDegree(name=name, degree=2)] * 2,
                devices=[3, 1],
            )
            for name in names
        ],
    )


def test_readable_text_says_the_same():
    text = files.readable_text(awkward_message())
    assert text_format.Parse(text, strategy_pb2.Strategy()) == awkward_message()


def test_readable_text_puts_short_messages_and_lists_on_one_line():
    message = device_topology_pb2.DeviceTopology(
        links=[device_topology_pb2.Link(name="l", ends=["a", "b"], latency_ns=5)]
    )
    assert files.readable_text(message) == 'links { name: "l" ends: ["a", "b"] latency_ns: 5 }\n'


def test_long_lists_are_wrapped():
    message = strategy_pb2.Strategy(device_names=[f"node0/GPU:{number}" for number in range(40)])
    lines = files.readable_text(message).splitlines()
    assert len(lines) > 1
    assert max(map(len, lines)) <= files.LINE_LENGTH


@pytest.mark.parametrize("name", ["deep/er/s.textproto", "s.pb"])
def test_files_come_back(tmp_path, name):
    files.write(tmp_path / name, awkward_message())
    read = files.read(tmp_path / name, strategy_pb2.Strategy, TopologyError)
    assert read == awkward_message()


def test_text_files_say_what_they_are(tmp_path):
    path = tmp_path / "t.textproto"
    files.write(path, MESSAGE(schema_version=1))
    assert path.read_text().splitlines()[:2] == [
        "# proto-file: protos/device_topology.proto",
        "# proto-message: keras_soap.v1.DeviceTopology",
    ]
    assert files.declared_message(path.read_text()) == "keras_soap.v1.DeviceTopology"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "t.textproto"
    files.write_atomically(path, b"old")

    def fail(*_):
        raise OSError("disk is gone")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk is gone"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_files_have_the_permissions_that_others_would_have(tmp_path):
    files.write_atomically(tmp_path / "ours", b"")
    (tmp_path / "plain").write_bytes(b"")
    ours, plain = (stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "plain"))
    assert ours == plain
