"""AlexNet with one tower (A. Krizhevsky, arXiv 1404.5997).

python examples/alexnet.py --preset=tiny
python examples/alexnet.py --preset=tiny --data=digits
cd examples; keras-soap search --model=alexnet:model --topology=p100:4 --batch_size=256 …
"""

from dataclasses import dataclass

import datasets
import training
from training import Benchmark, ImageSizes, size


@dataclass(frozen=True, kw_only=True)
class Sizes(ImageSizes):
    """Sizes of AlexNet."""

    batch_size: int = size(256, "Samples in a step.")
    width: int = size(64, "Filters of the first convolution; others have 3 to 6 times as many.")
    units: int = size(4096, "Units of the hidden dense layers.")


PAPER = Sizes()
TINY = Sizes(batch_size=16, image_size=64, classes=10, width=8, units=64)


def model(sizes: Sizes = PAPER):
    """The network, compiled."""
    import keras
    from keras import layers

    def convolution(filters: int, kernel: int, strides: int = 1):
        return layers.Conv2D(
            filters,
            kernel,
            strides,
            padding="same",
            activation="relu",
            kernel_initializer="he_normal",
        )

    width = sizes.width
    image = keras.Input((sizes.image_size, sizes.image_size, 3), name="image")
    x = layers.MaxPooling2D(3, 2)(convolution(width, 11, 4)(image))
    x = layers.MaxPooling2D(3, 2)(convolution(3 * width, 5)(x))
    for times in (6, 4, 4):
        x = convolution(times * width, 3)(x)
    x = layers.Flatten()(layers.MaxPooling2D(3, 2)(x))
    for _ in range(2):
        x = layers.Dense(sizes.units, "relu", kernel_initializer="he_normal")(x)
    network = keras.Model(image, layers.Dense(sizes.classes, "softmax")(x), name="alexnet")
    network.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy")
    return network


BENCHMARK = Benchmark("AlexNet", {"paper": PAPER, "tiny": TINY}, model, datasets.IMAGES)

if __name__ == "__main__":
    training.main(BENCHMARK)
