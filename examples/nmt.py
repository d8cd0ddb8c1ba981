"""NMT: translation by LSTM layers with attention (M.-T. Luong et al., arXiv 1508.04025).

python examples/nmt.py --preset=tiny
python examples/nmt.py --preset=tiny --data=messages   (needs: pip install django)
cd examples; keras-soap search --model=nmt:graph --topology=p100:4 --batch_size=64 …
"""

from dataclasses import dataclass

import datasets
import training
from training import Benchmark, SentenceSizes, size


@dataclass(frozen=True, kw_only=True)
class Sizes(SentenceSizes):
    """Sizes of the translator."""

    vocabulary: int = size(32_000, "Words of each language that are told apart.")
    num_layers: int = size(2, "LSTM layers that read, and as many that write.")


PAPER = Sizes()
TINY = Sizes(batch_size=16, length=8, units=32, vocabulary=300, time_chunk=4, num_layers=1)


def model(sizes: Sizes = PAPER):
    """The network, compiled."""
    import keras
    from keras import layers

    def lstm():
        return layers.LSTM(sizes.units, return_sequences=True, return_state=True)

    source = keras.Input((sizes.length,), dtype="int32", name="source")
    written = keras.Input((sizes.length,), dtype="int32", name="written")
    x = layers.Embedding(sizes.vocabulary, sizes.units)(source)
    states = []
    for _ in range(sizes.num_layers):
        x, *after = lstm()(x)
        states.append(after)
    y = layers.Embedding(sizes.vocabulary, sizes.units)(written)
    for after in states:
        y, *_ = lstm()(y, initial_state=after)
    context = layers.Attention()([y, x])
    y = layers.Concatenate()([y, context])
    y = layers.Dense(sizes.units, "tanh", name="mixing")(y)
    following = layers.Dense(sizes.vocabulary, "softmax", name="following")(y)
    network = keras.Model([source, written], following, name="nmt")
    network.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    return network


def graph(batch_size: int):
    """The operators of a training step, opened in time as in the paper."""
    return training.operator_graph(model(), batch_size, PAPER.time_chunk)


BENCHMARK = Benchmark(
    "NMT",
    {"paper": PAPER, "tiny": TINY},
    model,
    {"synthetic": datasets.random_messages, "messages": datasets.messages},
)

if __name__ == "__main__":
    training.main(BENCHMARK)
