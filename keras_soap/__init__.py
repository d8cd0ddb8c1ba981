"""Finds and runs the fastest way to parallelize a Keras model, in the SOAP space of FlexFlow."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_soap.planning import find_strategy, simulate
    from keras_soap.runtime.cluster import join_cluster
    from keras_soap.runtime.devices import use_logical_cpus
    from keras_soap.runtime.soap_strategy import SoapStrategy

__all__ = ["SoapStrategy", "find_strategy", "join_cluster", "simulate", "use_logical_cpus"]

_MODULES = {
    "SoapStrategy": "keras_soap.runtime.soap_strategy",
    "find_strategy": "keras_soap.planning",
    "join_cluster": "keras_soap.runtime.cluster",
    "simulate": "keras_soap.planning",
    "use_logical_cpus": "keras_soap.runtime.devices",
}


def __getattr__(name: str) -> Any:
    """Imports public names when they are asked for: planning needs no TensorFlow."""
    if name not in _MODULES:
        raise AttributeError(f"module 'keras_soap' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
