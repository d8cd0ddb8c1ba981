"""Inception-v3 (C. Szegedy et al., arXiv 1512.00567), without the auxiliary classifier.

python examples/inception_v3.py --preset=tiny
python examples/inception_v3.py --preset=tiny --data=photos --classes=2
cd examples; keras-soap search --model=inception_v3:model --topology=p100:4 --batch_size=64 …
"""

from dataclasses import dataclass

import datasets
import training
from training import Benchmark, ImageSizes, size


@dataclass(frozen=True, kw_only=True)
class Sizes(ImageSizes):
    """Sizes of Inception-v3: modules A32 A64 A64 B C128 C160 C160 C192 D E E, named as there."""

    image_size: int = size(299, "Height and width of images, in pixels; 75 or more.")
    width: int = size(32, "Filters of the first convolution; all others are in proportion.")
    modules_a: int = size(3, "Modules A, on an eighth of the height and width.")
    modules_c: int = size(4, "Modules C, on a sixteenth.")
    modules_e: int = size(2, "Modules E, on a thirty-second.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size < 75:
            raise ValueError(
                f"image_size={self.image_size} leaves no pixels for the last modules. Use 75 or "
                "more."
            )


PAPER = Sizes()
TINY = Sizes(
    batch_size=8, image_size=75, classes=10, width=4, modules_a=1, modules_c=1, modules_e=1
)


def model(sizes: Sizes = PAPER):
    """The network, compiled."""
    import keras
    from keras import layers

    def conv(x, filters: int, kernel, strides: int = 1, padding: str = "same"):
        filters = max(filters * sizes.width // 32, 1)
        x = layers.Conv2D(filters, kernel, strides, padding=padding, use_bias=False)(x)
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9, scale=False)(x))

    def chain(x, *steps):
        for step in steps:
            x = conv(x, *step)
        return x

    def shrunk(x):
        return layers.MaxPooling2D(3, 2)(x)

    def average(x, filters: int):
        return conv(layers.AveragePooling2D(3, 1, padding="same")(x), filters, 1)

    def module_a(x, filters: int):
        fifth = chain(x, (48, 1), (64, 5))
        third = chain(x, (64, 1), (96, 3), (96, 3))
        return layers.Concatenate()([conv(x, 64, 1), fifth, third, average(x, filters)])

    def module_b(x):
        third = chain(x, (64, 1), (96, 3), (96, 3, 2, "valid"))
        return layers.Concatenate()([conv(x, 384, 3, 2, "valid"), third, shrunk(x)])

    def module_c(x, filters: int):
        second = chain(x, (filters, 1), (filters, (1, 7)), (192, (7, 1)))
        third = chain(x, (filters, 1), (filters, (7, 1)), (filters, (1, 7)))
        third = chain(third, (filters, (7, 1)), (192, (1, 7)))
        return layers.Concatenate()([conv(x, 192, 1), second, third, average(x, 192)])

    def module_d(x):
        first = chain(x, (192, 1), (320, 3, 2, "valid"))
        second = chain(x, (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2, "valid"))
        return layers.Concatenate()([first, second, shrunk(x)])

    def module_e(x):
        second, third = conv(x, 384, 1), chain(x, (448, 1), (384, 3))
        pairs = [conv(y, 384, kernel) for y in (second, third) for kernel in ((1, 3), (3, 1))]
        return layers.Concatenate()([conv(x, 320, 1), *pairs, average(x, 192)])

    image = keras.Input((sizes.image_size, sizes.image_size, 3), name="image")
    x = chain(image, (32, 3, 2, "valid"), (32, 3, 1, "valid"), (64, 3))
    x = shrunk(chain(shrunk(x), (80, 1, 1, "valid"), (192, 3, 1, "valid")))
    for number in range(sizes.modules_a):
        x = module_a(x, 64 if number else 32)
    x = module_b(x)
    for number in range(sizes.modules_c):
        last = number == sizes.modules_c - 1
        x = module_c(x, 128 if number == 0 else 192 if last else 160)
    x = module_d(x)
    for _ in range(sizes.modules_e):
        x = module_e(x)
    x = layers.GlobalAveragePooling2D()(x)
    network = keras.Model(image, layers.Dense(sizes.classes, "softmax")(x), name="inception_v3")
    network.compile(keras.optimizers.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy")
    return network


BENCHMARK = Benchmark("Inception-v3", {"paper": PAPER, "tiny": TINY}, model, datasets.IMAGES)

if __name__ == "__main__":
    training.main(BENCHMARK)
