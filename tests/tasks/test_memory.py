"""Peak memory, worked out by hand."""

import numpy as np
import pytest

from keras_soap.costs.roofline import Roofline
from keras_soap.graph.builder import Builder
from keras_soap.strategy.parallel_config import FED, ParallelConfig
from keras_soap.strategy.strategy import Strategy
from keras_soap.tasks.lowering import Costs, Lowering
from keras_soap.tasks.memory import peak_memory_bytes
from keras_soap.topology.presets import cluster
from tests.simulator import random_problems

BATCH, WIDTH, UNITS = 8, 6, 4
X = BATCH * WIDTH * 4
Y = BATCH * UNITS * 4
KERNEL = WIDTH * UNITS * 4
BIAS = UNITS * 4


def costs_of(builder: Builder, num_slots: int = 2) -> Costs:
    lowering = Lowering(builder.finish())
    return Costs(lowering, cluster("one node", 1, 3), Roofline(), num_slots)


def dense(num_slots: int = 2) -> Costs:
    """An input of 6 features and a layer of 4 units on it."""
    builder = Builder("dense", BATCH)
    builder.dense(builder.input("x", WIDTH), UNITS)
    return costs_of(builder, num_slots)


def on(*configs: tuple[tuple[int, ...], tuple[int, ...]]) -> Strategy:
    """An input, and operators with these configurations."""
    return Strategy((FED, *(ParallelConfig(degrees, devices) for degrees, devices in configs)))


@pytest.mark.parametrize(
    ("training", "slots", "copies"), [(False, 2, 1), (True, 0, 2), (True, 2, 4)]
)
def test_one_device_holds_weights_gradients_slots_and_outputs(training, slots, copies):
    memory = peak_memory_bytes(dense(slots), on(((1, 1), (1,))), training)
    assert memory.tolist() == [0, X + Y + copies * (KERNEL + BIAS), 0]


def test_what_comes_from_another_device_is_held_at_both():
    builder = Builder("two", BATCH)
    builder.dense(builder.dense(builder.input("x", WIDTH), UNITS), UNITS)
    memory = peak_memory_bytes(costs_of(builder), on(((1, 1), (0,)), ((1, 1), (2,))))
    second = UNITS * UNITS * 4 + BIAS
    assert memory.tolist() == [X + Y + 4 * (KERNEL + BIAS), 0, Y + Y + 4 * second]


def test_what_two_read_of_the_batch_is_held_where_each_reads_it():
    builder = Builder("two", BATCH)
    x = builder.input("x", WIDTH)
    builder.dense(x, UNITS)
    builder.dense(x, UNITS)
    memory = peak_memory_bytes(costs_of(builder), on(((2, 1), (0, 1)), ((1, 1), (2,))), False)
    half = X // 2 + Y // 2 + KERNEL + BIAS
    assert memory.tolist() == [half, half, X + Y + KERNEL + BIAS]


def test_split_samples_share_outputs_and_copy_weights_and_hold_sums_of_gradients():
    memory = peak_memory_bytes(dense(), on(((2, 1), (0, 1))))
    half = X // 2 + Y // 2 + (4 + 1) * (KERNEL + BIAS)
    assert memory.tolist() == [half, half, 0]


def test_rows_of_all_devices_are_held_where_they_are_gathered():
    builder = Builder("words", BATCH)
    builder.embed(builder.input("words", 2, dtype="int32"), 10, WIDTH)
    config = ((2, 1, 1, 1), (0, 1))
    costs = costs_of(builder)
    memory = peak_memory_bytes(costs, on(config))
    without = peak_memory_bytes(costs, on(config), training=False)
    # The table's gradient and slots; then rows of each sample's two words, and their numbers.
    held = 3 * 10 * WIDTH * 4 + BATCH * 2 * (WIDTH * 4 + 4)
    assert (memory - without).tolist() == [held, held, 0]


def test_split_units_share_weights_and_copy_inputs():
    memory = peak_memory_bytes(dense(), on(((1, 2), (0, 1))))
    half = Y // 2 + 4 * (KERNEL + BIAS) // 2
    assert memory.tolist() == [X + half, X + half, 0]


def test_shared_weights_are_held_once():
    builder = Builder("shared", BATCH)
    x = builder.input("x", WIDTH)
    builder.dense(builder.dense(x, WIDTH, layer="same"), WIDTH, layer="same")
    one = ((1, 1), (0,))
    memory = peak_memory_bytes(costs_of(builder), on(one, one))
    assert memory.tolist() == [3 * X + 4 * (WIDTH * WIDTH + WIDTH) * 4, 0, 0]


def test_a_view_makes_no_output():
    builder = Builder("flatten", BATCH)
    builder.flatten(builder.input("x", 2, 3, 1))
    memory = peak_memory_bytes(costs_of(builder), on(((1, 1), (0,))))
    assert memory.tolist() == [X, 0, 0]


@pytest.mark.parametrize("seed", range(30))
def test_training_holds_no_less_than_inference_and_slots_add_equally(seed):
    rng = np.random.default_rng(seed)
    topology = random_problems.machine(rng)
    lowering = Lowering(random_problems.operator_graph(rng))
    costs = [Costs(lowering, topology, Roofline(), slots) for slots in range(3)]
    strategy = random_problems.Space(lowering, topology.num_devices).strategy(rng)
    inference = peak_memory_bytes(costs[0], strategy, training=False)
    by_slots = [peak_memory_bytes(of, strategy) for of in costs]
    assert (by_slots[0] >= inference).all()
    np.testing.assert_array_equal(by_slots[1] - by_slots[0], by_slots[2] - by_slots[1])
    # Gradients are as much as a slot, and there are sums of them.
    assert (by_slots[0] - inference >= by_slots[1] - by_slots[0]).all()
