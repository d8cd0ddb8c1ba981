"""Networks made by hand have the sizes that they are published with."""

import math

import pytest

from keras_soap.errors import CaptureError
from keras_soap.graph.zoo import MODELS, PAPER, dit, nmt, rnnlm, rnntc

LSTM_1024 = 4 * 1024 * (2 * 1024 + 1)
LSTM_2048 = 4 * 2048 * (2 * 2048 + 1)


@pytest.mark.parametrize(
    ("name", "parameters", "tolerance"),
    [
        ("alexnet", 61.1e6, 0.02),
        ("inception_v3", 23.8e6, 0.02),
        ("resnet101", 44.5e6, 0.01),
        ("rnntc", 10_000 * 1024 + 4 * LSTM_1024 + 1025 * 2, 0),
        ("rnnlm", 10_000 * 2048 + 2 * LSTM_2048 + 2049 * 10_000, 0),
        ("nmt", 2 * 32_000 * 1024 + 4 * LSTM_1024 + 2049 * 1024 + 1025 * 32_000, 0),
        ("dit", 675e6, 0.01),
    ],
)
def test_parameters(name, parameters, tolerance):
    made = sum(math.prod(weight.shape) for weight in MODELS[name]().weights)
    assert made == pytest.approx(parameters, rel=tolerance, abs=0)


def test_batch_sizes_of_the_paper():
    assert {name: make().batch_size for name, make in PAPER.items()} == {
        **dict.fromkeys(PAPER, 64),
        "alexnet": 256,
    }


@pytest.mark.parametrize("make", [rnntc, rnnlm, nmt])
def test_blocks_must_divide_the_steps(make):
    with pytest.raises(CaptureError, match=r"Cannot cut 40 steps into blocks of 9\..*such as 8"):
        make(block=9)


def test_attention_can_be_split_by_heads():
    kinds = [operator.kind for operator in dit(2, num_layers=3).operators]
    assert kinds.count("dot_product_attention") == 3
