"""The presets as rules, so that there are larger ones than the files of `protos/topologies/`.

`tools/write_topologies.py` writes the files. Peak rates, memory and PCI Express are those of
`hardware`; each function says where its other figures are from.

Latencies are what NCCL plans a ring with, per step and for large messages, software included
(NCCL 2.8, src/graph/tuning.cc, `hwLat`, Ring/Simple): 3.4 µs over NVLink, 5.7 µs over PCIe, 9.6 µs
over a network. A route's links have shares that add up to that.
"""

import itertools
from collections.abc import Callable

from keras_soap.topology import hardware
from keras_soap.topology.device_topology import Connection, Device, DeviceTopology

NVLINK_NS = 3_400
PCIE_PORT_NS = 2_850  # two of them make 5.7 µs
PCIE_HOP_NS = 500  # a further PCIe switch or CPU on the way; assumed
NETWORK_NS = 9_600
TPU_HOP_NS = 1_000
TPU_TASK_OVERHEAD_NS = 1_000
TPU_POD_SIDE = 16
"""Chips in a row or column of a whole TPU v5e pod; only there links close a ring."""

NCCL = "Latencies: NCCL 2.8, src/graph/tuning.cc, Ring/Simple. Task overhead: assumed."


def p100(num_nodes: int = 4) -> DeviceTopology:
    """4 nodes of 4 P100.

    Every two GPUs of a node share one NVLink; the fourth link of each GPU is not used. All GPUs of
    a node share its network card.
    """
    source = (
        f"{_accelerator('P100').source}: flops, memory, NVLink 1.0 (20 GB/s each way). Layout and "
        "100 Gb/s EDR InfiniBand: Jia, Zaharia, Aiken (SysML 2019). That NVLinks join every two "
        f"GPUs of a node: assumed. PCI Express 3.0 x16. {NCCL}"
    )
    return cluster("p100", num_nodes, 4, source)


def cluster(
    name: str, num_nodes: int, devices_per_node: int, source: str = "as p100, made by rule"
) -> DeviceTopology:
    """Nodes like those of `p100`, of any size."""
    devices, links, switches = [], [], []
    for node in range(num_nodes):
        names = [f"node{node}/GPU:{number}" for number in range(devices_per_node)]
        hub = f"node{node}/pcie"
        switches.append(hub)
        devices += [_device(name, "P100", node) for name in names]
        links += [_connect(a, b, 20e9, NVLINK_NS) for a, b in itertools.combinations(names, 2)]
        links += [_connect(name, hub, hardware.PCIE_3_X16, PCIE_PORT_NS) for name in names]
        links.append(_connect(hub, "infiniband", 12.5e9, NETWORK_NS // 2 - PCIE_PORT_NS))
    return DeviceTopology(name, tuple(devices), tuple(links), (*switches, "infiniband"), source)


def scaled_cluster(num_devices: int) -> DeviceTopology:
    """P100s: up to 4 in one node, up to 64 in nodes of 4, beyond in nodes of 8."""
    per_node = min(4, num_devices) if num_devices <= 64 else 8
    assert num_devices % per_node == 0
    return cluster(f"p100x{num_devices}", num_devices // per_node, per_node)


def k80(num_nodes: int = 16) -> DeviceTopology:
    """16 nodes of 4 K80 (a K80 board has two).

    The two GPUs of a board are on a PCIe switch of their own, both boards on a shared one to the
    host, where the network card is.
    """
    devices, links, switches = [], [], []
    network_ns = NETWORK_NS // 2 - PCIE_PORT_NS - PCIE_HOP_NS
    for node in range(num_nodes):
        host = f"node{node}/host"
        switches.append(host)
        for board in range(2):
            hub = f"node{node}/board{board}"
            switches.append(hub)
            for number in (2 * board, 2 * board + 1):
                name = f"node{node}/GPU:{number}"
                devices.append(_device(name, "K80", node))
                links.append(_connect(name, hub, hardware.PCIE_3_X16, PCIE_PORT_NS))
            links.append(_connect(hub, host, hardware.PCIE_3_X16, PCIE_HOP_NS))
        links.append(_connect(host, "infiniband", 6.8e9, network_ns))
    source = (
        f"{_accelerator('K80').source}. Layout and 56 Gb/s InfiniBand: Jia, Zaharia, Aiken (SysML "
        "2019); FDR carries 54.5 Gb/s of data. PCI Express 3.0 x16. 0.5 µs for a further PCIe "
        f"switch: assumed. {NCCL}"
    )
    return DeviceTopology("k80", tuple(devices), tuple(links), (*switches, "infiniband"), source)


DGX1_NVLINKS = {
    (0, 1): 1, (0, 2): 1, (0, 3): 2, (0, 4): 2, (1, 2): 2, (1, 3): 1, (1, 5): 2, (2, 3): 2,
    (2, 6): 1, (3, 7): 1, (4, 5): 1, (4, 6): 1, (4, 7): 2, (5, 6): 2, (5, 7): 1, (6, 7): 2,
}  # fmt: skip


def dgx1_v100() -> DeviceTopology:
    """8 V100 in a hybrid cube mesh of NVLinks; two GPUs on each PCIe switch, four on each CPU.

    GPUs without a direct NVLink exchange over PCIe: nothing forwards through a third GPU.
    """
    names = [f"GPU:{number}" for number in range(8)]
    links = [
        _connect(names[a], names[b], 25e9 * count, NVLINK_NS)
        for (a, b), count in DGX1_NVLINKS.items()
    ]
    for number, name in enumerate(names):
        links.append(_connect(name, f"pcie{number // 2}", hardware.PCIE_3_X16, PCIE_PORT_NS))
    for number in range(4):
        cpu = f"cpu{number // 2}"
        links.append(_connect(f"pcie{number}", cpu, hardware.PCIE_3_X16, PCIE_HOP_NS))
    links.append(_connect("cpu0", "cpu1", 38.4e9, PCIE_HOP_NS))
    source = (
        f"{_accelerator('V100').source}. NVLink 2.0 (25 GB/s each way) and which GPUs have one or "
        "two: NVIDIA DGX-1 with Tesla V100 System Architecture (2017). PCI Express 3.0 x16. CPUs: "
        "two QPI links of 9.6 GT/s. 0.5 µs for a further PCIe switch or CPU: assumed. " + NCCL
    )
    switches = (*(f"pcie{number}" for number in range(4)), "cpu0", "cpu1")
    return DeviceTopology(
        "dgx1_v100", tuple(_device(n, "V100") for n in names), tuple(links), switches, source
    )


def dgx_a100() -> DeviceTopology:
    """8 A100 of 80 GB, each with 12 NVLinks to non-blocking NVSwitches."""
    source = "NVLink 3.0: 12 links of 25 GB/s each way (NVIDIA DGX A100 system architecture, 2020)."
    return _switched("dgx_a100", "A100", 300e9, source)


def hgx_h100() -> DeviceTopology:
    """8 H100 SXM of 80 GB, each with 18 NVLinks to non-blocking NVSwitches."""
    source = "NVLink 4: 18 links of 25 GB/s each way (NVIDIA H100 architecture, 2022)."
    return _switched("hgx_h100", "H100", 450e9, source)


def tpu_v5e(rows: int, columns: int) -> DeviceTopology:
    """A slice of a TPU v5e pod: a mesh, row by row, whose chips forward for each other.

    A whole pod of 16 × 16 chips is a torus; slices of fewer than 16 in a direction have no links
    around it.
    """

    def name(row: int, column: int) -> str:
        number = row * columns + column
        return f"TPU:{number}" if rows * columns <= 8 else f"node{number // 8}/TPU:{number % 8}"

    devices, links = [], []
    for row, column in itertools.product(range(rows), range(columns)):
        here = name(row, column)
        devices.append(_device(here, "TPU v5e", (row * columns + column) // 8, "TPU"))
        if column + 1 < columns or columns == TPU_POD_SIDE:
            links.append(_connect(here, name(row, (column + 1) % columns), 50e9, TPU_HOP_NS))
        if row + 1 < rows or rows == TPU_POD_SIDE:
            links.append(_connect(here, name((row + 1) % rows, column), 50e9, TPU_HOP_NS))
    source = (
        f"{_accelerator('TPU v5e').source}; memory and its bandwidth; 1,600 Gb/s of inter-chip "
        "interconnect per chip, over 4 links; up to 8 chips per host. About 1 µs per hop and no "
        "wrap-around below 16: 'How to Scale Your Model' (Google DeepMind, 2025). Task overhead: "
        "assumed."
    )
    return DeviceTopology(f"tpu_v5e_{rows}x{columns}", tuple(devices), tuple(links), (), source)


CLUSTERS: dict[str, tuple[Callable[[int], DeviceTopology], int]] = {
    "p100": (p100, 4),
    "k80": (k80, 4),
}
"""Presets of equal nodes: what makes any number of nodes, and the devices of each."""


def _accelerator(model: str) -> hardware.Accelerator:
    return next(known for known in hardware.ACCELERATORS if known.model == model)


def _device(name: str, model: str, node: int = 0, kind: str = "GPU") -> Device:
    figures = _accelerator(model)
    return Device(
        name,
        kind,
        model,
        node,
        figures.memory_bytes,
        figures.peak_flops_per_s,
        figures.memory_bandwidth_bytes_per_s,
        hardware.GPU_TASK_OVERHEAD_NS if kind == "GPU" else TPU_TASK_OVERHEAD_NS,
    )


def _connect(a: str, b: str, bandwidth: float, latency_ns: int) -> Connection:
    return Connection(f"{a}-{b}", (a, b), bandwidth, latency_ns)


def _switched(name: str, model: str, bandwidth: float, source: str) -> DeviceTopology:
    """8 GPUs on NVSwitches, which count as one: they do not block each other."""
    names = [f"GPU:{number}" for number in range(8)]
    return DeviceTopology(
        name,
        tuple(_device(gpu, model) for gpu in names),
        tuple(_connect(gpu, "nvswitch", bandwidth, NVLINK_NS // 2) for gpu in names),
        ("nvswitch",),
        f"{_accelerator(model).source}. {source} {NCCL}",
    )
