"""KerasHub's models, where KerasHub is installed: nothing in them runs whole on one device."""

import numpy as np
import pytest

from keras_soap.capture.functions import learn_inputs
from keras_soap.capture.model import capture

STEPS = 6
SIZES = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}


@pytest.mark.parametrize(
    ("name", "inputs", "heads"),
    [
        ("BertBackbone", ("token_ids", "segment_ids", "padding_mask"), "self_attention_layer"),
        ("GPT2Backbone", ("token_ids", "padding_mask"), "self_attention"),
    ],
)
def test_backbones_of_transformers_are_split_by_heads(name, inputs, heads):
    models = pytest.importorskip("keras_hub").models
    backbone = getattr(models, name)(9, **SIZES, max_sequence_length=STEPS)
    learn_inputs(backbone, {key: np.ones((4, STEPS), "int32") for key in inputs})
    graph = capture(backbone, 4).graph
    kinds = {operator.name: operator.kind for operator in graph.operators}
    assert "whole" not in kinds.values()
    assert kinds[f"transformer_layer_0/{heads}/query"] == "einsum_dense"
    assert {graph.operators[n].name for n in range(len(inputs))} == set(inputs)


def test_language_models_predict_words_by_the_table_that_they_look_them_up_in():
    models = pytest.importorskip("keras_hub").models
    backbone = models.GPT2Backbone(9, **SIZES, max_sequence_length=STEPS)
    model = models.GPT2CausalLM(backbone)
    inputs = {key: np.ones((4, STEPS), "int32") for key in ("token_ids", "padding_mask")}
    learn_inputs(model, inputs)
    graph = capture(model, 4).graph
    assert "whole" not in {operator.kind for operator in graph.operators}
    (table,) = [
        number
        for number, operator in enumerate(graph.operators)
        if operator.kind == "weight" and operator.output_specs[1].shape == (9, 8)
    ]
    readers = {graph.operators[edge.consumer].kind for edge in graph.out_edges[table]}
    assert readers == {"table_lookup_handed", "permute_of_weights"}
