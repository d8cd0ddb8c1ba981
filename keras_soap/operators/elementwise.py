"""Operators that work element by element: the batch (S) and every other axis (A) are split."""

from typing import Any

import numpy as np

from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions, broadcast_regions, volume
from keras_soap.operators.activations import unknown_activation, unsplit_axes
from keras_soap.operators.constants import cut_broadcast, with_cut_constants
from keras_soap.operators.rule import (
    Dimension,
    DimensionKind,
    Part,
    PartCall,
    PartResult,
    Rule,
    axis_dimensions,
    default_names,
)
from keras_soap.operators.softmax import OverAxis

_OPERATIONS = (  # noqa: SIM905
    # keras.ops.numpy, of one tensor
    "Absolute Abs Fabs Negative Reciprocal Square Sqrt Cbrt Exp Exp2 Expm1 Log Log10 Log1p Log2 "
    "Sin Cos Tan Sinh Cosh Tanh Arcsin Arccos Arctan Arcsinh Arccosh Arctanh Sinc Deg2rad Rad2deg "
    "Sign Signbit Ceil Floor Trunc Round Clip Copy NanToNum OnesLike ZerosLike LogicalNot "
    "BitwiseNot BitwiseInvert Isfinite Isinf Isnan Isneginf Isposinf "
    # of several
    "Divide DivideNoNan TrueDivide FloorDivide Mod Fmod Power Hypot Arctan2 Logaddexp Logaddexp2 "
    "Fmax Fmin Heaviside Equal NotEqual Greater GreaterEqual Less LessEqual Isclose LogicalAnd "
    "LogicalOr LogicalXor BitwiseAnd BitwiseOr BitwiseXor Where "
    # keras.ops.nn
    "Relu Relu6 Sigmoid SparseSigmoid Softplus Softsign SoftShrink SparsePlus Silu Squareplus "
    "LogSigmoid LeakyRelu HardSigmoid HardSilu Elu Selu Gelu Celu TanhShrink HardTanh HardShrink "
    "Threshold "
    # keras.ops.math and core
    "Rsqrt Erf Erfc Erfinv Cast ConvertToTensor StopGradient"
).split()


class Elementwise(Rule):
    """Layers without weights, and operations of `keras.ops`, broadcasting as NumPy does."""

    kind = "elementwise"
    layers = ("ReLU", "LeakyReLU", "ELU", *_OPERATIONS)
    takes_weights = True
    takes_arrays = True

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        """An axis along which weights are split is a parameter."""
        rank = len(operator.output.shape)
        made_of_weights = operator.attributes.get("weight_inputs", ())
        split = {
            rank - len(spec.shape) + axis
            for spec in (
                *operator.weight_specs,
                *(operator.input_specs[number] for number in made_of_weights),
            )
            for axis, size in enumerate(spec.shape)
            if size > 1
        }
        kinds = {
            name: DimensionKind.PARAMETER
            for axis, name in enumerate(default_names(rank))
            if axis in split
        }
        return axis_dimensions(operator, kinds=kinds)

    def weight_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        return [broadcast_regions(regions, spec.shape) for spec in operator.weight_specs]

    def compute(self, call: PartCall) -> PartResult:
        return super().compute(self.cut(call))

    def cut(self, call: PartCall) -> PartCall:
        """The call with its constants cut to the part."""
        return with_cut_constants(call, cut_broadcast)


class Identity(Rule):
    """Identity and what only adds to the loss: a view of its input."""

    kind = "identity"
    layers = ("Identity", "ActivityRegularization")
    free = True

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return np.zeros(len(regions))

    def compute(self, call: PartCall) -> PartResult:
        return PartResult(tuple(call.inputs))


class Activation(OverAxis):
    """Activation layers; what others than a softmax normalize over stays whole."""

    kind = "activation"
    layers = ("Activation",)

    def refuses(self, attributes, inputs, output):
        return unknown_activation(attributes)

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        whole = () if self.axis(operator) is not None else unsplit_axes(operator.attributes)
        return axis_dimensions(operator, skip=whole)

    def axis(self, operator: Operator) -> int | None:
        is_softmax = operator.attributes.get("activation") in ("softmax", "log_softmax")
        return len(operator.output.shape) - 1 if is_softmax else None

    def is_log(self, operator: Operator) -> bool:
        return operator.attributes["activation"] == "log_softmax"


class PReLU(Rule):
    """PReLU: its slopes are cut as its input is, but for the axes that share them."""

    kind = "prelu"
    layers = ("PReLU",)

    def weight_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        return [broadcast_regions(regions, spec.shape) for spec in operator.weight_specs]

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return 4.0 * volume(regions)

    def shrink(self, part: Part) -> dict[str, Any]:
        return {"shared_axes": part.operator.attributes.get("shared_axes")}


class Rescaling(Rule):
    """Rescaling by numbers."""

    kind = "rescaling"
    layers = ("Rescaling",)

    def refuses(self, attributes, inputs, output):
        if not all(isinstance(attributes.get(x), (int, float)) for x in ("scale", "offset")):
            return "its scale or offset is an array"
        return None

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return 2.0 * volume(regions)


class Normalization(Rule):
    """Normalization by constants, which the layer holds ready in a shape that broadcasts."""

    kind = "constant_normalization"
    layers = ("Normalization",)

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return 2.0 * volume(regions)

    def compute(self, call: PartCall) -> PartResult:
        from keras import config, ops

        layer, (tensor,) = call.layer, call.inputs
        tensor = ops.cast(tensor, layer.compute_dtype)
        mean, variance = (
            cut_broadcast(layer.mean, call.part),
            cut_broadcast(layer.variance, call.part),
        )
        deviation = ops.maximum(ops.sqrt(variance), config.epsilon())
        if layer.invert:
            return PartResult((mean + ops.multiply(tensor, deviation),))
        return PartResult((ops.divide(ops.subtract(tensor, mean), deviation),))
