"""The user's own Keras optimizer, once per device, on that device's shards.

Each device has a clone of the optimizer, built on the shards there; its slot variables are the
shards of DVariables laid out like their weights. So the update is Keras's own, unmodified.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_soap.capture.optimizer_slots import OWN_VARIABLES, inner, slots_of
from keras_soap.errors import ExecutionError
from keras_soap.runtime import clipping, collectives
from keras_soap.runtime.exchange import is_here, move, on
from keras_soap.runtime.pieces import Region
from keras_soap.runtime.shards import ShardedVariable, ShardStore
from keras_soap.tasks.task_graph import TaskKind
from keras_soap.tasks.task_names import TaskName

ELEMENTWISE = frozenset(
    ["SGD", "Adam", "AdamW", "Adamax", "Nadam", "RMSprop", "Adagrad", "Adadelta", "Ftrl", "Lion"]
)
"""Optimizers whose update of an element depends on that element alone, so that shards of a weight
can be updated apart."""


def check_optimizer(optimizer: Any, store: ShardStore, weights: Sequence[keras.Variable]) -> None:
    """Raises `ExecutionError` where sharded updates would not be the optimizer's own."""
    name = type(inner(optimizer)).__name__
    if not isinstance(optimizer, keras.optimizers.Optimizer) or name in OWN_VARIABLES:
        raise ExecutionError(
            f"Cannot run optimizer {name} under a strategy. Use one of "
            f"{', '.join(sorted(ELEMENTWISE))}."
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
        device_names: Of the topology's devices, in the order of their numbers.
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        weights: Sequence[keras.Variable],
        store: ShardStore,
        everywhere: Any,
        device_names: Sequence[str],
    ):
        self.optimizer = optimizer
        self.store = store
        self.device_names = device_names
        self.weights = [weight for weight in weights if weight in store]
        check_optimizer(optimizer, store, self.weights)
        slots = slots_of(optimizer, weights)
        if len(slots) != len(optimizer.variables):
            raise ExecutionError(
                f"Optimizer {type(optimizer).__name__} holds {len(optimizer.variables)} variables, "
                f"a clone of it {len(slots)}. Compile the model anew with a fresh optimizer."
            )
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
        self._shared = {id(s.variable): s for s in shared}
        self._clones: dict[str, keras.optimizers.Optimizer] = {}
        self._shards: dict[str, list[keras.Variable]] = {}
        for device in filter(is_here, self.devices):
            here = [weight for weight in self.weights if device in store[weight].devices]
            shards = [store[weight].on(device) for weight in here]
            slot_shards = {
                (position, order): by_slot[numbers[id(weight)], order].on(device)
                for position, weight in enumerate(here)
                for order in range(sum(n == numbers[id(weight)] for n, _ in by_slot))
            }
            self._shards[device] = shards
            with on(device):
                self._clones[device] = _clone(
                    optimizer, shards, slot_shards, [s.on(device) for s in shared]
                )
        self._here = {
            device: [weight for weight in self.weights if device in store[weight].devices]
            for device in self.devices
        }

    def loss_scale(self, device: str) -> Any:
        """What the loss is multiplied by before its gradients are taken, on `device`; or None."""
        if self.optimizer is inner(self.optimizer):
            return self.optimizer.loss_scale_factor
        sharded = self._shared[id(self.optimizer.dynamic_scale)]
        source = device if device in sharded.devices else sharded.devices[0]
        with on(source):
            scale = sharded.on(source).value.read_value()
        return scale if source == device else move(scale, source, device)

    def apply(self, gradients: dict[int, dict[str, Any]]) -> None:
        """Updates all shards.

        Args:
            gradients: By `id` of the weight and device, summed; a missing one counts as None.
        """
        finite = self._finite(gradients) if self.optimizer is not inner(self.optimizer) else {}
        clips = self._clips(gradients)
        for device in filter(is_here, self.devices):
            found = [gradients.get(id(w), {}).get(device) for w in self._here[device]]
            clone = self._clones[device]
            # What a clone would find out of its own shards, and must be found out of all.
            if finite:
                clone.check_finite = lambda _, here=finite[device]: here
            if clips:
                present = [
                    clips[number][device]
                    for number, gradient in zip(self._numbers(device), found, strict=True)
                    if gradient is not None
                ]
                inner(clone)._clip_gradients = lambda values, present=present: [
                    clip(value) for clip, value in zip(present, values, strict=True)
                ]
            update = TaskName(TaskKind.UPDATE, part=self.device_names.index(device))
            with on(device), tf.name_scope(update.scope):
                clone.apply(found, self._shards[device])

    def _numbers(self, device: str) -> list[int]:
        """Positions among `weights` of those on `device`."""
        here = {id(weight) for weight in self._here[device]}
        return [number for number, weight in enumerate(self.weights) if id(weight) in here]

    def _finite(self, gradients: dict[int, dict[str, Any]]) -> dict[str, tf.Tensor]:
        """Whether all gradients on all devices are finite, on each device."""
        first = self.devices[0]
        with tf.name_scope("finite"):
            arrived = []
            for device in self.devices:
                here = [by[device] for by in gradients.values() if device in by]
                with on(device):
                    values = [g.values if isinstance(g, tf.IndexedSlices) else g for g in here]
                    finite = [tf.reduce_all(tf.math.is_finite(value)) for value in values]
                    if finite:
                        arrived.append(move(tf.reduce_all(tf.stack(finite)), device, first))
            with on(first):
                every = tf.reduce_all(tf.stack(arrived))
            return collectives.spread(every, first, self.devices)

    def _clips(self, gradients: dict[int, dict[str, Any]]) -> dict[int, dict[str, clipping.Clip]]:
        """What clips each shard's gradient; empty if the optimizer does not clip by norm."""
        optimizer = inner(self.optimizer)
        if not (optimizer.clipnorm or optimizer.global_clipnorm):
            return {}
        holders, effective = {}, {}
        for number, weight in enumerate(self.weights):
            if id(weight) not in gradients:
                continue
            sharded = self.store[weight]
            holders[number] = [
                [d for d, r in zip(sharded.devices, sharded.regions, strict=True) if r == region]
                for region in dict.fromkeys(sharded.regions)
            ]
            effective[number] = {
                device: self._as_clipped(weight, device, gradient)
                for device, gradient in gradients[id(weight)].items()
            }
        return clipping.clips(optimizer, effective, holders)

    def _as_clipped(self, weight: keras.Variable, device: str, gradient: Any) -> Any:
        """The gradient as the optimizer is about to clip it: unscaled, and averaged over steps."""
        scale = self.loss_scale(device)
        if not is_here(device):
            return gradient  # Of which only the shape is asked here.
        clone = inner(self._clones[device])
        with on(device):
            if scale is not None:
                gradient = keras.ops.divide(gradient, scale)
            if clone.gradient_accumulation_steps:
                index = clone._get_variable_index(self.store[weight].on(device))
                sum_ = gradient + clone._accumulated_gradients[index].value.read_value()
                gradient = sum_ / clone.gradient_accumulation_steps
        return gradient


def _clone(
    optimizer: keras.optimizers.Optimizer,
    shards: Sequence[keras.Variable],
    slots: dict[tuple[int, int], keras.Variable],
    shared: Sequence[keras.Variable],
) -> keras.optimizers.Optimizer:
    clone = type(optimizer).from_config(optimizer.get_config())
    updating = inner(clone)
    positions = {id(shard): position for position, shard in enumerate(shards)}
    counts = [0] * len(shards)

    def take(
        reference_variable: Any, name: Any = None, initializer: Any = "zeros"
    ) -> keras.Variable:
        position = positions[id(reference_variable)]
        variable = slots[position, counts[position]]
        counts[position] += 1
        updating._track_variable(variable)
        return variable

    updating.add_variable_from_reference = take
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
