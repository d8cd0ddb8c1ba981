"""Recurrent layers: batch (S) and units (P) are split; time is cut into blocks by `capture`.

1. An operator runs all steps of its input, from given states or from zeros. Its outputs are the
   layer's output (all steps or the last), then, if it hands them on, its states.
2. A part with all units runs the layer itself. A part with some units runs step by step, as every
   step needs the hidden state of all units: between two steps the parts add up their hidden
   states, each zero where another part's units are.
3. Keras keeps the weights of the gates side by side, (inputs, gates · units). They are seen as
   (inputs, gates, units), so that the weights of a range of units are a box.
"""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions, full_axis, whole
from keras_soap.operators.activations import unknown_activation, unsplit_axes
from keras_soap.operators.rule import (
    Combine,
    Dimension,
    DimensionKind,
    PartCall,
    PartResult,
    Rule,
)

MOST_UNROLLED = 16
"""Steps that are traced one by one, where there is no GPU with its kernel for all of them: a loop
costs more to trace and to run."""


class Recurrent(Rule):
    """What recurrent layers share.

    Inputs: sequences (batch, steps, features), then either no states or all of them: the hidden
    state first. Weights: kernel, recurrent kernel and, perhaps, bias.

    Attributes:
        gates: Blocks of `units` columns in the kernels.
        num_states: States that a step hands to the next.
    """

    several_outputs = True
    gates: ClassVar[int]
    num_states: ClassVar[int] = 1

    def refuses(self, attributes, inputs, output):
        if attributes.get("stateful"):
            return "stateful=True keeps states from batch to batch"
        if attributes.get("dropout") or attributes.get("recurrent_dropout"):
            return "its dropout draws one mask for all steps"
        if len(inputs) not in (1, 1 + self.num_states) or not inputs[-1].is_floating:
            return "it has inputs that are neither sequences nor states"
        return None

    def splits_units(self, operator: Operator) -> bool:
        """Whether units are independent of each other within a step."""
        activations = [
            {"activation": operator.attributes.get(name)}
            for name in ("activation", "recurrent_activation")
        ]
        return not any(unknown_activation(a) or unsplit_axes(a) for a in activations)

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        units = tuple(len(spec.shape) - 1 for spec in operator.output_specs)
        batch, size = operator.output.shape[0], operator.output.shape[-1]
        sample = Dimension("sample", (0,) * len(units), batch, DimensionKind.SAMPLE)
        if not self.splits_units(operator):
            return (sample,)
        return sample, Dimension("units", units, size, DimensionKind.PARAMETER)

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        result = [whole(len(regions), spec.shape) for spec in operator.input_specs]
        for region in result:
            region[:, 0] = regions[:, 0]
        for region in result[2:]:
            region[:, -1] = regions[:, -1]
        return result

    def weight_shapes(self, operator: Operator) -> list[tuple[int, ...]]:
        units = operator.output.shape[-1]
        return [(*spec.shape[:-1], self.gates, units) for spec in operator.weight_specs]

    def weight_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        result = [whole(len(regions), shape) for shape in self.weight_shapes(operator)]
        for region in result:
            region[:, -1] = regions[:, -1]
        return result

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        _, steps, features = operator.input_specs[0].shape
        samples, units = ((regions[:, axis, 1] - regions[:, axis, 0]) for axis in (0, -1))
        inputs = features + operator.output.shape[-1]
        return 2.0 * self.gates * inputs * steps * samples * units

    def combines(self, operator: Operator, regions: Regions) -> tuple[Combine, ...]:
        units = operator.output.shape[-1]
        if np.array_equal(regions[:, -1], full_axis(len(regions), units)):
            return ()
        elements = (regions[:, 0, 1] - regions[:, 0, 0]) * units
        return tuple(
            Combine(f"state_{step}", ("units",), elements, operator.output.dtype)
            for step in range(operator.input_specs[0].shape[1] - 1)
        )

    def contribute(self, call: PartCall, number: int) -> Any:
        import tensorflow as tf

        self._step(call, number)
        start, stop = call.part.output[-1]
        margins = [[0, 0], [start, call.part.operator.output.shape[-1] - stop]]
        return tf.reshape(tf.pad(call.memory["states"][0], margins), [-1])

    def compute(self, call: PartCall) -> PartResult:
        operator = call.part.operator
        start, stop = call.part.output[-1]
        if stop - start == operator.output.shape[-1]:
            return self._compute_whole(call)
        import tensorflow as tf

        self._step(call, operator.input_specs[0].shape[1] - 1)
        made = call.memory["made"]
        output = tf.stack(made, axis=1) if len(operator.output.shape) == 3 else made[-1]
        states = call.memory["states"][: len(operator.output_specs) - 1]
        return PartResult((output, *states))

    def _compute_whole(self, call: PartCall) -> PartResult:
        """Runs the layer itself."""
        import tensorflow as tf

        from keras_soap.operators import computation

        operator = call.part.operator
        wanted = {
            "return_sequences": len(operator.output.shape) == 3,
            "return_state": len(operator.output_specs) > 1,
        }
        steps = operator.input_specs[0].shape[1]
        if steps <= MOST_UNROLLED and not tf.config.list_physical_devices("GPU"):
            wanted["unroll"] = True
        changes = {k: v for k, v in wanted.items() if operator.attributes.get(k, False) != v}
        weights = [
            tf.reshape(weight, spec.shape)
            for weight, spec in zip(call.weights, operator.weight_specs, strict=True)
        ]
        return computation.call_shrunk(
            dataclasses.replace(call, weights=weights), changes, call.inputs
        )

    def _step(self, call: PartCall, number: int) -> None:
        """Runs one step of a part with some of the units; keeps what later ones need in memory.

        `"inputs"`: for each step what inputs and their bias add to the gates; `"states"`: this
        part's units of the states; `"made"`: of the hidden states so far.
        """
        import tensorflow as tf

        dtype = call.layer.compute_dtype
        kernel, recurrent_kernel, *bias = (tf.cast(w, dtype) for w in call.weights)
        x, *states = (tf.cast(t, dtype) for t in call.inputs)
        start, stop = call.part.output[-1]
        if number == 0:
            projected = tf.einsum("btf,fgu->btgu", x, kernel)
            if bias:
                projected += bias[0] if len(bias[0].shape) == 2 else bias[0][0]
            steps = tf.unstack(projected, axis=1)
            if call.part.operator.attributes.get("go_backwards"):
                steps.reverse()
            units = call.part.operator.output.shape[-1]
            if not states:
                states = [tf.zeros([x.shape[0], units], dtype)]
                states += [tf.zeros([x.shape[0], stop - start], dtype)] * (self.num_states - 1)
            hidden = states[0]
            call.memory["inputs"], call.memory["made"] = tuple(steps), ()
            call.memory["states"] = (hidden[:, start:stop], *states[1:])
        else:
            hidden = tf.reshape(call.combined[number - 1], [x.shape[0], -1])
        recurrent = tf.einsum("bh,hgu->bgu", hidden, recurrent_kernel)
        if bias and len(bias[0].shape) == 3:
            recurrent += bias[0][1]
        new = self._next(
            call.layer, call.memory["inputs"][number], recurrent, call.memory["states"]
        )
        call.memory["states"] = new
        call.memory["made"] = (*call.memory["made"], new[0])

    def _next(self, layer: Any, inputs: Any, recurrent: Any, states: tuple) -> tuple:
        """The states after a step.

        Args:
            layer: Has the activations.
            inputs: (batch, gates, units): what inputs add to the gates.
            recurrent: Likewise, what the hidden state adds.
            states: (batch, units) each, before the step.
        """
        raise NotImplementedError(f"{type(self).__name__} splits units but has no _next")


class Lstm(Recurrent):
    """LSTM: gates input, forget, cell, output; states hidden, cell."""

    kind = "lstm"
    layers = ("LSTM",)
    gates = 4
    num_states = 2

    def _next(self, layer, inputs, recurrent, states):
        import tensorflow as tf

        i, f, c, o = tf.unstack(inputs + recurrent, axis=1)
        gate = layer.recurrent_activation
        cell = gate(f) * states[1] + gate(i) * layer.activation(c)
        return gate(o) * layer.activation(cell), cell


class Gru(Recurrent):
    """GRU: gates update, reset, candidate.

    With `reset_after=False` the reset gate of all units is in the middle of a step, so units are
    not split.
    """

    kind = "gru"
    layers = ("GRU",)
    gates = 3

    def splits_units(self, operator: Operator) -> bool:
        return bool(operator.attributes.get("reset_after")) and super().splits_units(operator)

    def _next(self, layer, inputs, recurrent, states):
        import tensorflow as tf

        x_z, x_r, x_h = tf.unstack(inputs, axis=1)
        h_z, h_r, h_h = tf.unstack(recurrent, axis=1)
        z, r = layer.recurrent_activation(x_z + h_z), layer.recurrent_activation(x_r + h_r)
        return (z * states[0] + (1 - z) * layer.activation(x_h + r * h_h),)


class SimpleRnn(Recurrent):
    """SimpleRNN: one gate, the output itself."""

    kind = "simple_rnn"
    layers = ("SimpleRNN",)
    gates = 1

    def _next(self, layer, inputs, recurrent, states):
        return (layer.activation((inputs + recurrent)[:, 0]),)
