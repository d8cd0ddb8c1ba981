"""Cost profiles as protos, and tables of times."""

import numpy as np
import pytest

from keras_soap.costs import proto_io
from keras_soap.costs.cost_profile import CostSource
from keras_soap.costs.cost_table import CostTable, PartTime, part_keys
from keras_soap.costs.roofline import Roofline
from keras_soap.errors import CostError
from keras_soap.tasks.lowering import Lowering
from keras_soap.topology.device_topology import Device
from tests.search.toys import chain

DEVICE = Device("GPU:0", "GPU", "K80")
GRAPH = chain()


def regions(degrees):
    return Lowering(GRAPH).operator(1, degrees).outputs[0]


def a_table(**arguments):
    key = part_keys(GRAPH.operators[1], regions((2, 1)))[0]
    return CostTable("K80", {key: PartTime(1_000, 2_000, 0.25, 10, 500)}, **arguments)


@pytest.mark.parametrize(
    "profile",
    [
        Roofline(),
        Roofline(0.25, 1.0),
        a_table(created="2025-01-31T12:00:00Z", versions={"tensorflow": "2.21.0"}),
        a_table(source=CostSource.ANALYTIC),
        CostTable("K80"),
    ],
)
@pytest.mark.parametrize("suffix", ["textproto", "pb"])
def test_profiles_come_back(tmp_path, profile, suffix):
    path = tmp_path / f"profile.{suffix}"
    proto_io.save(path, profile)
    assert proto_io.load(path) == profile


def test_parts_of_one_shape_have_one_key():
    assert len(set(part_keys(GRAPH.operators[1], regions((4, 1))))) == 1
    whole, half = (part_keys(GRAPH.operators[1], regions(d))[0] for d in ((1, 1), (1, 2)))
    assert whole != half


def test_listed_times_come_first_and_the_roofline_answers_for_the_rest():
    table, operator = a_table(), GRAPH.operators[1]
    listed = table.part_times_ns(operator, regions((2, 1)), DEVICE)
    assert [times.tolist() for times in listed] == [[1_000] * 2, [2_000] * 2, [500] * 2]
    found = table.part_times_ns(operator, regions((4, 1)), DEVICE)
    np.testing.assert_array_equal(
        found, Roofline().part_times_ns(operator, regions((4, 1)), DEVICE)
    )
    assert table.update_time_ns(8, DEVICE) == Roofline().update_time_ns(8, DEVICE)


def test_another_model_of_device_is_refused():
    with pytest.raises(CostError, match="for devices of model 'K80', but 'GPU:0' is of model 'T4'"):
        a_table().part_times_ns(GRAPH.operators[1], regions((2, 1)), Device("GPU:0", "GPU", "T4"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: setattr(m, "peak_fraction", 1.5), r"peak_fraction is 1.5. It must be in \(0, 1"),
        (lambda m: m.ClearField("bandwidth_fraction"), "bandwidth_fraction is 0.0"),
        (lambda m: m.ClearField("source"), "Say ANALYTIC or MEASURED"),
        (lambda m: m.ClearField("device_model"), "need the device_model"),
        (lambda m: m.entries.append(m.entries[0]), "Two entries have the key"),
        (lambda m: setattr(m.entries[0], "forward_ns", -1), "negative"),
    ],
)
def test_what_does_not_hold_together_is_refused(change, reason):
    message = proto_io.to_proto(a_table())
    change(message)
    with pytest.raises(CostError, match=reason):
        proto_io.from_proto(message)


def test_errors_in_files_name_the_file(tmp_path):
    path = tmp_path / "p.textproto"
    path.write_text("schema_version: 1 peak_fraction: 2")
    with pytest.raises(CostError, match=r"p\.textproto: peak_fraction is 2\.0"):
        proto_io.load(path)
