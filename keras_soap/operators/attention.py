"""Attention of queries over keys and values: batch (S) and queries (A) are split.

Every query looks at all keys, so keys and values are read whole, but for other samples.
"""

import numpy as np

from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions, whole
from keras_soap.operators.rule import Dimension, Rule, axis_dimensions


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
