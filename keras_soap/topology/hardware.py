"""Figures of known accelerators, for `local` and for who writes a topology.

Peak rates are those of float32 as TensorFlow computes it: since Ampere, matrix products and
convolutions use TensorFloat-32 unless `tf.config.experimental.enable_tensor_float_32_execution` is
off. Rates with structured sparsity, which data sheets like to print, are halved.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What a data sheet says of a model of device.

    Attributes:
        model: As in `Device.model`.
        patterns: What its name has in it, in lower case, as the driver reports it.
        memory_bytes: Of one device.
        peak_flops_per_s: See this module's docstring.
        memory_bandwidth_bytes_per_s: Between the device and its own memory.
        host_bandwidth_bytes_per_s: To the host, one way: PCIe x16 of its generation.
        source: Where the figures are from.
    """

    model: str
    patterns: tuple[str, ...]
    memory_bytes: int
    peak_flops_per_s: float
    memory_bandwidth_bytes_per_s: float
    host_bandwidth_bytes_per_s: float
    source: str


PCIE_3_X16 = 15.75e9
"""8 GT/s × 16 lanes × 128/130 (PCI Express Base Specification 3.0)."""
PCIE_4_X16 = 31.5e9
"""16 GT/s × 16 lanes × 128/130 (PCI Express Base Specification 4.0)."""
PCIE_5_X16 = 63.0e9
"""32 GT/s × 16 lanes × 128/130 (PCI Express Base Specification 5.0)."""

GPU_TASK_OVERHEAD_NS = 10_000
"""Launch of a small layer's kernel or two by TensorFlow's executor, about 5 µs each. Assumed."""

_GIB = 2**30

ACCELERATORS = (
    Accelerator(
        "K80",
        ("k80",),
        12 * _GIB,
        4.37e12,
        240e9,
        PCIE_3_X16,
        "NVIDIA Tesla K80 board specification (2015), half a board: 8.74 Tflop/s boosted, 480 GB/s",
    ),
    Accelerator(
        "P100 PCIe",
        ("p100-pcie",),
        16 * _GIB,
        9.3e12,
        732e9,
        PCIE_3_X16,
        "NVIDIA Tesla P100 data sheet (2016), PCIe 16 GB",
    ),
    Accelerator(
        "P100",
        ("p100",),
        16 * _GIB,
        10.6e12,
        732e9,
        PCIE_3_X16,
        "NVIDIA Tesla P100 data sheet (2016), NVLink",
    ),
    Accelerator(
        "V100",
        ("v100",),
        16 * _GIB,
        15.7e12,
        900e9,
        PCIE_3_X16,
        "NVIDIA V100 data sheet (2020), SXM2, float32",
    ),
    Accelerator(
        "T4", ("t4",), 16 * _GIB, 8.1e12, 320e9, PCIE_3_X16, "NVIDIA T4 data sheet (2019), float32"
    ),
    Accelerator(
        "A100",
        ("a100",),
        80 * _GIB,
        156e12,
        2039e9,
        PCIE_4_X16,
        "NVIDIA A100 data sheet (2021), SXM 80 GB, TF32 without sparsity",
    ),
    Accelerator(
        "H100 PCIe",
        ("h100 pcie",),
        80 * _GIB,
        378e12,
        2000e9,
        PCIE_5_X16,
        "NVIDIA H100 data sheet (2023), PCIe, TF32 without sparsity",
    ),
    Accelerator(
        "H100",
        ("h100",),
        80 * _GIB,
        494.5e12,
        3350e9,
        PCIE_5_X16,
        "NVIDIA H100 data sheet (2023), SXM, TF32 without sparsity: half of 989",
    ),
    Accelerator(
        "H200",
        ("h200",),
        141 * 10**9,
        494.5e12,
        4800e9,
        PCIE_5_X16,
        "NVIDIA H200 data sheet (2024), SXM, TF32 without sparsity: half of 989",
    ),
    Accelerator(
        "TPU v5e",
        ("v5 lite", "v5e"),
        16 * _GIB,
        197e12,
        819e9,
        PCIE_4_X16,
        "Google Cloud TPU v5e documentation: bfloat16, which TPUs use for float32 products too",
    ),
)
"""The first one with a fitting pattern counts."""

UNKNOWN_GPU = Accelerator(
    "GPU",
    (),
    16 * _GIB,
    10e12,
    500e9,
    PCIE_3_X16,
    "assumed: a GPU of the middle class. Measure it, or write a topology file",
)


def find(name: str) -> Accelerator:
    """The accelerator that a driver calls `name`; `UNKNOWN_GPU`'s figures if it is not known."""
    for accelerator in ACCELERATORS:
        if any(pattern in name.lower() for pattern in accelerator.patterns):
            return accelerator
    return UNKNOWN_GPU
