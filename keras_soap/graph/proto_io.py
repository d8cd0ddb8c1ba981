"""Operator graphs to and from `protos/operator_graph.proto`."""

import json
import os

from keras_soap.errors import CaptureError
from keras_soap.graph.operator_graph import (
    Operator,
    OperatorGraph,
    TensorRef,
    TensorSpec,
    WeightSpec,
)
from keras_soap.proto import files
from keras_soap.proto import operator_graph_pb2 as pb


def load(path: str | os.PathLike[str]) -> OperatorGraph:
    """The operator graph in a file: text, or binary if its name ends in `.pb`.

    Raises:
        CaptureError: Where the file cannot be read or its operators do not fit each other.
    """
    message = files.read(path, pb.OperatorGraph, CaptureError)
    try:
        return from_proto(message)
    except CaptureError as error:
        raise CaptureError(f"{path}: {error}") from error


def save(path: str | os.PathLike[str], graph: OperatorGraph) -> None:
    """Writes an operator graph to a file: text, or binary if its name ends in `.pb`."""
    files.write(path, to_proto(graph))


def to_proto(graph: OperatorGraph) -> pb.OperatorGraph:
    """The message that says the same as `graph`."""
    return pb.OperatorGraph(
        schema_version=files.SCHEMA_VERSION,
        name=graph.name,
        batch_size=graph.batch_size,
        operators=[
            pb.Operator(
                name=operator.name,
                kind=operator.kind,
                layer=operator.layer,
                inputs=[
                    pb.TensorRef(operator_index=ref.operator, output_index=ref.output)
                    for ref in operator.inputs
                ],
                outputs=[
                    pb.TensorSpec(shape=spec.shape, dtype=spec.dtype)
                    for spec in operator.output_specs
                ],
                weights=operator.weights,
                attributes_json=json.dumps(dict(operator.attributes), sort_keys=True)
                if operator.attributes
                else "",
            )
            for operator in graph.operators
        ],
        weights=[
            pb.WeightSpec(
                name=weight.name,
                layer=weight.layer,
                shape=weight.shape,
                dtype=weight.dtype,
                trainable=weight.trainable,
            )
            for weight in graph.weights
        ],
        fingerprint=graph.fingerprint,
    )


def from_proto(message: pb.OperatorGraph) -> OperatorGraph:
    """The operator graph that `message` says.

    Raises:
        CaptureError: Where an index names nothing, attributes are no JSON object, or the
            fingerprint is not that of the operators.
    """
    weights = tuple(
        WeightSpec(w.name, w.layer, tuple(w.shape), w.dtype, w.trainable) for w in message.weights
    )
    operators: list[Operator] = []
    for operator in message.operators:
        operators.append(_operator(operator, operators, weights))
    graph = OperatorGraph(message.name, message.batch_size, tuple(operators), weights)
    if message.fingerprint not in ("", graph.fingerprint):
        raise CaptureError(
            f"The graph's fingerprint is {graph.fingerprint}, but the file says "
            f"{message.fingerprint}. If the file was edited on purpose, delete that line."
        )
    return graph


def _operator(
    message: pb.Operator, earlier: list[Operator], weights: tuple[WeightSpec, ...]
) -> Operator:
    try:
        attributes = json.loads(message.attributes_json or "{}")
    except json.JSONDecodeError as error:
        raise CaptureError(
            f"attributes_json of operator {message.name!r} is not JSON: {error}."
        ) from error
    if not isinstance(attributes, dict):
        raise CaptureError(
            f"attributes_json of operator {message.name!r} is {message.attributes_json}. Make it "
            "an object, such as {}."
        )
    specs = []
    for ref in message.inputs:
        if not 0 <= ref.operator_index < len(earlier):
            raise CaptureError(
                f"Operator {message.name!r} (number {len(earlier)}) reads operator number "
                f"{ref.operator_index}. List operators so that each reads earlier ones only."
            )
        producer = earlier[ref.operator_index]
        if not 0 <= ref.output_index < len(producer.output_specs):
            raise CaptureError(
                f"Operator {message.name!r} reads output {ref.output_index} of {producer.name!r}, "
                f"which has {len(producer.output_specs)}."
            )
        specs.append(producer.output_specs[ref.output_index])
    for weight in message.weights:
        if not 0 <= weight < len(weights):
            raise CaptureError(
                f"Operator {message.name!r} reads weight {weight}, but the graph has "
                f"{len(weights)} weights."
            )
    if not message.outputs:
        raise CaptureError(f"Operator {message.name!r} has no outputs. Give it at least one.")
    return Operator(
        message.name,
        message.kind,
        message.layer,
        tuple(TensorRef(ref.operator_index, ref.output_index) for ref in message.inputs),
        tuple(specs),
        tuple(TensorSpec(tuple(spec.shape), spec.dtype) for spec in message.outputs),
        tuple(message.weights),
        tuple(weights[weight] for weight in message.weights),
        attributes,
    )
