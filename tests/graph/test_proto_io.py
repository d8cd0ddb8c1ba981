"""Operator graphs as protos."""

import dataclasses

import pytest

from keras_soap.errors import CaptureError
from keras_soap.graph import proto_io
from tests.search.toys import chain, diamond, twins


def graphs():
    plain = chain()
    operators = list(plain.operators)
    operators[1] = dataclasses.replace(
        operators[1], attributes={"units": 256, "activation": None, "strides": [1, 2.5]}
    )
    return [plain, diamond(), twins(), dataclasses.replace(plain, operators=tuple(operators))]


@pytest.mark.parametrize("graph", graphs())
def test_nothing_is_lost_in_the_message(graph):
    back = proto_io.from_proto(proto_io.to_proto(graph))
    assert back == graph
    assert back.fingerprint == graph.fingerprint


@pytest.mark.parametrize("suffix", ["textproto", "pb"])
def test_nothing_is_lost_in_the_file(tmp_path, suffix):
    path = tmp_path / f"graph.{suffix}"
    proto_io.save(path, diamond())
    assert proto_io.load(path) == diamond()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: setattr(m, "fingerprint", "f00"), "delete that line"),
        (lambda m: setattr(m.operators[1].inputs[0], "operator_index", 1), "reads operator number"),
        (lambda m: setattr(m.operators[1].inputs[0], "output_index", 3), "reads output 3 of"),
        (lambda m: m.operators[1].weights.append(99), "reads weight 99, but the graph has"),
        (lambda m: m.operators[1].ClearField("outputs"), "has no outputs"),
        (lambda m: setattr(m.operators[1], "attributes_json", "{"), "is not JSON"),
        (lambda m: setattr(m.operators[1], "attributes_json", "[]"), "Make it an object"),
        (lambda m: setattr(m.operators[1], "name", "input_0"), "Two operators are named"),
    ],
)
def test_what_does_not_hold_together_is_refused(tmp_path, change, reason):
    message = proto_io.to_proto(chain())
    change(message)
    with pytest.raises(CaptureError, match=reason):
        proto_io.from_proto(message)


def test_errors_in_files_name_the_file(tmp_path):
    path = tmp_path / "g.textproto"
    path.write_text('schema_version: 1 operators { name: "x" }')
    with pytest.raises(CaptureError, match=r"g\.textproto: Operator 'x' has no outputs"):
        proto_io.load(path)
