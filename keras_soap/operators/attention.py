"""Attention of queries over keys and values: batch (S), queries and heads (A) are split.

Every query looks at all keys, so keys and values are read whole, but for other samples.
"""

from typing import Any

import numpy as np

from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions, volume, whole
from keras_soap.operators.constants import with_cut_constants
from keras_soap.operators.rule import (
    Dimension,
    Part,
    PartCall,
    PartResult,
    Rule,
    axis_dimensions,
)


class Attention(Rule):
    """Attention and AdditiveAttention.

    Inputs: queries (batch, length, units), values and, perhaps, keys (batch, others, units).
    """

    kind = "attention"
    layers = ("Attention", "AdditiveAttention")

    def refuses(self, attributes, inputs, output):
        if attributes.get("dropout"):
            return "its dropout draws one mask for all queries"
        if any(argument is True or argument == "True" for argument in attributes.get("call", ())):
            return "a causal mask says where queries stand, which parts do not know"
        if len(inputs) not in (2, 3) or not all(
            len(spec.shape) == 3 and spec.is_floating for spec in inputs
        ):
            return "it has inputs that are neither queries, values nor keys"
        return None

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        return axis_dimensions(operator, ("sample", "length", "units"), skip=(-1,))

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        result = [whole(len(regions), spec.shape) for spec in operator.input_specs]
        for region in result:
            region[:, 0] = regions[:, 0]
        result[0][:, 1] = regions[:, 1]
        return result

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        samples, queries, _ = (regions[..., 1] - regions[..., 0]).T
        _, others, units = operator.input_specs[1].shape
        # A product with every key, ten for its exponential, and one with every value. Where scores
        # are added, not multiplied, a hyperbolic tangent is about ten, too.
        each = operator.input_specs[0].shape[2] * (5 if operator.weight_specs else 1) + units
        return 2.0 * samples * queries * others * (each + 5)


class DotProductAttention(Rule):
    """The operation DotProductAttention: what MultiHeadAttention does between its projections.

    Inputs: queries (batch, length, heads, units), keys and values (batch, others, heads, units);
    and perhaps a bias and a mask that broadcast to scores (batch, heads, length, others).
    """

    kind = "dot_product_attention"
    layers = ("DotProductAttention",)

    takes_arrays = True

    def refuses(self, attributes, inputs, output):
        if any(operand and operand[0] == "array" for operand in attributes["operands"][:3]):
            return "it has constants for queries, keys or values"
        return None

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        return axis_dimensions(operator, ("sample", "length", "heads", "units"), skip=(3,))

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        result = []
        places = [p for p, o in enumerate(operator.attributes["operands"]) if o and o[0] == "input"]
        for place, spec in zip(places, operator.input_specs, strict=True):
            region = whole(len(regions), spec.shape)
            if place < 3:
                region[:, 0] = regions[:, 0]
                if spec.shape[2] == operator.output.shape[2]:
                    region[:, 2] = regions[:, 2]
                if place == 0:
                    region[:, 1] = regions[:, 1]
            else:
                region = _of_scores(spec.shape, regions)
            result.append(region)
        return result

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        # As above: products with every key and value, and ten for an exponential of each score.
        _, others, _, units = operator.input_specs[1].shape
        return 4.0 * volume(regions) * others * (1 + 2.5 / units)

    def compute(self, call: PartCall) -> PartResult:
        call = with_cut_constants(call, _cut_of_scores)
        start, stop = call.part.output[1]
        if not call.layer.is_causal or (start, stop) == (0, call.part.operator.output.shape[1]):
            return super().compute(call)
        return PartResult((_causal(call, start),))


def _causal(call: PartCall, first: int) -> Any:
    """Attention of queries from number `first` on to the keys before each, and its own."""
    from keras import ops

    args, kwargs = call.arguments(call.inputs)
    names = ("query", "key", "value", "bias", "mask", "scale")
    given: dict[str, Any] = {**dict(zip(names, args, strict=False)), **kwargs}
    queries, keys = (range(given[name].shape[1]) for name in ("query", "key"))
    mask: Any = np.array(queries)[:, None] + first >= np.array(keys)
    if given.get("mask") is not None:
        mask = ops.logical_and(mask, given["mask"])
    given["mask"] = mask[None, None] if len(mask.shape) == 2 else mask
    layer = call.layer
    return ops.dot_product_attention(
        **given,
        flash_attention=layer.flash_attention,
        attn_logits_soft_cap=layer.attn_logits_soft_cap,
    )


def _of_scores(shape: tuple[int, ...], regions: Regions) -> Regions:
    """What parts read of a mask or bias of `shape`, which broadcasts to the scores."""
    result = whole(len(regions), shape)
    for axis, of_output in enumerate((0, 2, 1)):
        at = len(shape) - 4 + axis
        if at >= 0 and shape[at] > 1:
            result[:, at] = regions[:, of_output]
    return result


def _cut_of_scores(constant: Any, part: Part) -> Any:
    (region,) = _of_scores(tuple(constant.shape), np.array([part.output], np.int64)).tolist()
    return constant[tuple(slice(*range_) for range_ in region)]
