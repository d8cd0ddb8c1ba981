"""The suite that every rule passes."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from keras_soap.graph.region import volume
from keras_soap.operators.rule import PartCall
from keras_soap.operators.weights import OF_WEIGHTS
from tests.operators.cases import CASES
from tests.operators.parts import random_values, run_parts, run_whole

_subjects = {}


def subject_of(name):
    if name not in _subjects:
        _subjects[name] = CASES[name]()
    return _subjects[name]


def made_specs(subject):
    """Of the outputs that are made: all but a space."""
    return subject.operator.output_specs[subject.operator.first_made :]


def choices(subject):
    """Degrees worth trying: none, each dimension alone, all at once."""
    options = [[d for d in dim.degrees(4) if d > 1] or [1] for dim in subject.dimensions]
    found = [tuple(1 for _ in options)]
    for number, degrees in enumerate(options):
        for degree in {degrees[0], degrees[-1]}:
            found.append(tuple(degree if i == number else 1 for i in range(len(options))))
    found.append(tuple(degrees[0] for degrees in options))
    return list(dict.fromkeys(found))


@st.composite
def a_split(draw):
    name = draw(st.sampled_from(sorted(CASES)))
    dimensions = subject_of(name).dimensions
    degrees = tuple(draw(st.sampled_from(dim.degrees(dim.size))) for dim in dimensions)
    return name, degrees


def check(name, several_degrees):
    """Parts, put together, must make what the layer makes, gradients and states included."""
    subject = subject_of(name)
    rng = np.random.default_rng(1)
    inputs = subject.random_inputs(rng)
    gradients = [random_values(rng, spec) for spec in made_specs(subject)]
    expected = run_whole(subject, inputs, gradients)
    for degrees in several_degrees:
        found = run_parts(subject, degrees, inputs, gradients)
        close = {"rtol": 2e-5, "atol": 2e-5, "err_msg": f"degrees {degrees}"}
        for a, b in zip(found.outputs, expected.outputs, strict=True):
            np.testing.assert_allclose(a, b, **close)
        for a, b in zip(found.input_gradients, expected.input_gradients, strict=True):
            if b is not None:
                np.testing.assert_allclose(a, b, **close)
        for a, b in zip(found.weight_gradients, expected.weight_gradients, strict=True):
            np.testing.assert_allclose(a, b, **close)
        assert found.updates.keys() == expected.updates.keys()
        for position, value in expected.updates.items():
            np.testing.assert_allclose(found.updates[position], value, **close)


@pytest.mark.parametrize("name", CASES)
def test_parts_put_together_are_the_layer_with_its_gradients_and_states(name):
    check(name, choices(subject_of(name)))


@settings(max_examples=40, deadline=None)
@given(a_split())
def test_parts_under_any_degrees_are_the_layer_too(split):
    name, degrees = split
    if math.prod(degrees) <= 64:
        check(name, [degrees])


@settings(max_examples=300, deadline=None)
@given(a_split())
def test_parts_tile_every_output_and_read_inside_inputs_and_weights(split):
    name, degrees = split
    subject = subject_of(name)
    operator, block = subject.operator, subject.block(degrees)
    for spec, regions in zip(operator.output_specs, block.outputs, strict=True):
        made = np.zeros(spec.shape, int)
        for region in regions:
            made[tuple(slice(*range_) for range_ in region)] += 1
        is_copied = subject.operator.first_made and not spec.is_space
        assert (made == (made.flat[0] if is_copied else 1)).all()
    views = subject.rule.weight_shapes(operator)
    assert [math.prod(view) for view in views] == [
        math.prod(s.shape) for s in operator.weight_specs
    ]
    for shapes, read in (
        ([spec.shape for spec in operator.input_specs], block.inputs),
        (views, [weight.regions for weight in block.weights]),
    ):
        for shape, regions in zip(shapes, read, strict=True):
            assert regions.dtype == np.int64
            assert regions.shape == (math.prod(degrees), len(shape), 2)
            assert (regions[..., 0] >= 0).all()
            assert (regions[..., 1] <= shape).all()
            assert (regions[..., 0] <= regions[..., 1]).all()


@settings(max_examples=300, deadline=None)
@given(a_split())
def test_work_is_never_lost_by_splitting(split):
    name, degrees = split
    subject = subject_of(name)
    rule, operator = subject.rule, subject.operator
    whole = subject.block((1,) * len(degrees)).outputs[0]
    parts = subject.block(degrees).outputs[0]
    for flops in (rule.flops, rule.backward_flops):
        assert flops(operator, parts).dtype == np.float64
        assert flops(operator, parts).shape == (len(parts),)
        assert flops(operator, parts).sum() >= flops(operator, whole).sum() * (1 - 1e-9)


@settings(max_examples=60, deadline=None)
@given(a_split(), st.integers(0, 2**32 - 1))
def test_what_a_part_does_not_read_does_not_change_what_it_makes(split, seed):
    name, degrees = split
    subject = subject_of(name)
    # What parts combine in inference too, such as the largest value along an axis, reaches all.
    assume(not subject.block(degrees).combines_in(training=False))
    rng = np.random.default_rng(seed)
    inputs, other = subject.random_inputs(rng), subject.random_inputs(rng)
    part = subject.parts(degrees)[rng.integers(math.prod(degrees))]
    for whole, replacement, region in zip(inputs, other, part.inputs, strict=True):
        box = tuple(slice(*range_) for range_ in region)
        replacement[box] = whole[box]
    zero = [np.zeros(spec.shape) for spec in made_specs(subject)]
    made = subject.block(degrees).outputs[subject.operator.first_made][part.index]
    box = tuple(slice(*range_) for range_ in made.tolist())
    # Not in training: then batch normalization reads the rest of the batch through its moments.
    before = run_whole(subject, inputs, zero, training=False).outputs[0][box]
    after = run_whole(subject, other, zero, training=False).outputs[0][box]
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_dimension_that_is_a_parameter_divides_the_weights(name):
    subject = subject_of(name)
    ones = [1] * len(subject.dimensions)
    for number, dimension in enumerate(subject.dimensions):
        degree = dimension.degrees(dimension.size)[-1]
        degrees = [*ones[:number], degree, *ones[number + 1 :]]
        divided = any(
            (volume(weight.regions) * degree == math.prod(spec.shape)).all() and degree > 1
            for weight, spec in zip(
                subject.block(degrees).weights, subject.operator.weight_specs, strict=True
            )
        )
        # Of operations on weights alone, the inputs are weights.
        if dimension.kind == "parameter" and degree > 1:
            assert divided or subject.operator.kind.endswith(OF_WEIGHTS)
        if dimension.kind == "sample":
            assert dimension.axis == 0


@pytest.mark.parametrize(
    "name",
    ["convolution, same", "batch normalization", "PReLU", "average pooling, same", "samplewise"],
)
def test_parts_are_the_same_inside_a_function(name):
    subject = CASES[name]()
    inputs = subject.random_inputs(np.random.default_rng(1))
    gradients = [np.ones(spec.shape, "float32") for spec in made_specs(subject)]
    degrees = choices(subject)[-1]
    expected = run_parts(subject, degrees, inputs, gradients, training=False)

    @tf.function(autograph=False)
    def computed(tensors):
        made = []
        for part in subject.parts(degrees):
            read, held = (
                [value[tuple(slice(*range_) for range_ in region)] for value, region in pairs]
                for pairs in (
                    zip(tensors, part.inputs, strict=True),
                    zip([v.value for v in subject.variables], part.weights, strict=True),
                )
            )
            call = PartCall(part, subject.layer, subject.arguments, read, held, (), False)
            made.append(subject.rule.compute(call).outputs[0])
        return made

    for part, made in zip(subject.parts(degrees), computed(inputs), strict=True):
        box = tuple(slice(*range_) for range_ in part.output)
        np.testing.assert_allclose(made, expected.outputs[0][box], rtol=1e-5, atol=1e-6)
