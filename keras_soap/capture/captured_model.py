"""What capture gives."""

from dataclasses import dataclass
from typing import Any

import keras

from keras_soap.capture.calls import Arguments
from keras_soap.graph.operator_graph import OperatorGraph, TensorRef


@dataclass(frozen=True)
class CapturedModel:
    """An operator graph with the Keras objects that it was made from.

    Attributes:
        graph: The operators.
        layers: For each operator the Keras layer or operation (None for inputs).
        arguments: For each operator what puts flat inputs back into the layer's arguments.
        variables: For each of `graph.weights` its `keras.Variable`.
        inputs: Operator numbers of the model's inputs, flat, in Keras's order.
        outputs: The model's outputs, flat, in Keras's order; each in one piece, or in blocks along
            axis 1.
        output_structure: Nested as the model's outputs, with positions in `outputs` as leaves.
    """

    graph: OperatorGraph
    layers: tuple[Any, ...]
    arguments: tuple[Arguments | None, ...]
    variables: tuple[keras.Variable, ...]
    inputs: tuple[int, ...]
    outputs: tuple[tuple[TensorRef, ...], ...]
    output_structure: Any
