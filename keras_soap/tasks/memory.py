"""Peak memory of each device under a strategy.

1. A part holds its weights; in training also their gradients and, for each optimizer slot, as much
   again. Operators on the same weights hold them once.
2. Of gradients that are reduced it holds, until they are applied, what comes out, beside what it
   made: all of them at the peak.
3. It holds its outputs until they have been used in the backward pass: all of them at the peak. A
   view (a rule that is `free`, a weight handed on) makes none.
4. It holds what it reads of the batch, and what it has received from other devices. A region of the
   batch that several operators on a device read is held once, but counts for each: an upper bound.
5. The same counts for inference, though more could be let go there: an upper bound.

So the peak is a sum of what operators and edges add, and a change moves only their share of it.
"""

from collections.abc import Sequence

import numpy as np

from keras_soap.graph.operator_graph import Operator, OperatorGraph, dtype_bytes
from keras_soap.graph.region import Regions, volume
from keras_soap.operators import registry
from keras_soap.strategy.strategy import Strategy
from keras_soap.tasks.lowering import Costs
from keras_soap.tasks.weights import GradientReduction


def weight_bytes(
    operator: Operator, regions: Sequence[Regions], training: bool, num_slots: int
) -> np.ndarray | int:
    """int64 (parts,): bytes of weights, gradients and slots.

    Args:
        operator: Whose weights.
        regions: For each weight what each part holds.
        training: Whether there are gradients and slots.
        num_slots: Variables that the optimizer keeps for each weight, of its size.
    """
    total: np.ndarray | int = 0
    for spec, held in zip(operator.weight_specs, regions, strict=True):
        copies = 2 + num_slots if training and spec.trainable else 1
        total = total + copies * dtype_bytes(spec.dtype) * volume(held)
    return total


def reduced_bytes(reductions: Sequence[GradientReduction], num_parts: int) -> np.ndarray:
    """int64 (parts,): bytes of what comes out of reductions of gradients."""
    total = np.zeros(num_parts, np.int64)
    for reduction in reductions:
        total[list(reduction.members)] += reduction.result_bytes
    return total


def output_bytes(operator: Operator, regions: Sequence[Regions]) -> np.ndarray | int:
    """int64 (parts,): bytes of outputs, given for each output what each part makes."""
    return sum(
        dtype_bytes(operator.output_specs[position].dtype) * volume(regions[position])
        for position in registry.find(operator.kind).made_outputs(operator)
    )


def fed_bytes(graph: OperatorGraph, number: int, regions: Sequence[Regions]) -> np.ndarray | int:
    """int64 (parts,): bytes of what the parts of operator `number` read of the batch.

    Args:
        graph: The operators.
        number: One of them.
        regions: For each of its inputs what each part reads.
    """
    return sum(
        dtype_bytes(spec.dtype) * volume(read)
        for ref, spec, read in zip(
            graph.operators[number].inputs,
            graph.operators[number].input_specs,
            regions,
            strict=True,
        )
        if graph.is_fed(ref)
    )


def peak_memory_bytes(costs: Costs, strategy: Strategy, training: bool = True) -> np.ndarray:
    """int64 (devices,): bytes that each device holds at its peak."""
    graph, lowering = costs.lowering.graph, costs.lowering
    memory = np.zeros(costs.topology.num_devices, np.int64)
    for number, operator in enumerate(graph.operators):
        config = strategy.configs[number]
        devices = np.array(config.devices)
        block = lowering.operator(number, config.degrees)
        memory[devices] += output_bytes(operator, block.outputs)
        memory[devices] += fed_bytes(graph, number, block.inputs)
        if graph.sharers[number][0] == number:
            held = [weight.regions for weight in block.weights]
            memory[devices] += weight_bytes(operator, held, training, costs.num_slots)
            if training:
                memory[devices] += reduced_bytes(block.reductions, config.num_parts)
        for edge in graph.in_edges[number]:
            producer = strategy.configs[edge.producer.operator]
            found = lowering.edge(edge, producer.degrees, config.degrees)
            moves = np.array(producer.devices)[found.producer] != devices[found.consumer]
            num_bytes = dtype_bytes(operator.input_specs[edge.input].dtype) * found.num_elements
            np.add.at(memory, devices[found.consumer[moves]], num_bytes[moves])
    return memory
