"""The presets: complete, connected, as their generator writes them, and with the right routes."""

import importlib.util
from pathlib import Path

import pytest

from keras_soap.topology import hardware
from keras_soap.topology.presets import scaled_cluster
from keras_soap.topology.resolve import presets, resolve

ROOT = Path(__file__).parents[2]


def number(topology, name):
    return [device.name for device in topology.devices].index(name)


def route(topology, source, destination):
    found = topology.route(number(topology, source), number(topology, destination))
    return found.latency_ns, found.bandwidth_bytes_per_s, len(found.links)


@pytest.mark.parametrize("name", presets())
def test_every_two_devices_have_a_route(name):
    topology = resolve(name)
    assert topology.name == name
    for a in range(topology.num_devices):
        for b in range(topology.num_devices):
            if a != b:
                there, back = topology.route(a, b), topology.route(b, a)
                assert there.latency_ns == back.latency_ns > 0
                assert there.bandwidth_bytes_per_s == back.bandwidth_bytes_per_s > 0


@pytest.mark.parametrize("name", presets())
def test_figures_are_those_of_known_hardware(name):
    known = {figures.model: figures for figures in hardware.ACCELERATORS}
    for device in resolve(name).devices:
        figures = known[device.model]
        assert device.memory_bytes == figures.memory_bytes
        assert device.peak_flops_per_s == figures.peak_flops_per_s
        assert device.memory_bandwidth_bytes_per_s == figures.memory_bandwidth_bytes_per_s


def test_files_are_what_the_generator_writes():
    path = ROOT / "tools" / "write_topologies.py"
    spec = importlib.util.spec_from_file_location("write_topologies", path)
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    for name, text in generator.files().items():
        assert (generator.FOLDER / name).read_text("utf-8") == text, f"run {path}"


def test_p100():
    #   node0: GPU:0 = GPU:1 (NVLink, all pairs); GPU – pcie – infiniband – pcie – GPU of node1
    topology = resolve("p100")
    assert topology.num_devices == 16
    assert route(topology, "node0/GPU:0", "node0/GPU:3") == (3_400, 20e9, 1)
    assert route(topology, "node0/GPU:0", "node1/GPU:0") == (9_600, 12.5e9, 4)


def test_a_cluster_made_by_rule_is_the_preset():
    made, preset = scaled_cluster(16), resolve("p100")
    assert (made.devices, made.connections) == (preset.devices, preset.connections)


def test_gpus_of_a_p100_node_share_its_network_card():
    topology = resolve("p100")
    ways = [
        topology.route(number(topology, f"node0/GPU:{k}"), number(topology, f"node1/GPU:{k}"))
        for k in range(4)
    ]
    shared = set(ways[0].links).intersection(*(way.links for way in ways))
    assert {topology.links[link].name for link in shared} == {
        "node0/pcie-infiniband: node0/pcie → infiniband",
        "node1/pcie-infiniband: infiniband → node1/pcie",
    }


def test_k80():
    #   GPU:0   GPU:1   GPU:2   GPU:3
    #      board0          board1
    #              host – infiniband
    topology = resolve("k80")
    assert topology.num_devices == 64
    assert route(topology, "node0/GPU:0", "node0/GPU:1") == (5_700, 15.75e9, 2)
    assert route(topology, "node0/GPU:1", "node0/GPU:2") == (6_700, 15.75e9, 4)
    assert route(topology, "node0/GPU:0", "node15/GPU:3") == (9_600, 6.8e9, 6)


def test_dgx1_v100():
    #   NVLinks of GPU 0: one to 1 and 2, two to 3 and 4, none to 5, 6 and 7.
    topology = resolve("dgx1_v100")
    assert route(topology, "GPU:0", "GPU:1") == (3_400, 25e9, 1)
    assert route(topology, "GPU:0", "GPU:3") == (3_400, 50e9, 1)
    assert route(topology, "GPU:0", "GPU:7") == (7_200, 15.75e9, 5)


def test_every_gpu_of_a_dgx1_has_six_nvlinks():
    topology = resolve("dgx1_v100")
    for device in topology.devices:
        nvlinks = sum(
            connection.bandwidth_bytes_per_s / 25e9
            for connection in topology.connections
            if device.name in connection.ends and "pcie" not in connection.ends[1]
        )
        assert nvlinks == 6


@pytest.mark.parametrize(("name", "bandwidth"), [("dgx_a100", 300e9), ("hgx_h100", 450e9)])
def test_nvswitch(name, bandwidth):
    assert route(resolve(name), "GPU:0", "GPU:7") == (3_400, bandwidth, 2)


def test_tpus_forward_along_a_shortest_way():
    #   0  1  2  3
    #   4  5  6  7
    topology = resolve("tpu_v5e_2x4")
    assert route(topology, "TPU:0", "TPU:1") == (1_000, 50e9, 1)
    assert route(topology, "TPU:0", "TPU:3") == (3_000, 50e9, 3)  # not around: a mesh
    assert route(topology, "TPU:0", "TPU:7") == (4_000, 50e9, 4)


def test_a_transfer_takes_latency_and_bytes_over_the_narrowest_link():
    topology = resolve("p100")
    found = topology.route(0, 4)
    assert found.time_ns(12_500) == 9_600 + 1_000


def test_every_preset_says_where_its_figures_come_from():
    for name in presets():
        assert len(resolve(name).source) > 40
