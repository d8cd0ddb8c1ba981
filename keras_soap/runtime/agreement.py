"""What the clients of a cluster must agree on before they train, and the strategy that they get."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from google.protobuf import text_format

from keras_soap.graph.operator_graph import OperatorGraph
from keras_soap.proto import strategy_pb2 as pb
from keras_soap.runtime.cluster import Cluster
from keras_soap.strategy import proto_io
from keras_soap.strategy.saved_strategy import fit, make_saved
from keras_soap.strategy.strategy import Strategy
from keras_soap.tasks.lowering import Lowering
from keras_soap.topology.device_topology import DeviceTopology

ADVICE = "Run the same program with the same arguments on all clients."


def check(
    cluster: Cluster, model: keras.Model, graph: OperatorGraph, settings: dict[str, Any]
) -> None:
    """Raises `ClusterError`, on every client, at the first difference.

    Args:
        cluster: Who compares.
        model: As compiled.
        graph: What was captured of it.
        settings: Others, by name.
    """
    facts: dict[str, Any] = {
        "the batch size": graph.batch_size,
        "the number of operators": len(graph.operators),
    }
    for number, operator in enumerate(graph.operators):
        producers = [(ref.operator, ref.output) for ref in operator.inputs]
        digest = _digest([str(operator.signature), producers])
        facts[f"operator {number}"] = f"{operator.name} ({operator.kind}, {digest})"
    facts["the optimizer"] = type(model.optimizer).__name__
    for name, value in model.optimizer.get_config().items():
        facts[f"the optimizer's {name}"] = str(value)
    facts["steps_per_execution"] = model.steps_per_execution
    cluster.agree("the model and its training", facts | settings, ADVICE)


def check_batch(cluster: Cluster, tensors: Sequence[Any]) -> None:
    """Raises `ClusterError`, on every client, if they are not fed the same."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(np.ascontiguousarray(tensor).tobytes())
    cluster.agree(
        "the first batch of an epoch",
        {
            "the shapes": [list(tensor.shape) for tensor in tensors],
            "a digest of the values": digest.hexdigest()[:8],
        },
        "Feed the same batches, of all samples, to all clients; each takes what its devices need. "
        "Data sets that shuffle need the same seed on all of them.",
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:8]


def describe(strategy: Strategy) -> str:
    """A strategy in few words, which differ where strategies do."""
    return f"one with digest {_digest(str(strategy.configs))}"


def to_text(strategy: Strategy, lowering: Lowering, topology: DeviceTopology) -> str:
    """A strategy, to be handed to other clients."""
    saved = make_saved(strategy, lowering.graph, lowering.dimensions, topology)
    return text_format.MessageToString(proto_io.to_proto(saved))


def from_text(text: str, lowering: Lowering, topology: DeviceTopology) -> Strategy:
    """The strategy that another client has handed out; raises where it does not fit here."""
    saved = proto_io.from_proto(text_format.Parse(text, pb.Strategy()))
    return fit(saved, lowering.graph, lowering.dimensions, topology)
