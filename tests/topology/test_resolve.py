"""From names to topologies."""

import pytest

from keras_soap.errors import TopologyError
from keras_soap.topology import proto_io, resolve
from keras_soap.topology.device_topology import Device, DeviceTopology


def test_a_topology_is_itself():
    topology = DeviceTopology("mine", (Device("CPU:0"),))
    assert resolve.resolve(topology) is topology


def test_a_preset_by_name_and_its_first_devices():
    whole, part = resolve.resolve("p100"), resolve.resolve("p100:8")
    assert part.name == "p100:8"
    assert part.devices == whole.devices[:8]
    assert part.route(0, 7).time_ns(10**6) == whole.route(0, 7).time_ns(10**6)


@pytest.mark.parametrize("name", ["p100", "k80"])
def test_clusters_go_on_beyond_their_file(name):
    file, larger = resolve.resolve(name), resolve.resolve(f"{name}:70")
    assert (larger.name, larger.num_devices) == (f"{name}:70", 70)
    assert larger.devices[: file.num_devices] == file.devices
    assert larger.devices[-1].node == 70 // 4
    assert larger.route(0, 69).time_ns(10**6) == file.route(0, 15).time_ns(10**6)


def test_slices_of_a_pod_are_made_by_rule_and_close_rings_only_where_they_are_whole():
    assert resolve.resolve("tpu_v5e_4x8").route(0, 7).latency_ns == 7_000
    assert resolve.resolve("tpu_v5e_4x16").route(0, 15).latency_ns == 1_000
    assert resolve.resolve("tpu_v5e_16x1").route(0, 15).latency_ns == 1_000


@pytest.mark.parametrize("suffix", ["textproto", "pb"])
def test_a_file_by_path(tmp_path, suffix):
    path = tmp_path / f"mine.{suffix}"
    proto_io.save(path, resolve.resolve("dgx_a100"))
    assert resolve.resolve(path) == resolve.resolve("dgx_a100")
    assert resolve.resolve(str(path)) == resolve.resolve("dgx_a100")
    assert resolve.resolve(f"{path}:2") == resolve.resolve("dgx_a100:2")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("p1000", "no topology 'p1000'. Did you mean 'p100'"),
        ("nonsense", "Use 'local', a preset .dgx1_v100, .*k80.*, or the path"),
        ("dgx_a100:9", "has 8 devices, not 9. Ask for 1 to 8"),
        ("p100:0", "has 16 devices, not 0"),
        ("tpu_v5e_2x17", "pod has 16 rows and columns of chips, so there is no 'tpu_v5e_2x17'"),
        ("p100:many", "'many' is no number"),
        ("gone.textproto", "Cannot read gone.textproto: No such file"),
        ("gone/away", "Cannot read gone/away"),
    ],
)
def test_what_does_not_exist_is_refused(name, reason):
    with pytest.raises(TopologyError, match=reason):
        resolve.resolve(name)


def test_local_can_be_asked_for_its_first_devices(monkeypatch):
    made = lambda: DeviceTopology("local", (Device("CPU:0"),))  # noqa: E731
    monkeypatch.setattr(resolve, "local_topology", made)
    assert resolve.resolve("local:1").devices == (Device("CPU:0"),)
    with pytest.raises(TopologyError, match="Topology 'local' has 1 devices, not 2"):
        resolve.resolve("local:2")
