"""The executed step moves exactly the bytes that the simulated one does, pair by pair."""

from collections import Counter

import keras
import pytest
from keras import layers

from keras_soap.objective import Objective
from keras_soap.runtime import collectives
from keras_soap.tasks import all_reduce, build
from keras_soap.tasks.task_graph import TaskKind
from keras_soap.tasks.task_names import TaskName
from tests.runtime.strategies import NAMED
from tests.runtime.subjects import KNOWN, SUBJECTS, Subject
from tests.runtime.test_tied import TIED
from tests.runtime.test_vocabulary import WORDS
from tests.runtime.traced import TracedStep, machine, traced

CASES = [
    *(("images", strategy) for strategy in [*NAMED, *(f"anything {seed}" for seed in range(1, 3))]),
    ("texts", "vocabulary"),
    ("language", "vocabulary"),
    ("language", "S and vocabulary"),
    ("language", "anything 1"),
    ("texts", "anything 1"),
    ("pairs", "O, overlapping"),
    ("family", "anything 1"),
    ("heads", "O, overlapping"),
    ("tied, reversible", "S and vocabulary"),
    ("tied, reversible", "anything 1"),
    ("tied, looked up twice", "anything 1"),
    ("tied, adapted", "anything 1"),
]
assert "language" in WORDS
assert "reversible" in TIED


def simulated_bytes(step: TracedStep) -> Counter[tuple[int, int]]:
    """Bytes that the tasks move, reductions as the moves that they consist of."""
    result = build.pair_bytes(step.costs, step.strategy)
    assert result.total() == build.build(step.costs, step.strategy).communication_bytes
    return result


@pytest.mark.parametrize(("subject", "strategy"), CASES)
def test_bytes_between_each_pair_of_devices_are_those_of_the_simulated_tasks(subject, strategy):
    step = traced(subject, strategy)
    assert step.crossings() == simulated_bytes(step)
    assert step.crossings(), "nothing moves: the strategy tests nothing"


@pytest.mark.parametrize(("subject", "strategy"), CASES)
def test_bytes_that_a_search_predicts_are_those_of_the_executed_step(subject, strategy):
    step = traced(subject, strategy)
    predicted = Objective(step.costs).evaluate(step.strategy)
    assert predicted.communication_bytes == step.crossings().total()


@pytest.mark.parametrize(("subject", "strategy"), CASES)
def test_gradients_that_are_reduced_together_are_sent_together(subject, strategy):
    step = traced(subject, strategy)
    graph, expected = step.costs.lowering.graph, Counter()
    for number, (operator, config) in enumerate(
        zip(graph.operators, step.strategy.configs, strict=True)
    ):
        if number == graph.sharers[number][0] and graph.has_weight_gradients[number]:
            scope = TaskName(TaskKind.ALL_REDUCE, operator.name).scope
            for each in step.costs.lowering.operator(number, config.degrees).reductions:
                devices = sorted(config.devices[part] for part in each.members)
                what = each.num_elements, each.element_bytes, each.gathers
                plan = all_reduce.plan(step.costs.topology, devices, *what)
                moves = sum(len(of_round.moves) for of_round in plan.rounds())
                expected[scope] += moves * (2 if each.gathers else 1)  # Rows, and their numbers.
    found = Counter(
        f"{head}all_reduce.0/"
        for operation, _ in step.remote_reads()
        for head, is_reduction, _ in [operation.name.partition("all_reduce.0/")]
        if is_reduction
    )
    assert found == expected


def test_small_weights_of_an_operator_are_a_bucket():
    step = traced("images", "S")
    graph = step.costs.lowering.graph
    number = next(n for n, o in enumerate(graph.operators) if o.kind == "batch_normalization")
    block = step.costs.lowering.operator(number, step.strategy.configs[number].degrees)
    # Scale and offset; averages are not trained.
    assert [each.weights for each in block.reductions] == [(0, 1)]


def small_model() -> keras.Model:
    """Of each kind of reduction one: of rows of a table, of gradients, of sums of a batch."""
    words = keras.Input((6,), dtype="int32", name="words")
    x = layers.Embedding(12, 12, name="table")(words)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.GlobalAveragePooling1D(name="mean")(x)
    return keras.Model(words, layers.Dense(1, "sigmoid", name="liked")(x), name="small")


KNOWN["small"] = Subject(small_model, SUBJECTS["texts"].compile, SUBJECTS["texts"].data)


@pytest.mark.parametrize("nodes", [(0, 0, 1, 1), (0, 1, 0, 1), (0, 0, 0, 1), (0, 0, 1, 2)])
@pytest.mark.parametrize("direct_bytes", [all_reduce.DIRECT_BYTES, 16])
def test_between_nodes_the_bytes_are_those_of_the_simulated_tasks(nodes, direct_bytes, monkeypatch):
    # With a low limit in rings.
    monkeypatch.setattr(all_reduce, "DIRECT_BYTES", direct_bytes)
    phases = Counter()
    plan = all_reduce.plan

    def noted(*arguments):
        found = plan(*arguments)
        phases[tuple(type(phase).__name__ for phase in found.phases)] += 1
        return found

    monkeypatch.setattr(collectives, "plan", noted)
    step = traced.__wrapped__("small", "S", machine(nodes))
    assert step.crossings() == simulated_bytes(step)
    across = "Exchange" if direct_bytes > 16 else "Rings"
    assert phases["Exchange", across, "Exchange"], "no reduction goes by node"
    if nodes.count(0) == 2 == nodes.count(1):
        # Else a card has as much to carry if rows are sent directly, and those arrive sooner.
        assert phases["Exchange", "Exchange"], "no gather goes by node"


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
