"""A model for `conformance.py` to train, and what it is trained on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

VOCABULARY = 24
STEPS = 12


@dataclass(frozen=True)
class Architecture:
    """A model with what it is trained on.

    Attributes:
        build: Makes it, not compiled.
        inputs: Shape and dtype of one sample, nested as `fit` takes it.
        target: Shape of a target of one sample.
        loss: As for `compile`. Targets are classes, 0 or 1, or numbers, as it wants them.
        num_classes: Where targets are classes, or letters.
    """

    build: Callable[[], keras.Model]
    inputs: Any
    target: tuple[int, ...] = ()
    loss: str = "sparse_categorical_crossentropy"
    num_classes: int = 5

    @property
    def metrics(self) -> list[str]:
        """What to compare besides losses."""
        if self.loss == "ctc":
            return []
        return ["mean_absolute_error" if self.loss == "mean_squared_error" else "accuracy"]

    def data(self, random: np.random.Generator, num_samples: int) -> tuple[Any, Any]:
        """Random inputs and targets."""

        def values(spec: tuple[tuple[int, ...], str]) -> np.ndarray:
            shape, dtype = spec
            if "int" in dtype:
                return random.integers(0, VOCABULARY, (num_samples, *shape)).astype(dtype)
            return random.normal(size=(num_samples, *shape)).astype(keras.config.floatx())

        return _nested(values, self.inputs), self._targets(random, (num_samples, *self.target))

    def _targets(self, random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        if self.loss.startswith("sparse"):
            return random.integers(0, self.num_classes, shape)
        if self.loss == "ctc":  # 0 is no letter.
            return random.integers(1, self.num_classes, shape)
        if self.loss.startswith("binary"):
            return random.integers(0, 2, shape).astype(keras.config.floatx())
        return random.normal(size=shape).astype(keras.config.floatx())


def classified(x: Any) -> Any:
    """What models of five classes end with."""
    return keras.layers.Dense(5, activation="softmax")(x)


def without_dropout(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A layer like another, without what is random in training; for `keras.models.clone_model`."""
    config = layer.get_config()
    rates = dict.fromkeys({"rate", "drop_path_rate"} & config.keys(), 0.0)
    return type(layer).from_config({**config, **rates})


def _nested(function: Callable[[Any], Any], inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return {key: function(spec) for key, spec in inputs.items()}
    if isinstance(inputs, list):
        return tuple(map(function, inputs))
    return function(inputs)


IMAGE = ((16, 16, 3), "float")
WORDS = ((STEPS,), "int32")
SERIES = ((STEPS, 4), "float")
