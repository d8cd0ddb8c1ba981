"""Operators that are not layers: inputs and targets of the model."""

from keras_soap.graph.region import volume, whole
from keras_soap.operators.rule import PartResult, Rule


class Input(Rule):
    """A tensor that every step brings anew: model inputs, targets, sample weights.

    Parts are placed on their devices ahead of the step, so they take no time.
    """

    kind = "input"
    free = True

    def flops(self, operator, regions):
        return super().flops(operator, regions) * 0

    def input_regions(self, operator, regions):
        return []


class Loss(Rule):
    """Unreduced values of a loss: any axis that it does not reduce over can be split.

    Inputs (prediction, target, sample weights) have the axes of the values first; axes after
    those are reduced over, and read whole.
    """

    kind = "loss"

    def input_regions(self, operator, regions):
        result = []
        for spec in operator.input_specs:
            region = whole(len(regions), spec.shape)
            for axis in range(min(regions.shape[1], len(spec.shape))):
                if spec.shape[axis] == operator.output.shape[axis]:
                    region[:, axis] = regions[:, axis]
            result.append(region)
        return result

    def flops(self, operator, regions):
        # Exponentials and logarithms of a softmax cross-entropy: about ten operations an element.
        return 10.0 * volume(self.input_regions(operator, regions)[0])

    def compute(self, call):
        return PartResult((call.layer.partial(call.inputs),))
