"""Strategies to try: of one kind of parallelism each, and any at all."""

from collections.abc import Callable, Sequence

import numpy as np

from keras_soap.graph.operator_graph import INPUT
from keras_soap.operators.rule import Dimension
from keras_soap.strategy.parallel_config import FED, ParallelConfig
from keras_soap.strategy.search_space import all_degrees, families
from keras_soap.strategy.strategy import Strategy
from keras_soap.tasks.lowering import Lowering
from tests.conftest import NUM_DEVICES

Choose = Callable[[int, Sequence[Dimension]], ParallelConfig]


def uniform(lowering: Lowering, choose: Choose) -> Strategy:
    """The strategy that `choose` makes, given the number and the dimensions of an operator.

    Operators on the same weights get what the first of them gets.
    """
    configs: dict[int, ParallelConfig] = {}
    for members in families(lowering.graph):
        is_input = lowering.graph.operators[members[0]].kind == INPUT
        config = FED if is_input else choose(members[0], lowering.dimensions[members[0]])
        configs |= dict.fromkeys(members, config)
    return Strategy(tuple(configs[number] for number in range(len(lowering.graph.operators))))


def split(lowering: Lowering, most: dict[str, int], devices: Sequence[int] = (0, 1, 2, 3)):
    """Splits each dimension into the most parts that it allows, up to a number for its name.

    Args:
        lowering: Of the model.
        most: By the name of a dimension, or its letter S, A or P.
        devices: Where parts go, in this order.
    """

    def choose(number: int, dimensions: Sequence[Dimension]) -> ParallelConfig:
        degrees, room = [], len(devices)
        for dimension in dimensions:
            wanted = most.get(dimension.name, most.get(dimension.kind.letter, 1))
            degrees.append(max(dimension.degrees(min(wanted, room))))
            room //= degrees[-1]
        return ParallelConfig(tuple(degrees), tuple(devices[: int(np.prod(degrees))]))

    return uniform(lowering, choose)


def spread(lowering: Lowering) -> Strategy:
    """Every operator whole, each on the device after its predecessor's."""
    return uniform(
        lowering, lambda number, d: ParallelConfig((1,) * len(d), (number % NUM_DEVICES,))
    )


def overlapping(lowering: Lowering) -> Strategy:
    """Halves of the batch on two devices, of which the next operator uses one, and one more."""

    def choose(number: int, dimensions: Sequence[Dimension]) -> ParallelConfig:
        degrees = [2 if d.kind.letter == "S" and d.allows(2) else 1 for d in dimensions]
        devices = (number % NUM_DEVICES, (number + 1) % NUM_DEVICES)
        return ParallelConfig(tuple(degrees), devices[: int(np.prod(degrees))])

    return uniform(lowering, choose)


def anything(lowering: Lowering, seed: int) -> Strategy:
    """Any strategy: degrees of each operator, then devices, drawn alike from all there are."""
    rng = np.random.default_rng(seed)

    def choose(number: int, dimensions: Sequence[Dimension]) -> ParallelConfig:
        choices = all_degrees(dimensions, NUM_DEVICES)
        degrees = choices[rng.integers(len(choices))]
        devices = rng.permutation(NUM_DEVICES)[: int(np.prod(degrees))]
        return ParallelConfig(degrees, tuple(devices.tolist()))

    return uniform(lowering, choose)


VOCABULARY = ("vocabulary", "units", "channel", "classes")
"""What splits tables by their rows, and logits by classes, from the projection to the loss."""

NAMED: dict[str, Callable[[Lowering], Strategy]] = {
    "S": lambda lowering: split(lowering, {"S": 4}),
    "A, height": lambda lowering: split(lowering, {"height": 4}),
    "A, width": lambda lowering: split(lowering, {"width": 4}),
    "A, channels": lambda lowering: split(lowering, {"channel": 2, "P": 1}),
    "P": lambda lowering: split(lowering, {"P": 4}),
    "O": spread,
    "O, overlapping": overlapping,
    "S and A": lambda lowering: split(lowering, {"S": 2, "height": 2}, (2, 0, 3, 1)),
    "S and P": lambda lowering: split(lowering, {"S": 2, "P": 2}, (3, 2, 1, 0)),
    "A and P": lambda lowering: split(lowering, {"width": 2, "P": 2}, (1, 3, 0, 2)),
    "vocabulary": lambda lowering: split(lowering, dict.fromkeys(VOCABULARY, 4), (2, 0, 3, 1)),
    "S and vocabulary": lambda lowering: split(lowering, {"S": 2} | dict.fromkeys(VOCABULARY, 2)),
    "one device": lambda lowering: split(lowering, {}, (2,)),
    "three devices": lambda lowering: split(lowering, {"S": 2, "P": 2, "A": 3}, (3, 1, 2)),
}
