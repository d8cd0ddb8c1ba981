"""Batches of which every client gives a part of its own: its shard.

A batch is the shards of all clients one after the other, in the order of their numbers. A strategy
may need samples on devices of another client than the one that gives them: these are sent, and
nothing else is.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_soap.errors import ClusterError
from keras_soap.runtime.cluster import Cluster
from keras_soap.runtime.pieces import Range

Sizes = tuple[int, ...]
"""How many samples each client gives of a batch."""

ADVICE = "Give all clients equally many batches, of like samples."


def rows(sizes: Sequence[int]) -> list[Range]:
    """For each client the rows of the batch that it gives."""
    stops = np.cumsum(sizes).tolist()
    return [(stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]


def meet(cluster: Cluster, purpose: str, shard: Sequence[Any] | None) -> Sizes | None:
    """What all clients give of the next batch; None if none of them has any more.

    Args:
        cluster: Whose clients meet.
        purpose: What the batch is for. Batches for each purpose are counted apart.
        shard: The tensors that this client gives; None if it has no more.

    Raises:
        ClusterError: On all clients, if some have no more batches, or samples differ.
    """
    said = None
    if shard is not None:
        samples = [[list(x.shape[1:]), keras.backend.standardize_dtype(x.dtype)] for x in shard]
        said = [[int(x.shape[0]) for x in shard], samples]
    place = f"batches for {purpose}"
    everyone = cluster.meet(f"the next batch for {purpose}", said, place=place)
    first = everyone[0]
    for client, theirs in enumerate(everyone):
        if (theirs is None) != (first is None):
            ended, going = (client, 0) if theirs is None else (0, client)
            raise ClusterError(
                f"{cluster.spec.name(ended)} has no more batches for {purpose}, but "
                f"{cluster.spec.name(going)} has. {ADVICE}"
            )
        if theirs is not None and len(set(theirs[0])) > 1:
            raise ClusterError(
                f"In a batch for {purpose}, inputs, targets and weights of "
                f"{cluster.spec.name(client)} have {', '.join(map(str, theirs[0]))} samples. Give "
                "equally many of each."
            )
        if theirs is not None and theirs[1] != first[1]:
            raise ClusterError(
                f"Samples for {purpose} differ: {_describe(first[1])} on {cluster.spec.name(0)}, "
                f"but {_describe(theirs[1])} on {cluster.spec.name(client)}. {ADVICE}"
            )
    return None if first is None else tuple(counts[0] for counts, _ in everyone)


def outline(tensors: Any, batch_size: int) -> Any:
    """What has the shapes and types of a whole batch, nested like the shard of it."""

    def of(x: Any) -> Any:
        if x is None:
            return None
        dtype = keras.backend.standardize_dtype(x.dtype)
        return keras.KerasTensor((batch_size, *x.shape[1:]), dtype)

    return keras.tree.map_structure(of, tensors)


def _describe(samples: Sequence[Any]) -> str:
    return ", ".join(f"{dtype} {tuple(shape)}" for shape, dtype in samples)
