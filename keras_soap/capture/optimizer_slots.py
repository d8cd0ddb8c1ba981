"""The variables that an optimizer keeps beside weights: moments, averages, accumulated gradients.

Found out by building a clone of the optimizer that notes what it asks for: so what `use_ema` or
`gradient_accumulation_steps` adds counts, too.
"""

from collections.abc import Sequence
from typing import Any

import keras

OWN_VARIABLES = frozenset(["Adafactor", "ScheduleFreeAdamW", "MultiOptimizer"])
"""Optimizers with variables that are not slots beside a weight, or start from its value."""


def inner(optimizer: Any) -> Any:
    """The optimizer that updates weights: the one in a `LossScaleOptimizer`, or itself."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer.inner_optimizer
    return optimizer


def slots_of(
    optimizer: keras.optimizers.Optimizer, weights: Sequence[keras.Variable]
) -> list[tuple[int, int] | None]:
    """For each variable of the optimizer (number of its weight, order among its slots), or None."""
    probe = type(optimizer).from_config(optimizer.get_config())
    updating = inner(probe)
    made: dict[int, tuple[int, int]] = {}
    numbers = {id(weight): number for number, weight in enumerate(weights)}
    counts = [0] * len(weights)

    # Keras's optimizers call it with these keywords.
    def note(
        reference_variable: Any, name: Any = None, initializer: Any = "zeros"
    ) -> keras.Variable:
        # Scalars do, and take no memory, but where they are given the value of a weight.
        shape = reference_variable.shape if type(updating).__name__ in OWN_VARIABLES else ()
        variable = updating.add_variable(shape=shape, dtype=reference_variable.dtype, name=name)
        number = numbers[id(reference_variable)]
        made[id(variable)] = (number, counts[number])
        counts[number] += 1
        return variable

    updating.add_variable_from_reference = note
    probe.build(list(weights))
    return [made.get(id(variable)) for variable in probe.variables]


def num_slots(model: keras.Model) -> int:
    """How many variables the optimizer of a compiled model keeps beside each weight.

    Where that differs, as with Muon, it is what it keeps beside those with the most.
    """
    slots = slots_of(model.optimizer, model.trainable_variables)
    return max((1 + slot for _, slot in filter(None, slots)), default=0)
