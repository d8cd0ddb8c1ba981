"""The training step of a subject as the graph that TensorFlow runs, not run."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf

from keras_soap.capture.losses import capture_step
from keras_soap.costs.roofline import Roofline
from keras_soap.runtime.exchange import FEED
from keras_soap.runtime.training import TrainingRun
from keras_soap.strategy.strategy import Strategy
from keras_soap.tasks.lowering import Costs, Lowering
from keras_soap.topology.device_topology import Connection, DeviceTopology
from keras_soap.topology.local import local_topology
from tests.conftest import NUM_DEVICES
from tests.runtime.strategies import NAMED, anything
from tests.runtime.subjects import KNOWN, first_batch, lowering

DEVICES = [f"/job:localhost/replica:0/task:0/device:CPU:{n}" for n in range(NUM_DEVICES)]


@dataclass(frozen=True, eq=False)
class TracedStep:
    """A traced training step.

    Attributes:
        operations: Of the traced function; none of them calls another function.
        device_of: By operation, the number of its device. A variable's is where it lives, and so
            is that of its read, where TensorFlow leaves it open. -1: anywhere.
        strategy: What it was traced under.
        costs: What its task graph is built from.
    """

    operations: list[tf.Operation]
    device_of: dict[tf.Operation, int]
    strategy: Strategy
    costs: Costs

    def crossings(self) -> Counter[tuple[int, int]]:
        """Bytes that operations read from other devices, by (source, destination)."""
        result: Counter[tuple[int, int]] = Counter()
        for operation, tensor in self.remote_reads():
            way = self.device_of[tensor.op], self.device_of[operation]
            result[way] += tensor.shape.num_elements() * tensor.dtype.size
        return result

    def remote_reads(self) -> Iterator[tuple[tf.Operation, tf.Tensor]]:
        """Operations, and tensors that they read from other devices.

        Batches, which the host sends to the devices ahead of the step, do not count.
        """
        for operation in self.operations:
            destination = self.device_of[operation]
            if destination == -1 or operation.name.startswith(FEED):
                continue
            for tensor in operation.inputs:
                source = self.device_of[tensor.op]
                if source != destination:
                    assert source != -1, f"{operation.name} reads {tensor.name} from anywhere"
                    assert tensor.dtype != tf.resource, f"{operation.name} reads a remote variable"
                    yield operation, tensor


def machine(nodes: Sequence[int]) -> DeviceTopology:
    """The logical CPUs as if they were of nodes, by device, with a slow network between these."""
    devices = tuple(
        dataclasses.replace(device, node=node)
        for device, node in zip(local_topology().devices, nodes, strict=True)
    )
    links = [Connection(f"port {d.name}", (d.name, f"node{d.node}"), 1e9, 10) for d in devices]
    hubs = [f"node{node}" for node in dict.fromkeys(nodes)]
    links += [Connection(f"card {hub}", (hub, "network"), 1e6, 10) for hub in hubs]
    return DeviceTopology("nodes", devices, tuple(links), (*hubs, "network"))


@functools.cache
def traced(
    subject: str,
    strategy: str,
    topology: DeviceTopology | None = None,
    optimizer: str | None = None,
) -> TracedStep:
    """A step of a subject under a strategy.

    Args:
        subject: Its name.
        strategy: A name, or `"anything SEED"`.
        topology: The machine; that of the logical CPUs by default.
        optimizer: Its name. By default Adam under anything, and plain SGD, whose update takes a
            tenth of the operations, under strategies with names.
    """
    facts = lowering(subject)
    known = KNOWN[subject]
    if strategy in NAMED:
        chosen = NAMED[strategy](facts)
        model = known.model(optimizer or keras.optimizers.SGD(0.05))
    else:
        chosen = anything(facts, int(strategy.removeprefix("anything ")))
        model = known.model(optimizer or "adam")
    batch = first_batch(known)
    model._symbolic_build(data_batch=batch)
    step = capture_step(model, known.batch_size, *batch[1:], time_chunk=known.time_chunk)
    costs = Costs(Lowering(step.model.graph), topology or local_topology(), Roofline())
    run = TrainingRun(model, step, costs.lowering, chosen, costs.topology, DEVICES)
    try:
        graph = run.train_function(step).get_concrete_function().graph
    finally:
        run.store.release()
    return TracedStep(graph.get_operations(), _devices(graph), chosen, costs)


def _devices(graph: tf.Graph) -> dict[tf.Operation, int]:
    homes = {inner.op: outer.device for outer, inner in graph.captures}
    result: dict[tf.Operation, int] = {}
    for operation in graph.get_operations():
        name = homes.get(operation, operation.device)
        if not name and operation.type == "ReadVariableOp":
            result[operation] = result[operation.inputs[0].op]
        else:
            result[operation] = DEVICES.index(name) if name else -1
    return result
