"""What capture gives."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import keras

from keras_soap.capture.calls import Arguments
from keras_soap.graph.operator_graph import OperatorGraph, TensorRef
from keras_soap.graph.unread import mark_unread


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

    def in_evaluation(self) -> "CapturedModel":
        """The same, with losses, as an evaluation runs it."""
        return dataclasses.replace(self, graph=mark_unread(self.graph, training=False))

    def in_prediction(self) -> "CapturedModel":
        """The same, without losses, as a prediction runs it."""
        given = {ref.operator for refs in self.outputs for ref in refs}
        return dataclasses.replace(self, graph=mark_unread(self.graph, False, given))
