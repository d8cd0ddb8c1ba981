"""Sums of products over shared axes: einsum, matmul, EinsumDense, Dot.

Every axis of an operand and of the output has a label. A part reads of an operand the ranges of the
labels that its output has, and all of the labels that are summed over. Axes along which a weight is
split are parameters: heads and units of a projection.
"""

import abc
import dataclasses
import math
import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_soap.graph.operator_graph import Operator, TensorSpec
from keras_soap.graph.region import Regions, broadcast_regions, volume, whole
from keras_soap.operators.activations import unknown_activation, unsplit_axes
from keras_soap.operators.bias import UNKNOWN, is_misread
from keras_soap.operators.rule import (
    Dimension,
    DimensionKind,
    Part,
    PartCall,
    PartResult,
    Rule,
    axis_dimensions,
)

Labels = tuple[str, ...]


class Contraction(Rule, abc.ABC):
    """What these rules share: all follows from the labels."""

    takes_weights = True

    @abc.abstractmethod
    def labels(self, operator: Operator) -> tuple[list[Labels], list[Labels], Labels]:
        """Of the axes of each input, of each weight that is a factor, and of the output."""

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        inputs, weights, output = self.labels(operator)
        made_of_weights = [inputs[n] for n in operator.attributes.get("weight_inputs", ())]
        of_weights = {label for labels in (*weights, *made_of_weights) for label in labels}
        parameters = [axis for axis, label in enumerate(output) if axis and label in of_weights]
        names = axis_names(len(output), parameters)
        kinds = {names[axis]: DimensionKind.PARAMETER for axis in parameters}
        return axis_dimensions(operator, names, kinds, skip=unsplit_axes(operator.attributes))

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        inputs, _, output = self.labels(operator)
        shapes = [spec.shape for spec in operator.input_specs]
        return [_regions(*pair, output, regions) for pair in zip(inputs, shapes, strict=True)]

    def weight_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        _, weights, output = self.labels(operator)
        shapes = [spec.shape for spec in operator.weight_specs]
        result = [_regions(*pair, output, regions) for pair in zip(weights, shapes, strict=False)]
        return result + [broadcast_regions(regions, shape) for shape in shapes[len(weights) :]]

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        inputs, weights, output = self.labels(operator)
        sizes: dict[str, int] = {}
        for labels, spec in zip(
            (*inputs, *weights), (*operator.input_specs, *operator.weight_specs), strict=False
        ):
            for label, size in zip(labels, spec.shape, strict=True):
                sizes[label] = max(size, sizes.get(label, 1))
        summed = math.prod(size for label, size in sizes.items() if label not in output)
        return 2.0 * summed * volume(regions)


class EinsumDense(Contraction):
    """EinsumDense: `output = activation(einsum(equation, input, kernel) + bias)`."""

    kind = "einsum_dense"
    layers = ("EinsumDense",)

    def refuses(self, attributes, inputs, output):
        if attributes.get("lora_rank") or attributes.get("quantization_config"):
            return "LoRA and quantized layers have other weights"
        bias = self._bias_shape(attributes, output)
        if bias and is_misread((UNKNOWN, *output.shape[1:]), bias):
            return "Keras adds its bias along another axis than it is for, of the same size"
        return unknown_activation(attributes)

    def _bias_shape(self, attributes: Mapping[str, Any], output: TensorSpec) -> list[int]:
        axes = attributes["bias_axes"]
        if not axes:
            return []
        term = attributes["equation"].replace(" ", "").partition("->")[2]
        _, labels = einsum_labels(f"{term}->{term}", [output.shape])
        first = min(map(labels.index, axes))
        sizes = zip(labels[first:], output.shape[first:], strict=True)
        return [size if label in axes else 1 for label, size in sizes]

    def labels(self, operator: Operator) -> tuple[list[Labels], list[Labels], Labels]:
        shapes = [operator.input_specs[0].shape, operator.weight_specs[0].shape]
        (given, kernel), output = einsum_labels(operator.attributes["equation"], shapes)
        return [given], [kernel], output

    def shrink(self, part: Part) -> dict[str, Any]:
        attributes = part.operator.attributes
        output = attributes["equation"].replace(" ", "").partition("->")[2]
        sizes = [stop - start for start, stop in part.output]
        # As Keras reads it: of the axes that the equation names, the first after an ellipsis too.
        if output.startswith("..."):
            named = sizes[len(sizes) - len(output) + 3 :]
        else:
            named = sizes[1 : len(output.replace("...", ""))]
        wanted = attributes["output_shape"]
        wanted = wanted if isinstance(wanted, list) else [wanted]
        return {
            "output_shape": [
                None if old is None else size for old, size in zip(wanted, named, strict=True)
            ]
        }

    def compute(self, call: PartCall) -> PartResult:
        sizes = [stop - start for start, stop in call.part.output]
        kernel, *biases = call.weights
        if not any(is_misread(sizes, bias.shape) for bias in biases):
            return super().compute(call)
        from keras import ops

        from keras_soap.operators import computation

        bare = self.shrink(call.part) | {"bias_axes": None, "activation": None}
        product = dataclasses.replace(call, weights=(kernel,))
        (made,) = computation.call_shrunk(product, bare, call.inputs).outputs
        for bias in biases:
            made += ops.broadcast_to(ops.cast(bias, made.dtype), sizes)
        return PartResult((call.layer.activation(made),))


class _Operation(Contraction):
    """Operations of `keras.ops`, of tensors and weights in any order."""

    @abc.abstractmethod
    def equation(self, operator: Operator, ranks: Sequence[int]) -> str:
        """The equation of factors of these ranks."""

    def labels(self, operator: Operator) -> tuple[list[Labels], list[Labels], Labels]:
        operands = [operand[:2] for operand in operator.attributes["operands"] if operand]
        shapes = [
            (operator.input_specs if kind == "input" else operator.weight_specs)[number].shape
            for kind, number in operands
        ]
        factors, output = einsum_labels(self.equation(operator, list(map(len, shapes))), shapes)
        inputs: dict[int, Labels] = {}
        weights: dict[int, Labels] = {}
        for (kind, number), labels in zip(operands, factors, strict=True):
            (inputs if kind == "input" else weights)[number] = labels
        return [inputs[n] for n in sorted(inputs)], [weights[n] for n in sorted(weights)], output


class Einsum(_Operation):
    """The operation Einsum."""

    kind = "einsum"
    layers = ("Einsum",)

    def refuses(self, attributes, inputs, output):
        equation = attributes.get("subscripts")
        if not isinstance(equation, str) or "->" not in equation:
            return "its equation does not say what its output is"
        terms = equation.replace(" ", "").replace("...", "").replace("->", ",").split(",")
        if any(len(set(term)) < len(term) for term in terms):
            return "it takes a diagonal"
        return None

    def equation(self, operator: Operator, ranks: Sequence[int]) -> str:
        return operator.attributes["subscripts"]


class Matmul(_Operation):
    """The operation Matmul."""

    kind = "matmul"
    layers = ("Matmul",)

    def equation(self, operator: Operator, ranks: Sequence[int]) -> str:
        left = "y" if ranks[0] == 1 else "...xy"
        right = "y" if ranks[1] == 1 else "...yz"
        rows, columns = "x" * (ranks[0] > 1), "z" * (ranks[1] > 1)
        return f"{left},{right}->...{rows}{columns}"


class Dot(Contraction):
    """The layer Dot: one axis of each of two tensors is summed over, for each sample."""

    kind = "dot"
    layers = ("Dot",)
    takes_weights = False

    def refuses(self, attributes, inputs, output):
        if "trainable" not in attributes:
            return "it is the operation of that name"
        if 0 in self._axes(attributes, inputs):
            return "it sums over samples"
        return None

    def labels(self, operator: Operator) -> tuple[list[Labels], list[Labels], Labels]:
        names = iter(string.ascii_letters)
        sample, summed = next(names), next(names)
        factors = []
        for spec, axis in zip(
            operator.input_specs,
            self._axes(operator.attributes, operator.input_specs),
            strict=True,
        ):
            rest = [next(names) for _ in spec.shape[2:]]
            factors.append((sample, *rest[: axis - 1], summed, *rest[axis - 1 :]))
        rest = [label for labels in factors for label in labels if label not in (sample, summed)]
        return factors, [], (sample, *(rest or [next(names)]))

    def _axes(self, attributes: Any, inputs: Sequence[TensorSpec]) -> list[int]:
        axes = attributes["axes"]
        axes = axes if isinstance(axes, list) else [axes] * 2
        return [axis % len(spec.shape) for axis, spec in zip(axes, inputs, strict=True)]


def axis_names(rank: int, parameters: Sequence[int] = ()) -> tuple[str, ...]:
    """Names of axes of which those in `parameters` are heads or units."""
    names = ["sample", *(f"axis_{axis}" for axis in range(1, rank))][:rank]
    others = [axis for axis in range(1, rank) if axis not in parameters]
    if len(others) == 1:
        names[others[0]] = "length"
    for axis, name in zip(reversed(parameters), ("units", "heads"), strict=False):
        names[axis] = name
    return tuple(names)


def einsum_labels(equation: str, shapes: Sequence[Sequence[int]]) -> tuple[list[Labels], Labels]:
    """Labels of the axes of all factors, and of the output; an ellipsis gets labels of its own."""
    left, _, output = equation.replace(" ", "").partition("->")
    most = 0
    factors = []
    for term, shape in zip(left.split(","), shapes, strict=True):
        elided = len(shape) - len(term.replace("...", "")) if "..." in term else 0
        most = max(most, elided)
        factors.append(_labels(term, elided))
    return factors, _labels(output, most)


def _labels(term: str, elided: int) -> Labels:
    before, dots, after = term.partition("...")
    # Counted from the end, where axes align.
    between = [f"...{n}" for n in reversed(range(elided))] if dots else []
    return (*before, *between, *after)


def _regions(labels: Labels, shape: Sequence[int], output: Labels, regions: Regions) -> Regions:
    result = whole(len(regions), shape)
    for axis, (label, size) in enumerate(zip(labels, shape, strict=True)):
        # An axis of size 1 is repeated along the output's.
        if label in output and size > 1:
            result[:, axis] = regions[:, output.index(label)]
    return result
