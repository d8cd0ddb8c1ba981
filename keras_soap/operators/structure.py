"""Operators that are not layers: inputs and targets of the model."""

from keras_soap.operators.rule import Rule


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
