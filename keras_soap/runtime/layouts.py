"""DTensor meshes and layouts of configurations: where every shard of a tensor lives.

The mesh of a configuration has one axis for each dimension of its operator, named like it, as long
as its degree. A tensor axis that is split along a dimension is sharded over that mesh axis; mesh
axes that a tensor knows nothing of hold copies of it.
"""

import functools
from collections import Counter
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow.experimental import dtensor

from keras_soap.graph.region import Regions
from keras_soap.operators.rule import NOT_AN_AXIS, Dimension
from keras_soap.runtime.exchange import client_of, is_here
from keras_soap.strategy.parallel_config import ParallelConfig


def mesh(
    dimensions: Sequence[Dimension], config: ParallelConfig, device_names: Sequence[str]
) -> dtensor.Mesh:
    """The mesh of `config`: its devices, in the order of its parts."""
    axes = tuple((d.name, degree) for d, degree in zip(dimensions, config.degrees, strict=True))
    return make_mesh(axes or (("whole", 1),), tuple(device_names[d] for d in config.devices))


@functools.cache
def make_mesh(axes: tuple[tuple[str, int], ...], devices: tuple[str, ...]) -> dtensor.Mesh:
    """A mesh with the given names and sizes of axes, over any devices of the clients, row-major.

    `dtensor.create_mesh` does the same for devices of one process, and logs six lines for each.
    """
    numbers = np.arange(len(devices)).reshape([size for _, size in axes])
    specs = [tf.DeviceSpec.from_string(device) for device in devices]
    ours = [number for number, device in enumerate(devices) if is_here(device)]
    return dtensor.Mesh(
        [name for name, _ in axes],
        numbers,
        ours,
        [specs[number] for number in ours],
        global_devices=specs if len(ours) < len(devices) else None,
    )


def is_even(devices: Sequence[str]) -> bool:
    """Whether each client that has any of the devices has equally many: DTensor takes no others."""
    return len(set(Counter(client_of(device) for device in devices).values())) == 1


def of_shards_here(devices: Sequence[str], rank: int) -> dtensor.Layout:
    """Layout of the shards on this client's devices alone, all of one shape, as if stacked."""
    here = make_mesh((("shards", len(devices)),), tuple(devices))
    return dtensor.Layout(["shards", *[dtensor.UNSHARDED] * (rank - 1)][:rank], here)


def output_layout(
    on: dtensor.Mesh, dimensions: Sequence[Dimension], config: ParallelConfig, rank: int, output=0
) -> dtensor.Layout:
    """Layout of an operator's output."""
    axes = [dtensor.UNSHARDED] * rank
    for dimension, degree in zip(dimensions, config.degrees, strict=True):
        if degree > 1 and dimension.axes[output] != NOT_AN_AXIS:
            axes[dimension.axes[output]] = dimension.name
    return dtensor.Layout(axes, on)


def weight_layout(
    on: dtensor.Mesh, dimensions: Sequence[Dimension], config: ParallelConfig, regions: Regions
) -> dtensor.Layout:
    """Layout of a weight of which part `p` holds `regions[p]`.

    Args:
        on: The mesh of `config`.
        dimensions: Of the operator.
        config: Its configuration.
        regions: int64 (parts, rank, 2), as in `tasks.lowering.WeightBlock`.
    """
    indices = config.part_indices()
    axes = []
    for axis in range(regions.shape[1]):
        start = regions[:, axis, 0]
        name = dtensor.UNSHARDED
        for column, dimension in enumerate(dimensions):
            if len(np.unique(start)) > 1 and np.array_equal(
                start, indices[:, column] * (regions[0, axis, 1] - regions[0, axis, 0])
            ):
                name = dimension.name
        axes.append(name)
    return dtensor.Layout(axes, on)
