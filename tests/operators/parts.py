"""Runs an operator whole and part by part, in one process, and puts the parts together again.

Makes operators from single calls, so that rules are tested without models.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.ops.symbolic_arguments import SymbolicArguments

from keras_soap.capture.calls import Call, exact_shapes
from keras_soap.graph.operator_graph import (
    Operator,
    OperatorGraph,
    TensorRef,
    TensorSpec,
    WeightSpec,
)
from keras_soap.operators import registry
from keras_soap.operators.computation import read_variables
from keras_soap.operators.rule import Dimension, Part, PartCall
from keras_soap.tasks.lowering import Lowering, OperatorBlock

REDUCTIONS = {
    "sum": tf.add_n,
    "max": lambda tensors: tf.stop_gradient(tf.reduce_max(tf.stack(tensors), axis=0)),
}


@dataclass
class Subject:
    """A layer or operation on inputs, as an operator and as a Keras object."""

    operator: Operator
    layer: Any
    arguments: Callable[[Sequence[Any]], tuple[tuple[Any, ...], dict[str, Any]]]
    variables: list[keras.Variable]
    graph: OperatorGraph = field(init=False)
    lowering: Lowering = field(init=False)

    def __post_init__(self):
        inputs = [
            Operator(f"input_{i}", "input", "", (), (), (spec,))
            for i, spec in enumerate(self.operator.input_specs)
        ]
        weights = self.operator.weight_specs
        batch = self.operator.output.shape[0]
        self.graph = OperatorGraph("test", batch, (*inputs, self.operator), weights)
        self.lowering = Lowering(self.graph)

    @property
    def rule(self):
        return registry.find(self.operator.kind)

    @property
    def number(self) -> int:
        return len(self.graph.operators) - 1

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        return self.lowering.dimensions[self.number]

    def block(self, degrees) -> OperatorBlock:
        return self.lowering.operator(self.number, tuple(degrees))

    def parts(self, degrees) -> tuple[Part, ...]:
        return self.lowering.parts(self.number, tuple(degrees))

    def random_inputs(self, rng: np.random.Generator) -> list[np.ndarray]:
        return [random_values(rng, spec) for spec in self.operator.input_specs]


@dataclass
class Outcome:
    """What a run made: outputs, gradients and new values of weights, all whole arrays."""

    outputs: list[np.ndarray]
    input_gradients: list[np.ndarray | None]
    weight_gradients: list[np.ndarray]
    updates: dict[int, np.ndarray]


def subject(
    layer, specs, kind=None, list_of_inputs=None, seed=0, arguments=None, copies=None, **call
) -> Subject:
    """A built layer (or an operation) as an operator.

    Args:
        layer: It.
        specs: A `(shape, dtype)` for each input, or just the shape.
        kind: Of the rule; by default what the registry has for the class.
        list_of_inputs: Whether it takes a list; by default if it is a layer and there are several.
        seed: For the values of the weights.
        arguments: Puts flat inputs into the call's arguments, where none of this does.
        copies: Of an operation on weights alone, which are then its inputs, as in `Call`.
        call: Further keyword arguments of the call.
    """
    specs = [TensorSpec(*s) if isinstance(s[0], tuple) else TensorSpec(s, "float32") for s in specs]
    if list_of_inputs is None:
        list_of_inputs = len(specs) > 1 and isinstance(layer, keras.Layer)

    def default_arguments(inputs):
        return ((list(inputs),) if list_of_inputs else tuple(inputs)), dict(call)

    arguments = arguments or default_arguments

    args, kwargs = arguments([keras.KerasTensor(spec.shape, spec.dtype) for spec in specs])
    with exact_shapes([layer]):
        layer(*args, **kwargs)
        outputs = keras.tree.flatten(layer(*args, **kwargs))
    symbols = [keras.KerasTensor(spec.shape, spec.dtype) for spec in specs]
    args, kwargs = arguments(symbols)
    recorded = Call(layer, SymbolicArguments(*args, **kwargs), tuple(specs), (), copies=copies)
    variables = recorded.variables
    if isinstance(layer, keras.Layer):
        variables = read_variables(layer)
    randomize(variables, np.random.default_rng(seed))
    weights = tuple(
        WeightSpec(
            v.path, layer.name, tuple(v.shape), keras.backend.standardize_dtype(v.dtype),
            v.trainable,
        )
        for v in variables
    )  # fmt: skip
    kind = kind or registry.kind_of_layer(type(layer).__name__)
    made = tuple(
        TensorSpec(tuple(x.shape), keras.backend.standardize_dtype(x.dtype)) for x in outputs
    )
    operator = Operator(
        layer.name,
        kind,
        layer.name,
        tuple(TensorRef(i) for i in range(len(specs))),
        tuple(specs),
        registry.find(kind).output_specs(recorded.attributes(layer), made),
        tuple(range(len(weights))),
        weights,
        recorded.attributes(layer),
    )
    return Subject(operator, layer, arguments, variables)


def attributes_of(layer) -> dict[str, Any]:
    """The config as rules see it: JSON values only."""
    return Call(layer, SymbolicArguments(), (), ()).attributes(layer)


def randomize(variables, rng) -> None:
    """Gives weights values that tell their elements apart; seeds keep theirs."""
    for variable in variables:
        if keras.backend.is_float_dtype(variable.dtype):
            variable.assign(rng.uniform(0.2, 1.0, variable.shape))


def random_values(rng, spec: TensorSpec) -> np.ndarray:
    if spec.dtype == "bool":
        return rng.random(spec.shape) < 0.5
    if spec.is_floating:
        return rng.normal(size=spec.shape).astype(tf.as_dtype(spec.dtype).as_numpy_dtype)
    return rng.integers(0, 5, spec.shape).astype(spec.dtype)


def run_whole(subject: Subject, inputs, output_gradients, training=True) -> Outcome:
    """The layer itself, as Keras runs it."""
    tensors = [tf.constant(x) for x in inputs]
    args, kwargs = subject.arguments(tensors)
    layer = subject.layer
    pairs = zip(subject.variables, subject.operator.weight_specs, strict=True)
    trainable = [variable for variable, spec in pairs if spec.trainable]
    if getattr(layer, "_call_has_training_arg", False) and kwargs.get("training") is None:
        kwargs["training"] = training
    before = [v.numpy() for v in subject.variables]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        outputs = keras.tree.flatten(layer(*args, **kwargs))
        target = _weighted(outputs, output_gradients)
    gradients = tape.gradient(
        target,
        [*tensors, *(v.value for v in trainable)],
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    after = [v.numpy() for v in subject.variables]
    for variable, value in zip(subject.variables, before, strict=True):
        variable.assign(value)
    return Outcome(
        [x.numpy() for x in outputs],
        [_dense(g) if _floating(x) else None for g, x in zip(gradients, tensors, strict=False)],
        [_dense(g) for g in gradients[len(tensors) :]],
        {
            i: new
            for i, (old, new) in enumerate(zip(before, after, strict=True))
            if (old != new).any()
        },
    )


def run_parts(subject: Subject, degrees, inputs, output_gradients, training=True) -> Outcome:
    """All parts, each on copies of its own regions, put together by region."""
    operator, rule = subject.operator, subject.rule
    block, parts = subject.block(degrees), subject.parts(degrees)
    num_trainable = sum(spec.trainable for spec in operator.weight_specs)
    views = rule.weight_shapes(operator)
    weights = [v.numpy().reshape(view) for v, view in zip(subject.variables, views, strict=True)]
    outcome = Outcome(
        [np.full(spec.shape, np.nan) for spec in operator.output_specs[operator.first_made :]],
        [np.zeros(spec.shape) if spec.is_floating else None for spec in operator.input_specs],
        [np.zeros(view) for view in views[:num_trainable]],
        {},
    )
    read = [[_read(x, r) for x, r in zip(inputs, part.inputs, strict=True)] for part in parts]
    held = [[_read(w, r) for w, r in zip(weights, part.weights, strict=True)] for part in parts]
    calls = [
        PartCall(part, subject.layer, subject.arguments, x, w, (), training)
        for part, x, w in zip(parts, read, held, strict=True)
    ]
    sources = [
        ([x if x is not None and _floating(x) else None for x in xs], ws[:num_trainable])
        for xs, ws in zip(read, held, strict=True)
    ]
    flat = [x for x in tf.nest.flatten(sources) if x is not None]
    with tf.GradientTape() as tape:
        tape.watch(flat)
        combines = [c for c in block.combines if training or not c.combine.training_only]
        for number, combine in enumerate(combines):
            calls = _combined(rule, calls, number, combine)
        results = [rule.compute(call) for call in calls]
        assert all(x is None for result in results for x in result.outputs[: operator.first_made])
        outputs = [result.outputs[operator.first_made :] for result in results]
        regions_made = block.outputs[operator.first_made :]
        target = 0.0
        for index, made in enumerate(outputs):
            own = [
                # Of parts that make the same, another part gives each position its gradient.
                g[_slices(regions[index])] * _is_read_from(index, regions)
                for g, regions in zip(output_gradients, regions_made, strict=True)
            ]
            target += _weighted(made, own)
    gradients = dict(zip(map(id, flat), tape.gradient(target, flat), strict=True))
    for index, (part, result) in enumerate(zip(parts, results, strict=True)):
        for whole, made, regions in zip(outcome.outputs, outputs[index], regions_made, strict=True):
            box = _slices(regions[index])
            assert made.shape == whole[box].shape, f"{part} makes {made.shape}"
            if operator.first_made and not np.isnan(whole[box]).any():
                assert np.array_equal(whole[box], tf.cast(made, tf.float64)), "copies differ"
            else:
                assert np.isnan(whole[box]).all(), f"{part} makes what another part has made"
            whole[box] = tf.cast(made, tf.float64)
        for position, x in enumerate(sources[index][0]):
            if x is not None:
                gradient = gradients[id(x)]
                _add(outcome.input_gradients[position], part.inputs[position], gradient)
        for position, w in enumerate(sources[index][1]):
            gradient = gradients[id(w)]
            if position in rule.sparse_weights:
                assert isinstance(gradient, tf.IndexedSlices)
                rows = rule.sparse_rows(operator, block.outputs[0])[index]
                assert gradient.values.shape[0] == rows
            _add(outcome.weight_gradients[position], part.weights[position], gradient)
        for position, new in result.updates.items():
            whole = outcome.updates.setdefault(position, np.array(weights[position]))
            whole[_slices(part.weights[position])] = new
    for part, result in zip(parts, results, strict=True):
        for position, new in result.updates.items():
            kept = outcome.updates[position][_slices(part.weights[position])]
            assert np.array_equal(kept, new), "parts disagree about a state"
    outcome.weight_gradients = [
        gradient.reshape(spec.shape)
        for gradient, spec in zip(outcome.weight_gradients, operator.weight_specs, strict=False)
    ]
    return outcome


def _is_read_from(index, regions) -> np.ndarray:
    """1.0 where part `index` is the one to read from, of parts that make the same region."""
    same = [n for n, region in enumerate(regions) if np.array_equal(region, regions[index])]
    shape = tuple(stop - start for start, stop in regions[index])
    position = np.arange(np.prod(shape)).reshape(shape) % len(same)
    return (position == same.index(index)).astype("float32")


def _combined(rule, calls, number, block) -> list[PartCall]:
    contributions = [rule.contribute(call, number) for call in calls]
    for contribution, elements in zip(contributions, block.combine.elements, strict=True):
        assert contribution.shape.num_elements() == elements
        assert contribution.dtype == block.combine.dtype
    reduce = REDUCTIONS[block.combine.reduction]
    sums = {
        group: reduce([c for c, g in zip(contributions, block.group, strict=True) if g == group])
        for group in set(block.group.tolist())
    }
    return [
        PartCall(
            call.part, call.layer, call.arguments, call.inputs, call.weights,
            (*call.combined, sums[group]), call.training, call.memory,
        )
        for call, group in zip(calls, block.group.tolist(), strict=True)
    ]  # fmt: skip


def _weighted(outputs, gradients):
    return sum(
        tf.reduce_sum(tf.cast(x, tf.float64) * tf.cast(g, tf.float64))
        for x, g in zip(outputs, gradients, strict=True)
    )


def _read(whole: np.ndarray, region):
    part = whole[_slices(region)]
    return tf.constant(part) if part.size or not region else None


def _slices(region) -> tuple[slice, ...]:
    return tuple(slice(int(start), int(stop)) for start, stop in region)


def _add(whole, region, gradient) -> None:
    if gradient is not None:
        whole[_slices(region)] += _dense(gradient)


def _dense(gradient) -> np.ndarray:
    return tf.cast(tf.convert_to_tensor(gradient), tf.float64).numpy()


def _floating(tensor) -> bool:
    return tensor.dtype.is_floating
