"""The executed step moves exactly the bytes that the simulated one does, pair by pair."""

from collections import Counter

import numpy as np
import pytest

from keras_soap.objective import Objective
from keras_soap.tasks import all_reduce, build
from keras_soap.tasks.task_graph import TaskKind
from tests.runtime.strategies import NAMED
from tests.runtime.test_vocabulary import WORDS
from tests.runtime.traced import TracedStep, traced

CASES = [
    *(("images", strategy) for strategy in [*NAMED, *(f"anything {seed}" for seed in range(1, 4))]),
    ("texts", "S and P"),
    ("texts", "vocabulary"),
    ("language", "vocabulary"),
    ("language", "S and vocabulary"),
    ("language", "anything 1"),
    ("texts", "anything 1"),
    ("pairs", "S"),
    ("pairs", "O, overlapping"),
    ("family", "S and P"),
    ("family", "anything 1"),
    ("heads", "O, overlapping"),
]
assert "language" in WORDS
TRANSFERS = (TaskKind.TRANSFER, TaskKind.GRADIENT_TRANSFER, TaskKind.REPORT_TRANSFER)


def simulated_bytes(step: TracedStep, monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[int, int]]:
    """Bytes that the tasks move, reductions as the moves that they consist of."""
    result: Counter[tuple[int, int]] = Counter()
    cost = all_reduce.cost

    def noted(topology, devices, num_elements, element_bytes, gathers=False):
        found = cost(topology, devices, num_elements, element_bytes, gathers)
        ranks = range(len(devices))
        if gathers:
            each = num_elements * element_bytes
            pairs = {(a, b): each for a in ranks for b in ranks if a != b}
        else:
            pairs = all_reduce.pair_bytes(len(devices), num_elements, element_bytes)
        assert sum(pairs.values()) == found.num_bytes
        for (source, destination), num_bytes in pairs.items():
            result[devices[source], devices[destination]] += num_bytes
        return found

    with monkeypatch.context() as patch:
        patch.setattr(all_reduce, "cost", noted)
        tasks = build.build(step.costs, step.strategy)
    for task in np.flatnonzero(np.isin(tasks.kind, TRANSFERS)):
        pair = int(tasks.source[task]), int(tasks.destination[task])
        result[pair] += int(tasks.num_bytes[task])
    assert result.total() == tasks.communication_bytes
    return result


@pytest.mark.parametrize(("subject", "strategy"), CASES)
def test_bytes_between_each_pair_of_devices_are_those_of_the_simulated_tasks(
    subject, strategy, monkeypatch
):
    step = traced(subject, strategy)
    assert step.crossings() == simulated_bytes(step, monkeypatch)
    assert step.crossings(), "nothing moves: the strategy tests nothing"


@pytest.mark.parametrize(("subject", "strategy"), CASES)
def test_bytes_that_a_search_predicts_are_those_of_the_executed_step(subject, strategy):
    step = traced(subject, strategy)
    predicted = Objective(step.costs).evaluate(step.strategy)
    assert predicted.communication_bytes == step.crossings().total()


def test_rows_of_a_table_that_is_looked_up_twice_are_gathered_from_both():
    step = traced("pairs", "S")
    graph = step.costs.lowering.graph
    number = next(n for n, o in enumerate(graph.operators) if o.kind == "embedding")
    block = step.costs.lowering.operator(number, step.strategy.configs[number].degrees)
    # Two calls, each on two of the eight samples, of four words.
    assert block.weights[0].sparse_rows.tolist() == [2 * 2 * 4] * 4


def test_nothing_but_the_report_moves_on_one_device():
    # The loss, and two numbers of the accuracy, go from device 2 to device 0.
    assert traced("images", "one device").crossings() == {(2, 0): 12}
