"""Which elements activation functions mix, read off a layer's config."""

from collections.abc import Mapping
from typing import Any

_ELEMENTWISE = frozenset(
    [
        "linear",
        "relu",
        "relu6",
        "leaky_relu",
        "elu",
        "selu",
        "celu",
        "gelu",
        "silu",
        "swish",
        "mish",
        "sigmoid",
        "hard_sigmoid",
        "sparse_sigmoid",
        "log_sigmoid",
        "tanh",
        "hard_tanh",
        "tanh_shrink",
        "softplus",
        "sparse_plus",
        "squareplus",
        "softsign",
        "soft_shrink",
        "hard_shrink",
        "hard_silu",
        "hard_swish",
        "exponential",
        "threshold",
    ]
)
_ALONG_LAST_AXIS = frozenset({"softmax", "log_softmax", "sparsemax"})
_ELEMENTWISE_LAYERS = frozenset({"ReLU", "LeakyReLU", "ELU"})


def unknown_activation(attributes: Mapping[str, Any]) -> str | None:
    """A reason to refuse, if nothing is known about which elements the activation mixes."""
    activation = attributes.get("activation")
    if isinstance(activation, dict):
        known = activation.get("class_name") in _ELEMENTWISE_LAYERS
    else:
        known = activation is None or activation in _ELEMENTWISE | _ALONG_LAST_AXIS
    return None if known else f"nothing is known about its activation {activation!r}"


def unsplit_axes(attributes: Mapping[str, Any]) -> tuple[int, ...]:
    """The axes that the activation reduces over: the last one, or none."""
    activation = attributes.get("activation")
    return (-1,) if isinstance(activation, str) and activation in _ALONG_LAST_AXIS else ()
