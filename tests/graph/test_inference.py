"""Graphs without what only training needs."""

import pytest

from keras_soap.graph.inference import forward_part
from keras_soap.graph.operator_graph import LOSS_KINDS
from keras_soap.graph.zoo import MODELS
from tests.search.toys import chain


def test_inference_has_neither_losses_nor_their_targets():
    graph = forward_part(chain())
    assert [operator.kind for operator in graph.operators] == ["input", "dense", "dense"]
    assert forward_part(graph) is graph


@pytest.mark.parametrize("name", MODELS)
def test_all_else_is_as_in_training(name):
    whole = MODELS[name]()
    part = forward_part(whole)
    names = [operator.name for operator in part.operators]
    left_out = [operator for operator in whole.operators if operator.name not in names]
    kinds = {operator.kind for operator in left_out}
    assert "input" in kinds
    assert kinds <= {"input", *LOSS_KINDS}
    for operator in part.operators:
        same = whole.operators[whole.index(operator.name)]
        assert [part.operators[ref.operator].name for ref in operator.inputs] == [
            whole.operators[ref.operator].name for ref in same.inputs
        ]
    assert not any(part.has_backward)
