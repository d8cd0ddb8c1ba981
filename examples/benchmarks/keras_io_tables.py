"""Small models after keras.io's examples of tables, for `conformance.py` to train."""

from typing import Any

import keras
from architecture import VOCABULARY, Architecture, classified
from keras import layers, ops


def categories() -> keras.Model:
    """Whole numbers, one-hot inside of the model, joined with numbers that it normalizes."""
    numbers, kind = keras.Input((6,), name="numbers"), keras.Input((1,), name="kind", dtype="int32")
    coded = layers.CategoryEncoding(VOCABULARY, output_mode="one_hot")(kind)
    scaled = layers.Normalization(mean=[0.1] * 6, variance=[2.0] * 6)(numbers)
    x = layers.Dense(16, activation="relu")(layers.concatenate([scaled, coded]))
    inputs = {"numbers": numbers, "kind": kind}
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid")(layers.Dropout(0.0)(x)))


def deep_and_cross() -> keras.Model:
    """Products of features beside dense layers."""
    features = keras.Input((12,))
    cross = layers.BatchNormalization()(features)
    first = cross
    for _ in range(2):
        cross = first * layers.Dense(12)(cross) + cross
    deep = features
    for _ in range(2):
        deep = layers.ReLU()(layers.BatchNormalization()(layers.Dense(8)(deep)))
    return keras.Model(features, classified(layers.concatenate([cross, deep])))


class VariableSelection(layers.Layer):
    """Gated residual networks weigh features: a stack of them by a softmax."""

    def __init__(self, units: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shapes):
        self.networks = [GatedResidual(self.units) for _ in shapes]
        self.joint = GatedResidual(self.units)
        self.weigh = layers.Dense(len(shapes), activation="softmax")
        for network, shape in zip(self.networks, shapes, strict=True):
            network.build(shape)
        total = (shapes[0][0], sum(shape[-1] for shape in shapes))
        self.joint.build(total)
        self.weigh.build((shapes[0][0], self.units))

    def call(self, inputs):
        weights = self.weigh(self.joint(ops.concatenate(inputs, axis=-1)))
        made = [network(x) for network, x in zip(self.networks, inputs, strict=True)]
        stack = ops.stack(made, axis=1)
        return ops.squeeze(ops.matmul(ops.expand_dims(weights, 1), stack), axis=1)


class GatedResidual(layers.Layer):
    """A dense network that a gate lets through."""

    def __init__(self, units: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.elu, self.linear = layers.Dense(self.units, "elu"), layers.Dense(self.units)
        self.gate, self.gated = layers.Dense(self.units, "sigmoid"), layers.Dense(self.units)
        self.project, self.norm = layers.Dense(self.units), layers.LayerNormalization()
        for layer, width in (
            (self.elu, shape[-1]),
            *[(layer, self.units) for layer in (self.linear, self.gate, self.gated, self.norm)],
            (self.project, shape[-1]),
        ):
            layer.build((*shape[:-1], width))

    def call(self, x):
        y = self.linear(self.elu(x))
        return self.norm(self.project(x) + self.gated(y) * self.gate(y))


def variable_selection() -> keras.Model:
    """Features that a network chooses from."""
    features = [keras.Input((width,)) for width in (4, 6, 8)]
    x = GatedResidual(8)(VariableSelection(8)(features))
    return keras.Model(features, layers.Dense(1, activation="sigmoid")(x))


def tab_transformer() -> keras.Model:
    """Attention among the categories of a row."""
    kinds = [keras.Input((1,), dtype="int32") for _ in range(4)]
    x = ops.stack([layers.Embedding(VOCABULARY, 8)(kind)[:, 0] for kind in kinds], axis=1)
    x = x + layers.Embedding(4, 8)(ops.arange(4))
    for _ in range(2):
        y = layers.MultiHeadAttention(2, 8)(x, x)
        x = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([y, x]))
        y = layers.Dense(8, activation="gelu")(x)
        x = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([y, x]))
    return keras.Model(kinds, layers.Dense(1, activation="sigmoid")(layers.Flatten()(x)))


class Recommender(keras.Model):
    """Users and films by embeddings; one number for the whole batch is added to each."""

    def __init__(self):
        super().__init__()
        self.users, self.films = (layers.Embedding(VOCABULARY, 8) for _ in range(2))
        self.user_bias, self.film_bias = (layers.Embedding(VOCABULARY, 1) for _ in range(2))

    def call(self, inputs):
        user, film = self.users(inputs[:, 0]), self.films(inputs[:, 1])
        shared = ops.tensordot(user, film, 2)
        return ops.sigmoid(shared + self.user_bias(inputs[:, 0]) + self.film_bias(inputs[:, 1]))


_ROW = ((1,), "int32")

TABLES: dict[str, Architecture] = {
    "categories": Architecture(
        categories, {"numbers": ((6,), "float"), "kind": _ROW}, (1,), "binary_crossentropy"
    ),
    "deep_and_cross": Architecture(deep_and_cross, ((12,), "float")),
    "variable_selection": Architecture(
        variable_selection, [((n,), "float") for n in (4, 6, 8)], (1,), "binary_crossentropy"
    ),
    "tab_transformer": Architecture(tab_transformer, [_ROW] * 4, (1,), "binary_crossentropy"),
    "recommender": Architecture(Recommender, ((2,), "int32"), (1,), "binary_crossentropy"),
}
