"""Array constants among the arguments of a call, cut to what a part needs of them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_soap.graph.region import broadcast_regions
from keras_soap.operators.rule import Part, PartCall


def with_cut_constants(call: PartCall, cut: Callable[[Any, Part], Any]) -> PartCall:
    """The call, with array constants among its arguments cut to what the part needs of them."""
    import keras

    def arguments(inputs):
        args, kwargs = call.arguments(inputs)
        theirs = {id(tensor) for tensor in inputs}

        def own(value):
            if (
                id(value) in theirs
                or not hasattr(value, "shape")
                or isinstance(value, keras.Variable)
            ):
                return value
            return cut(value, call.part)

        return keras.tree.map_structure(own, (args, kwargs))

    return dataclasses.replace(call, arguments=arguments)


def cut_broadcast(constant: Any, part: Part) -> Any:
    """What the part needs of a constant that broadcasts to the whole output."""
    output = np.array([part.output], np.int64)
    (region,) = broadcast_regions(output, tuple(constant.shape)).tolist()
    return constant[tuple(slice(*range_) for range_ in region)]
