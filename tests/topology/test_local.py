"""This machine, with a stand-in for TensorFlow, and once with the real one."""

import sys
from types import SimpleNamespace

import pytest

from keras_soap.errors import TopologyError
from keras_soap.topology import hardware, local
from keras_soap.topology.device_topology import Device, DeviceTopology


def tensorflow(gpus=(), cpus=1):
    """A stand-in.

    Args:
        gpus: For each physical GPU its name and the memory limits in MiB of its logical ones.
        cpus: Number of logical CPUs.
    """
    names = [f"/device:CPU:{number}" for number in range(cpus)]
    logical = [("CPU", SimpleNamespace(name=name)) for name in names]
    for _, limits in gpus:
        for _ in limits or (None,):
            name = f"/device:GPU:{len(logical) - cpus}"
            logical.append(("GPU", SimpleNamespace(name=name)))
    configurations = [
        [SimpleNamespace(memory_limit=limit) for limit in limits] or None for _, limits in gpus
    ]
    return SimpleNamespace(
        config=SimpleNamespace(
            list_logical_devices=lambda kind=None: [d for k, d in logical if kind in (None, k)],
            list_physical_devices=lambda kind: list(range(len(gpus))),
            get_logical_device_configuration=lambda physical: configurations[physical],
            experimental=SimpleNamespace(
                get_device_details=lambda physical: {"device_name": gpus[physical][0]}
            ),
        )
    )


def local_with(monkeypatch, **arguments):
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow(**arguments))
    return local.local_topology()


def test_logical_cpus_share_the_machine(monkeypatch):
    one, four = (local_with(monkeypatch, cpus=count) for count in (1, 4))
    assert [device.name for device in four.devices] == ["CPU:0", "CPU:1", "CPU:2", "CPU:3"]
    for field in ("peak_flops_per_s", "memory_bandwidth_bytes_per_s"):
        whole = getattr(one.devices[0], field)
        assert sum(getattr(d, field) for d in four.devices) == pytest.approx(whole)
    assert four.devices[0].memory_bytes == one.devices[0].memory_bytes // 4
    assert one.connections == ()


def test_copies_between_logical_cpus(monkeypatch):
    found = local_with(monkeypatch, cpus=2).route(0, 1)
    assert found.latency_ns == local.CPU_COPY_LATENCY_NS
    assert found.bandwidth_bytes_per_s == local.CPU_COPY_BYTES_PER_S


def test_gpus_are_preferred_and_known_by_their_driver_names(monkeypatch):
    names = ["Tesla V100-SXM2-16GB", "NVIDIA A100-SXM4-40GB", "Brand New 9000"]
    topology = local_with(monkeypatch, gpus=[(name, ()) for name in names])
    assert [device.model for device in topology.devices] == ["V100", "A100", "GPU"]
    assert [device.kind for device in topology.devices] == ["GPU"] * 3
    assert topology.devices[2].peak_flops_per_s == hardware.UNKNOWN_GPU.peak_flops_per_s
    assert topology.route(0, 1).bandwidth_bytes_per_s == hardware.PCIE_3_X16


def test_logical_gpus_share_a_physical_one(monkeypatch):
    topology = local_with(monkeypatch, gpus=[("Tesla T4", (4096, 8192)), ("Tesla T4", ())])
    assert [d.name for d in topology.devices] == ["GPU:0", "GPU:1", "GPU:2"]
    assert [d.memory_bytes // 2**30 for d in topology.devices] == [4, 8, 16]
    first, _, whole = topology.devices
    assert first.peak_flops_per_s == whole.peak_flops_per_s / 2


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("Tesla K80", "K80"),
        ("Tesla P100-PCIE-16GB", "P100 PCIe"),
        ("Tesla P100-SXM2-16GB", "P100"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("", "GPU"),
    ],
)
def test_driver_names(name, model):
    assert hardware.find(name).model == model


def test_devices_that_do_not_exist_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow(cpus=2))
    local.check_present(DeviceTopology("ours", (Device("CPU:1"),)))
    with pytest.raises(TopologyError, match=r"'GPU:0', which does not exist.*has: CPU:0, CPU:1"):
        local.check_present(DeviceTopology("theirs", (Device("CPU:0"), Device("GPU:0", "GPU"))))


def test_the_real_machine():
    topology = local.local_topology()
    local.check_present(topology)
    assert topology.name == "local"
    assert all(device.memory_bytes > 2**20 for device in topology.devices)
    for device in range(1, topology.num_devices):
        topology.route(0, device)
