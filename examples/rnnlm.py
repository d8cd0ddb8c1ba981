"""RNNLM: a language model of LSTM layers (W. Zaremba et al., arXiv 1409.2329).

python examples/rnnlm.py --preset=tiny
python examples/rnnlm.py --preset=tiny --data=topics
cd examples; keras-soap search --model=rnnlm:graph --topology=p100:4 --batch_size=64 …
"""

from dataclasses import dataclass

import datasets
import training
from training import Benchmark, SentenceSizes, size


@dataclass(frozen=True, kw_only=True)
class Sizes(SentenceSizes):
    """Sizes of the language model."""

    units: int = size(2048, "Units of LSTM layers, and width of the embedding.")
    num_layers: int = size(2, "LSTM layers.")


PAPER = Sizes()
TINY = Sizes(batch_size=16, length=8, units=32, vocabulary=200, time_chunk=4)


def model(sizes: Sizes = PAPER):
    """The network, compiled."""
    import keras
    from keras import layers

    word = keras.Input((sizes.length,), dtype="int32", name="word")
    x = layers.Embedding(sizes.vocabulary, sizes.units)(word)
    for _ in range(sizes.num_layers):
        x = layers.LSTM(sizes.units, return_sequences=True)(x)
    following = layers.Dense(sizes.vocabulary, "softmax", name="following")(x)
    network = keras.Model(word, following, name="rnnlm")
    network.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    return network


def graph(batch_size: int):
    """The operators of a training step, opened in time as in the paper."""
    return training.operator_graph(model(), batch_size, PAPER.time_chunk)


BENCHMARK = Benchmark(
    "RNNLM",
    {"paper": PAPER, "tiny": TINY},
    model,
    {"synthetic": datasets.random_sentences, "topics": datasets.topic_sentences},
)

if __name__ == "__main__":
    training.main(BENCHMARK)
