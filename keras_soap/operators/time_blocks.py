"""What cuts tensors for layers that are opened in time; their blocks are in `handed_weights`."""

import numpy as np

from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions
from keras_soap.operators.rule import PartCall, PartResult, Rule


class Steps(Rule):
    """Some steps of a tensor: a view of it, from `"start"` on along axis 1."""

    kind = "steps"
    free = True

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        result = regions.copy()
        result[:, 1] += operator.attributes["start"]
        return [result]

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return np.zeros(len(regions))

    def compute(self, call: PartCall) -> PartResult:
        return PartResult(tuple(call.inputs))
