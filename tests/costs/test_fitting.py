"""A profile that does not fit says why."""

import dataclasses

from keras_soap.costs.cost_profile import CostSource
from keras_soap.costs.cost_table import CostTable, PartTime, part_keys, update_key
from keras_soap.costs.environment import differences, software_versions
from keras_soap.costs.fitting import misfits
from keras_soap.costs.roofline import Roofline
from keras_soap.graph.operator_graph import OperatorGraph
from keras_soap.graph.region import whole
from tests.search.toys import chain

GRAPH = chain()
HERE = {"tensorflow": "2.21.0", "hardware": "a machine", "device_type": "CPU"}


def table(graph: OperatorGraph = GRAPH, **changes) -> CostTable:
    keys = [
        part_keys(operator, whole(1, operator.output.shape))[0] for operator in graph.operators
    ] + [update_key("SGD", 1024)]
    return CostTable("CPU", dict.fromkeys(keys, PartTime(1, 1)), versions={**HERE, **changes})


def as_bfloat16(graph: OperatorGraph) -> OperatorGraph:
    def cast(specs):
        return tuple(dataclasses.replace(spec, dtype="bfloat16") for spec in specs)

    operators = [
        dataclasses.replace(
            operator,
            input_specs=cast(operator.input_specs),
            output_specs=cast(operator.output_specs),
        )
        for operator in graph.operators
    ]
    return dataclasses.replace(graph, operators=tuple(operators))


def test_a_profile_of_this_model_made_here_fits():
    assert misfits(table(), GRAPH, HERE) == []


def test_what_is_not_measured_here_cannot_misfit():
    assert misfits(Roofline(), GRAPH, HERE) == []
    assert misfits(CostTable("T4", source=CostSource.ANALYTIC), GRAPH, HERE) == []


def test_another_version_or_device_type_is_named():
    (reason,) = misfits(table(tensorflow="2.20.0", device_type="GPU"), GRAPH, HERE)
    assert "device type 'GPU' there, 'CPU' here" in reason
    assert "tensorflow '2.20.0' there, '2.21.0' here" in reason
    assert "hardware" not in reason
    assert "run keras-soap profile" in reason


def test_another_dtype_is_named():
    first, second = misfits(table(), as_bfloat16(GRAPH), HERE)
    assert "a model in float32, but this one computes in bfloat16" in first
    assert "has no times of" in second


def test_operators_without_times_are_named():
    other = (
        chain(batch_size=8) if "batch_size" in chain.__code__.co_varnames else as_bfloat16(GRAPH)
    )
    reason = misfits(table(), other, HERE)[-1]
    assert "has no times of" in reason
    assert "estimated by the roofline" in reason


def test_only_what_both_know_is_compared():
    assert differences({"a": "1", "b": "2"}, {"b": "2", "c": "3"}) == []
    assert set(software_versions()) == {"tensorflow", "keras", "keras_soap"}
