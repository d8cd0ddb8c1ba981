"""RNNTC: classifies texts by LSTM layers (Y. Kim, arXiv 1408.5882, is the task).

python examples/rnntc.py --preset=tiny
python examples/rnntc.py --preset=tiny --data=topics
cd examples; keras-soap search --model=rnntc:graph --topology=p100:4 --batch_size=64 …
"""

from dataclasses import dataclass

import datasets
import training
from training import Benchmark, SentenceSizes, size


@dataclass(frozen=True, kw_only=True)
class Sizes(SentenceSizes):
    """Sizes of the classifier."""

    num_layers: int = size(4, "LSTM layers.")
    classes: int = size(2, "Classes of texts.")


PAPER = Sizes()
TINY = Sizes(
    batch_size=16, length=8, units=16, vocabulary=500, time_chunk=4, num_layers=2, classes=4
)


def model(sizes: Sizes = PAPER):
    """The network, compiled."""
    import keras
    from keras import layers

    word = keras.Input((sizes.length,), dtype="int32", name="word")
    x = layers.Embedding(sizes.vocabulary, sizes.units)(word)
    for number in range(sizes.num_layers):
        x = layers.LSTM(sizes.units, return_sequences=number < sizes.num_layers - 1)(x)
    network = keras.Model(word, layers.Dense(sizes.classes, "softmax")(x), name="rnntc")
    network.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    return network


def graph(batch_size: int):
    """The operators of a training step, opened in time as in the paper."""
    return training.operator_graph(model(), batch_size, PAPER.time_chunk)


BENCHMARK = Benchmark(
    "RNNTC",
    {"paper": PAPER, "tiny": TINY},
    model,
    {"synthetic": datasets.random_labels, "topics": datasets.topic_labels},
)

if __name__ == "__main__":
    training.main(BENCHMARK)
