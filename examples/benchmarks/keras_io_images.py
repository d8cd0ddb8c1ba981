"""Small models after keras.io's examples of images, for `conformance.py` to train."""

from typing import Any

import keras
from architecture import IMAGE, Architecture, classified
from keras import layers, ops


def image_classifier() -> keras.Model:
    """A small Xception, from scratch."""
    image = keras.Input(IMAGE[0])
    x = layers.Rescaling(1.0 / 255)(image)
    x = layers.Conv2D(8, 3, strides=2, padding="same")(x)
    previous = x = layers.Activation("relu")(layers.BatchNormalization()(x))
    for filters in (12, 16):
        for _ in range(2):
            x = layers.Activation("relu")(x)
            x = layers.SeparableConv2D(filters, 3, padding="same")(x)
            x = layers.BatchNormalization()(x)
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
        residual = layers.Conv2D(filters, 1, strides=2, padding="same")(previous)
        previous = x = layers.add([x, residual])
    x = layers.Dropout(0.0)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, classified(x))


def conv_mixer() -> keras.Model:
    """Depthwise and pointwise convolutions of patches."""
    image = keras.Input(IMAGE[0])
    x = layers.BatchNormalization()(layers.Activation("gelu")(layers.Conv2D(8, 2, 2)(image)))
    for _ in range(2):
        y = layers.Activation("gelu")(layers.DepthwiseConv2D(5, padding="same")(x))
        x = layers.Add()([layers.BatchNormalization()(y), x])
        x = layers.BatchNormalization()(layers.Activation("gelu")(layers.Conv2D(8, 1)(x)))
    return keras.Model(image, classified(layers.GlobalAvgPool2D()(x)))


def deeplab() -> keras.Model:
    """Segmentation with dilated convolutions, and pooling of the whole image beside them."""
    image = keras.Input(IMAGE[0])
    x = layers.Conv2D(8, 3, 2, padding="same", activation="relu")(image)
    low = x
    x = layers.Conv2D(12, 3, 2, padding="same", activation="relu")(x)
    pooled = layers.AveragePooling2D(4)(x)
    pooled = layers.Conv2D(8, 1, activation="relu")(pooled)
    parts = [layers.UpSampling2D(4, interpolation="bilinear")(pooled)]
    for rate in (1, 2, 3):
        y = layers.Conv2D(8, 3, dilation_rate=rate, padding="same", use_bias=False)(x)
        parts.append(ops.nn.relu(layers.BatchNormalization()(y)))
    x = layers.UpSampling2D(2, interpolation="bilinear")(layers.Concatenate()(parts))
    x = layers.Concatenate()([x, layers.Conv2D(4, 1)(low)])
    x = layers.UpSampling2D(2, interpolation="bilinear")(layers.Conv2D(8, 3, padding="same")(x))
    return keras.Model(image, layers.Conv2D(5, 1, activation="softmax")(x))


class DepthToSpace(layers.Layer):
    """Channels become pixels."""

    def call(self, x):
        _, height, width, channels = x.shape
        x = ops.reshape(x, (-1, height, width, 2, 2, channels // 4))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, 2 * height, 2 * width, channels // 4))


def super_resolution() -> keras.Model:
    """Larger images, by channels that become pixels."""
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 5, activation="relu", padding="same")(image)
    x = layers.Conv2D(4, 3, activation="relu", padding="same")(x)
    return keras.Model(image, DepthToSpace()(layers.Conv2D(12, 3, padding="same")(x)))


class ShiftedWindows(layers.Layer):
    """Attention inside of windows of an image, which is rolled first: a block of a Swin."""

    def __init__(self, size: int, shift: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.size, self.shift = size, shift
        self.norms = [layers.LayerNormalization(epsilon=1e-5) for _ in range(2)]
        self.inner = keras.Sequential([layers.Dense(24, "gelu"), layers.Dense(12)])

    def build(self, shape):
        self.attention = layers.MultiHeadAttention(3, 4)
        window = (None, self.size**2, shape[-1])
        self.attention.build(window, window)
        for norm in self.norms:
            norm.build(shape)
        self.inner.build(shape)

    def call(self, x):
        _, height, width, channels = x.shape
        down, across, size = height // self.size, width // self.size, self.size
        y = ops.roll(self.norms[0](x), (-self.shift, -self.shift), axis=(1, 2))
        y = ops.reshape(y, (-1, down, size, across, size, channels))
        y = ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, size * size, channels))
        y = self.attention(y, y)
        y = ops.reshape(y, (-1, down, across, size, size, channels))
        y = ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, height, width, channels))
        x = x + ops.roll(y, (self.shift, self.shift), axis=(1, 2))
        return x + self.inner(self.norms[1](x))


def swin() -> keras.Model:
    """Attention in windows, twice, shifted in between."""
    image = keras.Input(IMAGE[0])
    x = layers.Conv2D(12, 2, 2)(image)
    x = ShiftedWindows(4, 2)(ShiftedWindows(4, 0)(x))
    return keras.Model(image, classified(layers.GlobalAveragePooling2D()(x)))


def captcha() -> keras.Model:
    """Reads letters: convolutions, then an LSTM along the width; for the loss of CTC."""
    image = keras.Input((24, 8, 1))
    x = layers.Conv2D(6, 3, activation="relu", padding="same")(image)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Dense(8, activation="relu")(layers.Reshape((12, 24))(x))
    x = layers.Bidirectional(layers.LSTM(6, return_sequences=True))(x)
    return keras.Model(image, layers.Dense(7, activation="softmax")(x))


def point_net() -> keras.Model:
    """Classifies clouds of points, which it turns first."""
    points = keras.Input((16, 3))

    def block(x, filters):
        x = layers.Conv1D(filters, 1, padding="valid")(x)
        return layers.Activation("relu")(layers.BatchNormalization(momentum=0.0)(x))

    x = layers.GlobalMaxPooling1D()(block(block(points, 8), 12))
    x = layers.Dense(9, kernel_initializer="zeros", activity_regularizer="l2")(x)
    x = layers.Dot(axes=(2, 1))([points, layers.Reshape((3, 3))(x)])
    x = layers.GlobalMaxPooling1D()(block(block(x, 8), 16))
    return keras.Model(points, classified(x))


def convnet() -> keras.Model:
    """Reads digits: a Sequential model of convolutions."""
    return keras.Sequential(
        [
            keras.Input(IMAGE[0]),
            layers.Conv2D(8, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(12, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.0),
            layers.Dense(5, activation="softmax"),
        ]
    )


def transfer_learning() -> keras.Model:
    """A new head on a model that stays as it is, its normalization too."""
    base = keras.Sequential(
        [
            keras.Input(IMAGE[0]),
            layers.Conv2D(8, 3, strides=2, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.SeparableConv2D(12, 3),
        ]
    )
    base.trainable = False
    image = keras.Input(IMAGE[0])
    x = base(layers.Rescaling(1.0 / 127.5, offset=-1.0)(image), training=False)
    return keras.Model(image, classified(layers.GlobalAveragePooling2D()(x)))


def scans() -> keras.Model:
    """Whether something is to be seen in a volume: convolutions in three dimensions.

    With strides in the place of pooling, which TensorFlow does not do in float64 on CPUs.
    """
    volume = keras.Input((8, 8, 8, 1))
    x = volume
    for filters in (4, 8):
        x = layers.Conv3D(filters, 3, 2, padding="same", activation="relu")(x)
        x = layers.BatchNormalization()(x)
    x = layers.Dense(8, activation="relu")(layers.GlobalAveragePooling3D()(x))
    return keras.Model(volume, layers.Dense(1, activation="sigmoid")(layers.Dropout(0.0)(x)))


class BagOfInstances(keras.Model):
    """Classifies bags of pictures: one tower for all, and attention among them."""

    def __init__(self):
        super().__init__()
        self.flatten = layers.Flatten()
        self.tower = keras.Sequential([layers.Dense(16, "relu"), layers.Dense(8, "relu")])
        self.score, self.gate = layers.Dense(6, "tanh"), layers.Dense(6, "sigmoid")
        self.weigh, self.head = layers.Dense(1), layers.Dense(5, activation="softmax")

    def call(self, inputs):
        made = [self.tower(self.flatten(x)) for x in inputs]
        scores = [self.weigh(self.score(x) * self.gate(x)) for x in made]
        weights = ops.split(ops.softmax(ops.stack(scores), axis=0), len(made), axis=0)
        weighed = [ops.squeeze(weight, 0) * x for weight, x in zip(weights, made, strict=True)]
        return self.head(layers.concatenate(weighed))


IMAGES: dict[str, Architecture] = {
    "image_classifier": Architecture(image_classifier, IMAGE),
    "conv_mixer": Architecture(conv_mixer, IMAGE),
    "deeplab": Architecture(deeplab, IMAGE, (16, 16)),
    "super_resolution": Architecture(
        super_resolution, ((8, 8, 1), "float"), (16, 16, 3), "mean_squared_error"
    ),
    "swin": Architecture(swin, IMAGE),
    "captcha": Architecture(captcha, ((24, 8, 1), "float"), (3,), "ctc", num_classes=7),
    "point_net": Architecture(point_net, ((16, 3), "float")),
    "convnet": Architecture(convnet, IMAGE),
    "transfer_learning": Architecture(transfer_learning, IMAGE),
    "scans": Architecture(scans, ((8, 8, 8, 1), "float"), (1,), "binary_crossentropy"),
    "bag_of_instances": Architecture(BagOfInstances, [IMAGE] * 3),
}
