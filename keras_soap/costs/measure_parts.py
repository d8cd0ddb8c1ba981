"""Runs parts, updates and bare tasks on real devices, and times them.

A part runs as the runtime runs it: the rule computes it from slices, under a tape of its own, in a
function. Forward is what the forward pass takes beyond a function that only makes what the part
reads of others; backward is what forward and the gradients of inputs take beyond that; gradients of
weights are what all together takes beyond that.

The time that counts is that which passes. On logical CPUs, which share cores, what is timed runs
beside others like it, as many as there are places for, and has a share of that time if it has all
places, one after the other.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_soap.capture.captured_model import CapturedModel
from keras_soap.costs.cores import of_this_process
from keras_soap.costs.cost_table import PartTime
from keras_soap.costs.measure import cores_per_place, num_places
from keras_soap.costs.running import UNCACHED_BYTES, on_device, runner
from keras_soap.costs.timing import Precision, Timing, time_in_turn
from keras_soap.graph.operator_graph import LOSS_KINDS, Operator
from keras_soap.graph.region import Regions
from keras_soap.operators import registry
from keras_soap.operators.rule import Part, PartCall

LONG_NS = 12_000_000
"""A part that is done sooner is timed in copies that take so long together: calling a function and
waking its threads takes time that is none of the part's."""

NUM_COPIES = 16
"""How many copies at most; they run one after the other."""

ROUGH = Precision(min_runs=3, max_runs=3)
"""To tell how many copies are needed."""

NUM_CHAINED = 64
"""Bare tasks that run one after the other, to tell what one takes."""


def make_part(operator: Operator, regions: Regions, index: int) -> Part:
    """Part `index` of those that make `regions`."""
    rule = registry.find(operator.kind)

    def at(all_regions: Sequence[Regions]) -> tuple:
        return tuple(tuple(map(tuple, region[index].tolist())) for region in all_regions)

    return Part(
        operator,
        index,
        tuple(map(tuple, regions[index].tolist())),
        at(rule.input_regions(operator, regions)),
        at(rule.weight_regions(operator, regions)),
    )


def measure_part(
    captured: CapturedModel,
    number: int,
    part: Part,
    differentiated: Sequence[int],
    has_backward: bool,
    device: str,
    precision: Precision,
    cores: int = 0,
    training: bool = True,
) -> PartTime:
    """Times one part.

    Args:
        captured: The model that it is of.
        number: Of its operator.
        part: It.
        differentiated: Positions of inputs that gradients go to.
        has_backward: Whether it has a backward pass at all.
        device: What runs it.
        precision: When to stop repeating.
        cores: How many a task has; 0: it is timed alone.
        training: Whether in training mode.
    """
    random = np.random.default_rng(0)
    values = [*_input_values(part, random), *_weight_values(part, random)]
    arguments = on_device([x for x in values if x is not None], device)
    num_made = sum(x is not None for x in values[: len(part.inputs)])

    def split(flat: Sequence[tf.Tensor]) -> tuple[list, list]:
        left = list(flat)
        filled = [None if value is None else left.pop(0) for value in values]
        return filled[: len(part.inputs)], filled[len(part.inputs) :]

    def forward(flat: Sequence[tf.Tensor]) -> list[Any]:
        inputs, weights = split(flat)
        outputs, others = _compute(captured, number, part, inputs, weights, training)
        return [*outputs, *others]

    def both(
        flat: Sequence[tf.Tensor], arrived: Sequence[tf.Tensor], of_weights: bool
    ) -> list[Any]:
        inputs, weights = split(flat)
        tape = tf.GradientTape(watch_accessed_variables=False)
        sources = [inputs[position] for position in differentiated]
        if of_weights:
            sources += [
                weight
                for weight, spec in zip(weights, part.operator.weight_specs, strict=True)
                if spec.trainable
            ]
        sources = [x for x in sources if x is not None and x.dtype.is_floating]
        with tape:
            tape.watch(sources)
            outputs, others = _compute(captured, number, part, inputs, weights, training)
        floating = [x for x in outputs if x.dtype.is_floating]
        # As in a step, where they arrive when all is computed: gradients of a convolution, which
        # read nothing that it makes, would be computed beside it.
        with tf.control_dependencies(outputs):
            arrived = [tf.identity(x) for x in arrived]
        gradients = tape.gradient(floating, sources, output_gradients=list(arrived) or None)
        flat_gradients = tf.nest.flatten([g for g in gradients if g is not None], True)
        return [*outputs, *others, *flat_gradients]

    if not has_backward:
        return _part_time([forward], arguments, num_made, device, precision, cores)
    made = runner(forward, arguments, device)()[
        : len(part.operator.output_specs) - part.operator.first_made
    ]
    scale = 1.0 / max(1, part.operator.output.num_elements)
    arrived = [np.full(x.shape, scale, "float32") for x in made if x.dtype.is_floating]
    arrived = [tf.cast(a, x.dtype) for a, x in zip(arrived, made, strict=False)]
    num_arrived = len(arrived)
    functions: list[Callable] = [
        lambda flat: forward(flat[num_arrived:]),
        lambda flat: both(flat[num_arrived:], flat[:num_arrived], False),
    ]
    if any(spec.trainable for spec in part.operator.weight_specs):
        functions.append(lambda flat: both(flat[num_arrived:], flat[:num_arrived], True))
    arguments = [*on_device(arrived, device), *arguments]
    return _part_time(functions, arguments, num_arrived + num_made, device, precision, cores)


def _part_time(
    functions: Sequence[Callable],
    arguments: Sequence[tf.Tensor],
    num_made: int,
    device: str,
    precision: Precision,
    cores: int,
) -> PartTime:
    """Times of a forward pass, and what that with ever more of a backward pass takes beyond it."""
    run = functools.partial(runner, arguments=arguments, device=device)
    once = time_in_turn([run(_empty), run(functions[-1])], ROUGH).beyond_previous_ns[0]
    copies = min(NUM_COPIES, -(-LONG_NS // max(once, 1)))
    beside, share = _places(cores)
    runners = [
        run(function, copies=copies, beside=beside, uncached=True, num_made=num_made)
        for function in (_empty, *functions)
    ]
    timing = _timed(runners, device, precision)
    forward_ns, backward_ns, weight_gradient_ns = [
        *(time // copies // share for time in timing.beyond_previous_ns),
        *(0, 0),
    ][:3]
    return PartTime(
        forward_ns, backward_ns, timing.relative_spread, timing.num_runs, weight_gradient_ns
    )


def measure_update(
    optimizer: keras.optimizers.Optimizer,
    num_bytes: int,
    device: str,
    precision: Precision,
    cores: int = 0,
) -> PartTime:
    """Times the update of `num_bytes` of float32 weights, by a clone of `optimizer`.

    Several at once, as in a step.
    """
    num_elements = max(1, num_bytes // 4)
    copies = min(NUM_COPIES, max(2, UNCACHED_BYTES // num_bytes))
    beside, share = _places(cores)
    rows = []
    with tf.device(device):
        values = np.zeros(num_elements, "float32")
        for row in range(beside):
            names = [f"measured_{row}_{n}" for n in range(copies)]
            variables = [keras.Variable(values, name=name) for name in names]
            clone = type(optimizer).from_config(optimizer.get_config())
            clone.build(variables)
            rows.append((clone, variables))
    of_rows = itertools.cycle(rows)

    def update(flat: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        clone, variables = next(of_rows)
        clone.apply(list(flat), variables)
        return []

    arguments = on_device([np.ones(num_elements, "float32")] * copies, device)
    runners = [runner(function, arguments, device, beside=beside) for function in (_empty, update)]
    timing = _timed(runners, device, precision)
    update_ns = timing.beyond_previous_ns[0] // copies // share
    return PartTime(update_ns, 0, timing.relative_spread, timing.num_runs)


def _places(cores: int) -> tuple[int, int]:
    """How many tasks run at once while one is timed, and by what the time of all is shared out."""
    return (num_places(), cores // cores_per_place()) if cores else (1, 1)


def _timed(runners: Sequence[Callable[[], object]], device: str, precision: Precision) -> Timing:
    """By the clock, on logical CPUs while cores are fast."""
    return time_in_turn(runners, precision, cores=of_this_process() if "CPU" in device else None)


def measure_task_overhead(device: str, precision: Precision, cores: int = 0) -> PartTime:
    """Times what a task takes whatever its size: a dense layer of almost nothing, and a slice."""

    def chain(length: int) -> Callable[[Sequence[tf.Tensor]], list[tf.Tensor]]:
        def run(flat: Sequence[tf.Tensor]) -> list[tf.Tensor]:
            x, kernel, bias = flat
            for _ in range(length):
                x = tf.slice(tf.nn.relu(tf.matmul(x, kernel) + bias), [0, 0], [1, 4])
            return [x]

        return run

    values = [tf.ones((1, 4)), tf.eye(4, 8), tf.zeros(8)]
    arguments = on_device(values, device)
    beside, share = _places(cores)
    lengths = 1, 1 + NUM_CHAINED
    runners = [runner(chain(length), arguments, device, beside=beside) for length in lengths]
    timing = _timed(runners, device, precision)
    overhead_ns = timing.beyond_previous_ns[0] // NUM_CHAINED // share
    return PartTime(overhead_ns, 0, timing.relative_spread, timing.num_runs)


def _compute(
    captured: CapturedModel,
    number: int,
    part: Part,
    inputs: list[Any],
    weights: list[Any],
    training: bool,
) -> tuple[tuple[Any, ...], list[Any]]:
    """Outputs of a part, and what else its forward pass makes: states, reports."""
    operator = part.operator
    rule = registry.find(operator.kind)
    layer = captured.layers[number]
    arguments = captured.arguments[number] or (lambda flat: (tuple(flat), {}))
    combined: list[Any] = []
    call = PartCall(part, layer, arguments, inputs, weights, combined, training)
    region = np.array(part.output, np.int64).reshape(1, -1, 2)
    combines = [c for c in rule.combines(operator, region) if training or not c.training_only]
    share = operator.output.num_elements / math.prod(stop - start for start, stop in part.output)
    for stage, combine in enumerate(combines):
        contribution = rule.contribute(call, stage)
        # As if the parts that it would be reduced with had contributed the same.
        combined.append(contribution * share if combine.reduction == "sum" else contribution)
    result = rule.compute(call)
    outputs = tuple(tensor for tensor in result.outputs if tensor is not None)
    others = list(result.updates.values())
    if result.report is not None:
        others.append(result.report)
    return outputs, others


def _input_values(part: Part, random: np.random.Generator) -> list[Any]:
    operator = part.operator
    most = 2
    rule = registry.find(operator.kind)
    tables = [operator.weight_specs[position].shape for position in rule.sparse_weights]
    tables += [operator.input_specs[position].shape for position in rule.rows_of_inputs(operator)]
    for num_words, *_ in tables:
        most = num_words
    if operator.kind in (*LOSS_KINDS, "metrics"):
        most = operator.input_specs[0].shape[-1] if operator.input_specs[0].shape[1:] else 2
    values = []
    for spec, region in zip(operator.input_specs, part.inputs, strict=True):
        shape = tuple(stop - start for start, stop in region)
        if 0 in shape:
            values.append(None)
        elif spec.is_floating:
            # Positive, as a prediction of a probability must be.
            values.append(tf.cast(random.uniform(0.1, 0.9, shape), spec.dtype))
        else:
            high = most if spec.dtype != "bool" else 2
            values.append(tf.cast(random.integers(0, high, shape), spec.dtype))
    return values


def _weight_values(part: Part, random: np.random.Generator) -> list[Any]:
    values = []
    for spec, region in zip(part.operator.weight_specs, part.weights, strict=True):
        shape = tuple(stop - start for start, stop in region)
        if "float" not in spec.dtype:
            values.append(tf.cast(random.integers(0, 2, shape), spec.dtype))
        else:
            # States such as a variance are positive.
            low, high = (-0.1, 0.1) if spec.trainable else (0.5, 1.5)
            values.append(tf.cast(random.uniform(low, high, shape), spec.dtype))
    return values


def _empty(flat: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return []
