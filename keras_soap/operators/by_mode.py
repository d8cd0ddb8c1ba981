"""What is one thing in training and another in inference, as after a branch on `training`."""

from collections.abc import Sequence

import numpy as np

from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions
from keras_soap.graph.unread import BY_MODE, READS
from keras_soap.operators.rule import PartCall, PartResult, Rule


class ByMode(Rule):
    """Its first input in training, its second in inference (`capture.modes.ByMode`).

    In the graph of a step only that one is read. It is handed on as it is, so this takes no time.
    """

    kind = BY_MODE
    layers = ("ByMode",)
    free = True

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        return super().flops(operator, regions) * 0

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        read = operator.attributes.get(READS)
        return [
            regions if read in (None, number) else np.zeros_like(regions)
            for number in range(len(operator.inputs))
        ]

    def made_outputs(self, operator: Operator) -> Sequence[int]:
        return ()

    def compute(self, call: PartCall) -> PartResult:
        import tensorflow as tf

        return PartResult((tf.identity(call.inputs[0 if call.training else 1]),))
