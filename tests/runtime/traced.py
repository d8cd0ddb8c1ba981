"""The graphs of traced steps, to be looked at."""

import functools
from collections import Counter
from dataclasses import dataclass

import tensorflow as tf

from keras_soap.capture.losses import capture_step
from keras_soap.costs.roofline import Roofline
from keras_soap.runtime.training import TrainingRun
from keras_soap.strategy.strategy import Strategy
from keras_soap.tasks.lowering import Costs, Lowering
from keras_soap.topology.local import local_topology
from tests.conftest import NUM_DEVICES
from tests.runtime.strategies import NAMED, anything
from tests.runtime.subjects import SUBJECTS, first_batch, lowering

DEVICES = [f"/job:localhost/replica:0/task:0/device:CPU:{number}" for number in range(NUM_DEVICES)]


@dataclass(frozen=True)
class Traced:
    """A training step under a strategy.

    Attributes:
        operations: Of the traced function; none of them calls another function.
        strategy: What it was traced under.
        costs: What its task graph is built from.
        run: What traced it; its model has been given back.
    """

    operations: list[tf.Operation]
    strategy: Strategy
    costs: Costs
    run: TrainingRun

    def device(self, operation: tf.Operation) -> int:
        """Number of its device; -1 if it has none."""
        return DEVICES.index(operation.device) if operation.device else -1

    def crossings(self) -> Counter[tuple[int, int]]:
        """Bytes of the tensors that operations read from other devices, by (source, destination).

        Batches, which the host sends to the devices ahead of the step, do not count.
        """
        result: Counter[tuple[int, int]] = Counter()
        for operation in self.operations:
            if "feed/" in operation.name:
                continue
            for tensor in operation.inputs:
                ends = self.device(tensor.op), self.device(operation)
                if ends[0] != ends[1] and -1 not in ends:
                    result[ends] += tensor.shape.num_elements() * tensor.dtype.size
        return result


@functools.cache
def traced(subject: str, strategy: str) -> Traced:
    """A step of a subject, with Adam, under a named strategy, or `"anything SEED"`."""
    facts = lowering(subject)
    if strategy in NAMED:
        chosen = NAMED[strategy](facts)
    else:
        chosen = anything(facts, int(strategy.removeprefix("anything ")))
    model = SUBJECTS[subject].model("adam")
    batch = first_batch(SUBJECTS[subject])
    model._symbolic_build(data_batch=batch)
    step = capture_step(model, SUBJECTS[subject].batch_size, *batch[1:])
    costs = Costs(Lowering(step.model.graph), local_topology(), Roofline())
    run = TrainingRun(model, step, costs.lowering, chosen, DEVICES)
    graph = run.train_function(step).get_concrete_function().graph
    run.store.release()
    return Traced(graph.get_operations(), chosen, costs, run)
