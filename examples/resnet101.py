"""ResNet-101 (K. He et al., arXiv 1512.03385).

python examples/resnet101.py --preset=tiny
python examples/resnet101.py --preset=tiny --data=digits
cd examples; keras-soap search --model=resnet101:model --topology=p100:4 --batch_size=64 …
"""

from dataclasses import dataclass

import datasets
import training
from training import Benchmark, ImageSizes, size


@dataclass(frozen=True, kw_only=True)
class Sizes(ImageSizes):
    """Sizes of a residual network of bottlenecks."""

    width: int = size(64, "Filters of the first stage; every stage has twice as many.")
    stage_1: int = size(3, "Blocks of the first stage.")
    stage_2: int = size(4, "Blocks of the second stage.")
    stage_3: int = size(23, "Blocks of the third stage.")
    stage_4: int = size(3, "Blocks of the fourth stage.")


PAPER = Sizes()
TINY = Sizes(
    batch_size=16, image_size=32, classes=10, width=8, stage_1=1, stage_2=1, stage_3=1, stage_4=1
)


def model(sizes: Sizes = PAPER):
    """The network, compiled."""
    import keras
    from keras import layers

    def convolution(x, filters: int, kernel: int, strides: int = 1):
        x = layers.Conv2D(filters, kernel, strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization(momentum=0.9)(x)

    def block(x, filters: int, strides: int):
        y = layers.ReLU()(convolution(x, filters, 1, strides))
        y = layers.ReLU()(convolution(y, filters, 3))
        y = convolution(y, 4 * filters, 1)
        if x.shape != y.shape:
            x = convolution(x, 4 * filters, 1, strides)
        return layers.ReLU()(layers.Add()([x, y]))

    image = keras.Input((sizes.image_size, sizes.image_size, 3), name="image")
    x = layers.ReLU()(convolution(image, sizes.width, 7, 2))
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    counts = (sizes.stage_1, sizes.stage_2, sizes.stage_3, sizes.stage_4)
    for stage, count in enumerate(counts):
        for number in range(count):
            x = block(x, sizes.width << stage, 2 if stage and not number else 1)
    x = layers.GlobalAveragePooling2D()(x)
    network = keras.Model(image, layers.Dense(sizes.classes, "softmax")(x), name="resnet101")
    network.compile(keras.optimizers.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy")
    return network


BENCHMARK = Benchmark("ResNet-101", {"paper": PAPER, "tiny": TINY}, model, datasets.IMAGES)

if __name__ == "__main__":
    training.main(BENCHMARK)
