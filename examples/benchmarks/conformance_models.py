"""Names of the models that `conformance.py` trains, in groups, and what they stand for."""

import functools
import importlib
import importlib.util
from collections.abc import Callable

import keras
from architecture import Architecture, without_dropout
from architectures import (
    ARCHITECTURES,
    HUB_ARCHITECTURES,
    KERAS_IO_ARCHITECTURES,
    OWN_ARCHITECTURES,
)

APPLICATIONS = (
    "VGG16",
    "ResNet50",
    "ResNet50V2",
    "InceptionV3",
    "InceptionResNetV2",
    "Xception",
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "DenseNet121",
    "NASNetMobile",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "ConvNeXtTiny",
)
"""The smallest of each family in keras.applications."""

IN_FLOAT32 = ("ConvNeXt",)
"""How names of models begin that are trained in float32 in any case: TensorFlow's gradients of
convolutions in groups do not return in float64 on CPUs."""

GROUPS = {
    "own": tuple(OWN_ARCHITECTURES),
    "keras_io": tuple(KERAS_IO_ARCHITECTURES),
    "keras_hub": tuple(HUB_ARCHITECTURES),
    "applications": APPLICATIONS,
}

_LEAST_SIZES = {"InceptionV3": 96, "InceptionResNetV2": 96, "Xception": 96}


def names_of(asked: list[str]) -> list[str]:
    """Names of models as they are spelled, each once; those of a group or of `all` in their places.

    Raises:
        ValueError: If there is none of a name, or KerasHub is asked for and not installed.
    """
    every = [name for group in GROUPS.values() for name in group]
    names = [
        name
        for word in asked
        for name in (every if word == "all" else GROUPS.get(word) or [_spelled(word)])
    ]
    hub = [name for name in names if name in HUB_ARCHITECTURES]
    if hub and importlib.util.find_spec("keras_hub") is None:
        raise ValueError(f"{', '.join(hub)}: KerasHub is not installed. Use pip install keras-hub.")
    return list(dict.fromkeys(names))


def _spelled(name: str) -> str:
    if ":" in name:
        return name
    builders = [key for key, value in vars(keras.applications).items() if callable(value)]
    known = {_letters(key): key for key in (*ARCHITECTURES, *builders)}
    if _letters(name) not in known:
        raise ValueError(
            f"There is no model {name!r}: neither in keras.applications nor among "
            f"{', '.join(ARCHITECTURES)}; nor is it a group: all, {', '.join(GROUPS)}."
        )
    return known[_letters(name)]


def _letters(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def find(name: str, image_size: int, seed: int) -> Architecture:
    """The architecture of a name that `names_of` gives, or of `module:function`.

    Args:
        name: Of a function: its model has one input, and classes along the last axis of its output.
        image_size: Height and width for keras.applications; 0 for what suits the model.
        seed: Of the weights of keras.applications and functions.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    if ":" in name:
        module, _, function = name.partition(":")
        build = getattr(importlib.import_module(module), function)
        model = build()
        spec = (tuple(model.input_shape[1:]), model.inputs[0].dtype)
        target, num_classes = tuple(model.output_shape[1:-1]), model.output_shape[-1]
        return Architecture(_without_dropout(build, seed), spec, target, num_classes=num_classes)
    least = [size for key, size in _LEAST_SIZES.items() if name.startswith(key)]
    size = image_size or (least or [64])[0]
    shape = (size, size, 3)
    build = functools.partial(
        getattr(keras.applications, name), weights=None, input_shape=shape, classes=10
    )
    return Architecture(_without_dropout(build, seed), (shape, "float"), num_classes=10)


def _without_dropout(build: Callable[[], keras.Model], seed: int) -> Callable[[], keras.Model]:
    """The same without what is random in training."""

    def build_without() -> keras.Model:
        model = build()
        keras.utils.set_random_seed(seed)
        return keras.models.clone_model(model, clone_function=without_dropout)

    return build_without
