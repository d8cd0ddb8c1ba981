"""DiT: a transformer that takes noise out of images (W. Peebles, S. Xie, arXiv 2212.09748).

Its blocks are told the time and the class by adaptive layer normalization. It is trained to say
which noise was added to an image, as at each step of diffusion.

python examples/dit.py --preset=tiny
python examples/dit.py --preset=tiny --data=digits
keras-soap search --model=dit --topology=tpu_v5e_2x4 --batch_size=2 --mode=inference …
"""

from dataclasses import dataclass

import datasets
import numpy as np
import training
from training import Benchmark, ImageSizes, size


@dataclass(frozen=True, kw_only=True)
class Sizes(ImageSizes):
    """Sizes of the transformer; those of the paper are DiT-XL/2's."""

    batch_size: int = size(256, "Samples in a step.")
    image_size: int = size(32, "Height and width of images, or of their latents.")
    channels: int = size(4, "Channels of images, or of their latents.")
    patch: int = size(2, "Height and width of a patch; must divide image_size.")
    units: int = size(1152, "Width of a patch's vector; a multiple of num_heads and of 4.")
    num_heads: int = size(16, "Heads of attention.")
    num_layers: int = size(28, "Blocks.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, divisor in (("image_size", "patch"), ("units", "num_heads")):
            value, by = getattr(self, name), getattr(self, divisor)
            if value % by:
                raise ValueError(
                    f"{divisor}={by} does not divide {name}={value}. Use a divisor of it."
                )
        if self.units % 4:
            raise ValueError(
                f"units={self.units} must be a multiple of 4: sines and cosines of x and y."
            )


PAPER = Sizes()
TINY = Sizes(
    batch_size=16, image_size=8, classes=10, channels=1, units=32, num_heads=4, num_layers=2
)


def model(sizes: Sizes = PAPER):
    """The network, compiled."""
    import keras
    from keras import layers, ops

    side, units = sizes.image_size // sizes.patch, sizes.units
    image = keras.Input((sizes.image_size, sizes.image_size, sizes.channels), name="image")
    time = keras.Input((1,), name="time")
    label = keras.Input((), dtype="int32", name="label")

    def modulate(x, condition):
        """Shifts and scales x as the condition says."""
        shift, scale = (modulation(condition) for _ in range(2))
        return x * (scale + 1.0) + shift

    def modulation(condition):
        # Zero at first, so that every block begins as the identity.
        return layers.Reshape((1, units))(
            layers.Dense(units, kernel_initializer="zeros")(condition)
        )

    def normalize(x):
        return layers.LayerNormalization(center=False, scale=False, epsilon=1e-6)(x)

    angles = time * _frequencies(units // 2)
    x = layers.Concatenate()([ops.sin(angles), ops.cos(angles)])
    x = layers.Dense(units)(layers.Dense(units, "silu")(x))
    condition = ops.silu(x + layers.Embedding(sizes.classes, units)(label))

    x = layers.Conv2D(units, sizes.patch, sizes.patch)(image)
    x = layers.Reshape((side * side, units))(x) + _positions(side, units)
    for _ in range(sizes.num_layers):
        y = modulate(normalize(x), condition)
        y = layers.MultiHeadAttention(sizes.num_heads, units // sizes.num_heads)(y, y)
        x = x + y * modulation(condition)
        y = modulate(normalize(x), condition)
        y = layers.Dense(units)(layers.Dense(4 * units, "gelu")(y))
        x = x + y * modulation(condition)
    x = layers.Reshape((side, side, units))(modulate(normalize(x), condition))
    noise = layers.Conv2DTranspose(
        sizes.channels, sizes.patch, sizes.patch, kernel_initializer="zeros", name="noise"
    )(x)
    network = keras.Model([image, time, label], noise, name="dit")
    network.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.0), "mean_squared_error")
    return network


def _frequencies(count: int) -> np.ndarray:
    """(1, count): from 1,000 down to 1/10, for times from 0 to 1."""
    return 1000.0 * np.exp(-np.log(10_000) * np.arange(count) / count).astype("float32")[None]


def _positions(side: int, units: int) -> np.ndarray:
    """(1, patches, units): sines and cosines of the row and the column of each patch."""
    angles = np.arange(side)[:, None] / 10_000 ** (np.arange(units // 4) / (units // 4))
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    rows, columns = np.repeat(waves, side, axis=0), np.tile(waves, (side, 1))
    return np.concatenate([rows, columns], axis=1).astype("float32")[None]


def noised(images):
    """What makes a pool of images with noise, from what makes images and their classes."""

    def pool(sizes: Sizes, rng: np.random.Generator):
        pictures, labels = images(sizes, rng)
        pictures = np.repeat(pictures[..., :1], sizes.channels, axis=-1)
        time = rng.random((len(pictures), 1)).astype("float32")
        noise = rng.normal(size=pictures.shape).astype("float32")
        # Variances add up to one at every time.
        share = np.cos(time * np.pi / 2)[:, :, None, None]
        return (share * pictures + np.sqrt(1 - share**2) * noise, time, labels), noise

    return pool


BENCHMARK = Benchmark(
    "DiT",
    {"paper": PAPER, "tiny": TINY},
    model,
    {name: noised(datasets.IMAGES[name]) for name in ("synthetic", "digits")},
)

if __name__ == "__main__":
    training.main(BENCHMARK)
