"""What the case studies say holds for the strategy that they say it of."""

import pytest

from keras_soap.graph.zoo import rnntc
from keras_soap.tasks.build import build
from keras_soap.tasks.task_graph import TaskKind
from keras_soap.topology.resolve import resolve
from tests.examples.programs import loaded
from tests.search import toys


@pytest.fixture(scope="module")
def case_studies():
    with loaded("case_studies") as modules:
        yield modules["case_studies"]


def test_case_studies_say_what_the_strategies_do(case_studies):
    problem = toys.problem(rnntc(16, 4, 2, 32, 100, 2), resolve("p100:4"))
    data_parallel, other = (problem.baselines[name] for name in ("data_parallel", "model_parallel"))
    figures = case_studies.figures_of(problem, other, data_parallel)
    tasks = build(problem.costs, data_parallel.strategy)
    reduced = [
        int(size)
        for size, kind in zip(tasks.num_bytes, tasks.kind, strict=True)
        if kind == TaskKind.ALL_REDUCE
    ]
    assert figures["synchronization_bytes"] == {"soap": 0, "data_parallel": sum(reduced)}
    assert figures["dimensions_by_kind"]["lstm"] == {"P": 4}
    assert figures["devices_by_kind"]["lstm"] == {"4": 4}
    said = list(case_studies.sentences(problem, other.strategy, figures))
    assert any("100% of the weights are in operators that split parameters" in s for s in said)
    assert any("100% less" in s and "instead of" in s for s in said)
    assert any(s.startswith("lstm_0 (lstm, ") and "units P4, on devices 0–3" in s for s in said)


def test_one_part_of_the_weights_is_counted_once(case_studies):
    problem = toys.problem(toys.twins(), toys.machine(2))
    strategy = problem.baselines["data_parallel"].strategy
    total = sum(weight.num_bytes for weight in problem.graph.weights)
    figures = case_studies.figures_of(
        problem, problem.objective.evaluate(strategy), problem.baselines["data_parallel"]
    )
    assert figures["weights_by_dimensions_bytes"] == {"S": total}
