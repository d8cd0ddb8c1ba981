"""A layer that computes with weights alone, as those with adapters do."""

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable()
class Adapted(layers.Layer):
    """Computes with weights alone: a kernel and its adapters, a gain, a first step."""

    def build(self, shape):
        width = shape[-1]
        self.kernel = self.add_weight(shape=(width, width), name="kernel")
        self.down = self.add_weight(shape=(width, 2), name="down")
        self.up = self.add_weight(shape=(2, width), name="up")
        self.gain = self.add_weight(shape=(width,), initializer="zeros", name="gain")
        self.first = self.add_weight(shape=(1, 1, width), name="first")

    def call(self, x):
        first = ops.broadcast_to(self.first, (ops.shape(x)[0], 1, x.shape[-1]))
        x = ops.concatenate([first, x], axis=1)
        x = ops.matmul(x, self.kernel + ops.matmul(self.down, self.up))
        return x * (1.0 + self.gain)
