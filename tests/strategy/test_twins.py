import dataclasses

import numpy as np

from keras_soap.operators.rule import DimensionKind
from keras_soap.strategy import proposals
from keras_soap.strategy.moves import Shares
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.strategy.search_space import SearchSpace
from keras_soap.strategy.strategy import check_strategy
from keras_soap.tasks.lowering import Lowering
from tests.search import toys

BLOCKS = 8


def space_of(graph, num_devices=8):
    return SearchSpace(graph, Lowering(graph).dimensions, toys.machine(num_devices))


def blocks(num_blocks=BLOCKS, width=64):
    """Blocks of two layers, wide and narrow."""
    return toys.chain((width, *(width * 4, width) * num_blocks))


def layers(graph):
    return [n for n, operator in enumerate(graph.operators) if operator.weights]


def test_layers_of_repeated_blocks_are_twins_but_near_the_ends():
    space = space_of(blocks())
    of_layers = [space.twins[space.family_of[n]] for n in layers(space.graph)]
    inner = of_layers[2:-2]
    assert len(set(inner)) == 2
    assert inner[0::2] == [inner[0]] * len(inner[0::2])
    assert inner[1::2] == [inner[1]] * len(inner[1::2])
    assert not set(inner) & {of_layers[0], of_layers[1], of_layers[-2], of_layers[-1]}


def test_layers_of_other_sizes_are_no_twins():
    space = space_of(toys.chain((64, 64, 64, 64, 64, 128, 64, 64, 64, 64, 64)))
    of_layers = [space.twins[space.family_of[n]] for n in layers(space.graph)]
    wide = 4  # The one that makes 128.
    assert of_layers.count(of_layers[wide]) == of_layers.count(of_layers[wide + 1]) == 1


def test_families_on_other_weights_have_other_twins():
    graph = blocks()
    frozen = tuple(
        dataclasses.replace(spec, trainable=spec.layer != graph.operators[9].layer)
        for spec in graph.weights
    )
    operators = tuple(
        dataclasses.replace(operator, weight_specs=tuple(frozen[n] for n in operator.weights))
        for operator in graph.operators
    )
    space = space_of(dataclasses.replace(graph, operators=operators, weights=frozen))
    assert space.twins.count(space.twins[space.family_of[9]]) == 1


def test_a_share_of_the_changes_of_layers_are_made_in_all_twins():
    space = space_of(blocks())
    rng = np.random.default_rng(0)
    strategy = space.whole()
    inner = layers(space.graph)[2:-2]
    alone = together = 0
    for _ in range(2000):
        change = space.random_change(rng, strategy, Shares(layers=1.0))
        changed = [n for n in inner if change.get(n, strategy.configs[n]) != strategy.configs[n]]
        alone += len(changed) == 1
        if len(changed) >= len(inner) // 2 and len({change[n] for n in changed[::2]}) == 1:
            together += 1
    # In a strategy of equal blocks it makes no difference which half of such changes it is.
    assert 0.5 < together / (alone + together) / proposals.TWINS_SHARE < 1.5


def test_half_of_these_leave_out_twins_that_did_otherwise():
    space = space_of(blocks())
    rng = np.random.default_rng(0)
    wide = [n for n in layers(space.graph)[2:-2] if space.graph.operators[n].output.shape[1] > 64]
    position = [d.kind for d in space.dimensions[wide[0]]].index(DimensionKind.PARAMETER)
    degrees = tuple(8 if n == position else 1 for n in range(len(space.dimensions[wide[0]])))
    other = ParallelConfig(degrees, tuple(range(8)))
    strategy = space.whole().replace({wide[0]: other})
    with_it = without_it = 0
    for _ in range(3000):
        after = strategy.replace(space.random_change(rng, strategy, Shares(layers=1.0)))
        check_strategy(space.graph, space.dimensions, after, 8)
        rest = {after.configs[n] for n in wide[1:]}
        if len(rest) == 1 and rest != {strategy.configs[wide[1]]}:
            with_it += after.configs[wide[0]] in rest
            without_it += after.configs[wide[0]] == other
    assert without_it > 20
    assert with_it > without_it


def test_twins_that_allow_equal_degrees_get_equal_degrees():
    space = space_of(blocks(), 4)
    for group in set(space.twins):
        members = [family for family, number in enumerate(space.twins) if number == group]
        assert len({space.degrees[family] for family in members}) == 1
