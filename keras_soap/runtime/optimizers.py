"""The user's own Keras optimizer, once per device, on that device's shards.

Each device has a clone of the optimizer, built on the shards there; its slot variables are the
shards of DVariables laid out like their weights. So the update is Keras's own, unmodified.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_soap.errors import ExecutionError
from keras_soap.runtime.pieces import Region
from keras_soap.runtime.shards import ShardedVariable, ShardStore

ELEMENTWISE = frozenset(
    ["SGD", "Adam", "AdamW", "Adamax", "Nadam", "RMSprop", "Adagrad", "Adadelta", "Ftrl", "Lion"]
)
"""Optimizers whose update of an element depends on that element alone, so that shards of a weight
can be updated apart."""


def check_optimizer(optimizer: Any, store: ShardStore, weights: Sequence[keras.Variable]) -> None:
    """Raises `ExecutionError` where sharded updates would not be the optimizer's own."""
    name = type(optimizer).__name__
    if not isinstance(optimizer, keras.optimizers.Optimizer) or name == "LossScaleOptimizer":
        raise ExecutionError(
            f"Cannot run optimizer {name} under a strategy. Use one of "
            f"{', '.join(sorted(ELEMENTWISE))}, and a float32 or bfloat16 policy."
        )
    for field in ("clipnorm", "global_clipnorm"):
        if getattr(optimizer, field, None):
            raise ExecutionError(
                f"Optimizer {name} has {field}={getattr(optimizer, field)}: norms over sharded "
                "weights are not supported yet. Use clipvalue, or none."
            )
    for weight in weights:
        sharded = store[weight]
        if len(set(sharded.regions)) == 1 and sharded.view == tuple(weight.shape):
            continue
        if name not in ELEMENTWISE:
            raise ExecutionError(
                f"Optimizer {name} updates a weight as a whole, but the strategy splits "
                f"{weight.path}. Search with dims='SOA', or use one of "
                f"{', '.join(sorted(ELEMENTWISE))}."
            )
        if weight.constraint is not None:
            raise ExecutionError(
                f"{weight.path} has the constraint {weight.constraint}, but the strategy splits "
                "it. Search with dims='SOA', or drop the constraint."
            )


class ShardedOptimizer:
    """The user's optimizer over sharded weights.

    Args:
        optimizer: The user's; built on `weights`.
        weights: The model's trainable variables, in Keras's order.
        store: Where the weights are, and where slot variables go.
        everywhere: Makes a replicated `ShardedVariable` on all devices that hold any weight.
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        weights: Sequence[keras.Variable],
        store: ShardStore,
        everywhere: Any,
    ):
        self.optimizer = optimizer
        self.weights = [weight for weight in weights if weight in store]
        check_optimizer(optimizer, store, self.weights)
        slots = _slots(optimizer, weights)
        numbers = {id(weight): number for number, weight in enumerate(weights)}
        self.devices: list[str] = []
        by_slot: dict[tuple[int, int], ShardedVariable] = {}
        shared: list[ShardedVariable] = []
        for variable, slot in zip(optimizer.variables, slots, strict=True):
            if slot is None:
                shared.append(store.add(everywhere(variable)))
            elif weights[slot[0]] in store:
                by_slot[slot] = store.add(_like(variable, store[weights[slot[0]]]))
        for weight in self.weights:
            self.devices += [d for d in store[weight].devices if d not in self.devices]
        self._clones: dict[str, keras.optimizers.Optimizer] = {}
        self._shards: dict[str, list[keras.Variable]] = {}
        for device in self.devices:
            here = [weight for weight in self.weights if device in store[weight].devices]
            shards = [store[weight].on(device) for weight in here]
            slot_shards = {
                (position, order): by_slot[numbers[id(weight)], order].on(device)
                for position, weight in enumerate(here)
                for order in range(sum(n == numbers[id(weight)] for n, _ in by_slot))
            }
            self._shards[device] = shards
            with tf.device(device):
                self._clones[device] = _clone(
                    optimizer, shards, slot_shards, [s.on(device) for s in shared]
                )
        self._here = {
            device: [weight for weight in self.weights if device in store[weight].devices]
            for device in self.devices
        }

    def apply(self, gradients: dict[int, dict[str, Any]]) -> None:
        """Updates all shards.

        Args:
            gradients: By `id` of the weight and device, summed; a missing one counts as None.
        """
        for device in self.devices:
            found = [gradients.get(id(w), {}).get(device) for w in self._here[device]]
            with tf.device(device):
                self._clones[device].apply(found, self._shards[device])


def _slots(
    optimizer: keras.optimizers.Optimizer, weights: Sequence[keras.Variable]
) -> list[tuple[int, int] | None]:
    """For each variable of the optimizer (number of its weight, order among its slots), or None.

    Found out by building a clone that notes what it asks for.
    """
    probe = type(optimizer).from_config(optimizer.get_config())
    made: dict[int, tuple[int, int]] = {}
    numbers = {id(weight): number for number, weight in enumerate(weights)}
    counts = [0] * len(weights)

    def note(reference: Any, name: Any = None, initializer: Any = "zeros") -> keras.Variable:
        variable = probe.add_variable(shape=(), dtype=reference.dtype, name=name)
        number = numbers[id(reference)]
        made[id(variable)] = (number, counts[number])
        counts[number] += 1
        return variable

    probe.add_variable_from_reference = note
    probe.build(list(weights))
    if len(probe.variables) != len(optimizer.variables):
        raise ExecutionError(
            f"Optimizer {type(optimizer).__name__} holds {len(optimizer.variables)} variables, a "
            f"clone of it {len(probe.variables)}. Compile the model anew with a fresh optimizer."
        )
    return [made.get(id(variable)) for variable in probe.variables]


def _clone(
    optimizer: keras.optimizers.Optimizer,
    shards: Sequence[keras.Variable],
    slots: dict[tuple[int, int], keras.Variable],
    shared: Sequence[keras.Variable],
) -> keras.optimizers.Optimizer:
    clone = type(optimizer).from_config(optimizer.get_config())
    positions = {id(shard): position for position, shard in enumerate(shards)}
    counts = [0] * len(shards)

    def take(reference: Any, name: Any = None, initializer: Any = "zeros") -> keras.Variable:
        position = positions[id(reference)]
        variable = slots[position, counts[position]]
        counts[position] += 1
        clone._track_variable(variable)
        return variable

    clone.add_variable_from_reference = take
    clone.build(list(shards))
    own = [v for v in clone.variables if not any(v is slot for slot in slots.values())]
    for variable, value in zip(own, shared, strict=True):
        variable._value = value._value
    return clone


def _like(variable: keras.Variable, weight: ShardedVariable) -> ShardedVariable:
    """A slot variable laid out like its weight, or whole where it has another shape."""
    if tuple(variable.shape) == tuple(weight.variable.shape):
        return ShardedVariable(variable, weight.layout, weight.devices, weight.regions)
    from tensorflow.experimental import dtensor

    whole: Region = tuple((0, int(size)) for size in variable.shape)
    layout = dtensor.Layout.replicated(weight.layout.mesh, rank=len(whole))
    return ShardedVariable(variable, layout, weight.devices, [whole] * len(weight.devices))
