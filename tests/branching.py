"""Layers and models that branch on `training`, as people write them."""

import keras
from keras import layers, ops


class StochasticDepth(layers.Layer):
    """As in Keras's example of compact convolutional transformers."""

    def __init__(self, rate, seed=3, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, x, training=None):
        if training:
            keep = 1 - self.rate
            shape = (ops.shape(x)[0],) + (1,) * (len(x.shape) - 1)
            drawn = keep + keras.random.uniform(shape, 0, 1, seed=self.seed_generator)
            return (x / keep) * ops.floor(drawn)
        return x


class DropPath(layers.Layer):
    """With Keras's global seed, as shorter examples have it."""

    def __init__(self, rate, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate

    def call(self, x, training=False):
        if self.rate == 0.0 or not training:
            return x
        shape = (ops.shape(x)[0],) + (1,) * (len(x.shape) - 1)
        mask = keras.random.uniform(shape) >= self.rate
        return x / (1 - self.rate) * ops.cast(mask, x.dtype)


class Noisy(layers.Layer):
    """A layer in a layer, and noise on what it makes."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(units, name="dense")
        self.seed_generator = keras.random.SeedGenerator(4)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x, training=False):
        x = self.dense(x)
        if training:
            x = x + keras.random.normal(ops.shape(x), stddev=0.1, seed=self.seed_generator)
        return x


class Dropped(layers.Layer):
    """Drops elements, as a layer of its own does it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(5)

    def call(self, x, training=False):
        return keras.random.dropout(x, 0.4, seed=self.seed_generator) if training else x


class Sampling(layers.Layer):
    """Of a variational autoencoder."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(6)

    def call(self, inputs, training=None):
        mean, log_variance = inputs
        if not training:
            return mean
        epsilon = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        return mean + ops.exp(0.5 * log_variance) * epsilon


class Block(layers.Layer):
    """A transformer block whose branches may be left out of the sum."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(2, 4, dropout=0.1, name="attention")
        self.norms = [layers.LayerNormalization(name=f"norm_{n}") for n in range(2)]
        self.dense = keras.Sequential(
            [layers.Dense(16, "relu", name="up"), layers.Dense(width, name="down")], name="dense"
        )
        self.dropout = layers.Dropout(0.2, name="dropout")
        self.drop_path = StochasticDepth(0.4, name="drop_path")

    def call(self, x, training=False):
        y = self.norms[0](x)
        y = self.attention(y, y, training=training)
        x = x + self.drop_path(y, training=training)
        y = self.dropout(self.dense(self.norms[1](x)), training=training)
        return x + self.drop_path(y, training=training)


class Classifier(keras.Model):
    """Branches twice, between layers that both branches have in common."""

    def __init__(self):
        super().__init__(name="classifier")
        self.hidden = layers.Dense(8, "relu", name="hidden")
        self.norm = layers.BatchNormalization(name="norm")
        self.dropout = layers.Dropout(0.5, name="dropout")
        self.classes = layers.Dense(4, name="classes")

    def call(self, inputs, training=False):
        x = self.norm(self.hidden(inputs), training=training)
        if training:
            x = self.dropout(x, training=training)
        x = self.classes(x)
        return x if training else ops.clip(x, -0.5, 0.5)


class TwoHeads(keras.Model):
    """Another layer in training than in inference, each with weights."""

    def __init__(self):
        super().__init__(name="two_heads")
        self.hidden = layers.Dense(8, "relu", name="hidden")
        self.taught = layers.Dense(4, name="taught")
        self.fixed = layers.Dense(4, name="fixed", trainable=False)

    def call(self, inputs, training=False):
        x = self.hidden(inputs)
        return self.taught(x) if training else self.fixed(x)


class Autoencoder(keras.Model):
    """Samples in training."""

    def __init__(self):
        super().__init__(name="autoencoder")
        self.encoder = layers.Dense(8, "relu", name="encoder")
        self.mean = layers.Dense(4, name="mean")
        self.log_variance = layers.Dense(4, name="log_variance")
        self.sampling = Sampling(name="sampling")
        self.decoder = layers.Dense(4, name="decoder")

    def call(self, inputs, training=None):
        x = self.encoder(inputs)
        z = self.sampling([self.mean(x), self.log_variance(x)], training=training)
        return self.decoder(z)


class Variational(Autoencoder):
    """Adds the divergence of what it samples from; in training alone, or always."""

    def __init__(self, always):
        super().__init__()
        self.always = always

    def call(self, inputs, training=None):
        x = self.encoder(inputs)
        mean, log_variance = self.mean(x), self.log_variance(x)
        if training or self.always:
            kl = ops.square(mean) + ops.exp(log_variance) - log_variance - 1
            self.add_loss(0.05 * ops.mean(ops.sum(kl, axis=-1)))
        return self.decoder(self.sampling([mean, log_variance], training=training))
