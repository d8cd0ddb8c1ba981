import math

import numpy as np
import pytest

from keras_soap.errors import SearchError, StrategyError
from keras_soap.operators.rule import Dimension, DimensionKind
from keras_soap.strategy import moves, placement, proposals
from keras_soap.strategy.parallel_config import FED, ParallelConfig
from keras_soap.strategy.search_space import SearchSpace, all_degrees
from keras_soap.strategy.strategy import check_strategy
from keras_soap.tasks.lowering import Lowering
from tests.search import toys


def space_of(graph, num_devices=4, dims="SOAP", num_nodes=1):
    topology = toys.machine(num_devices, num_nodes)
    return SearchSpace(graph, Lowering(graph).dimensions, topology, dims)


@pytest.mark.parametrize("num_devices", [1, 2, 3, 4, 6, 16])
@pytest.mark.parametrize("dims", ["SOAP", "SAP", "S", "O", "OP"])
@pytest.mark.parametrize(
    "shares", [moves.Shares(0.0), moves.Shares(1.0), moves.Shares(nodes=0.9)], ids=str
)
def test_any_sequence_of_changes_is_valid(num_devices, dims, shares):
    graph = toys.twins()
    num_nodes = 2 if num_devices % 2 == 0 else 1
    space = space_of(graph, num_devices, dims, num_nodes)
    rng = np.random.default_rng(0)
    strategy = space.random_strategy(rng)
    for _ in range(300):
        strategy = strategy.replace(space.random_change(rng, strategy, shares))
        check_strategy(graph, space.dimensions, strategy, num_devices)
        assert space.contains(strategy)


def test_operators_on_the_same_weights_change_together():
    graph = toys.twins()
    space = space_of(graph)
    rng = np.random.default_rng(0)
    strategy = space.random_strategy(rng)
    changes = [space.random_change(rng, strategy) for _ in range(100)]
    assert any(1 in change for change in changes)
    assert all(change.get(1) == change.get(2) for change in changes)


def test_changes_of_several_operators_split_them_alike_on_the_same_devices():
    space = space_of(toys.diamond(), 4)
    rng = np.random.default_rng(0)
    strategy = space.random_strategy(rng)
    changes = [space.random_change(rng, strategy, moves.Shares(0.0)) for _ in range(300)]
    several = [change for change in changes if len(change) > 1]
    assert several
    assert any(len(change) == 1 for change in changes)
    assert all(len({config.devices for config in change.values()}) == 1 for change in several)


def test_one_operator_at_a_time_takes_any_configuration_of_its_own():
    space = space_of(toys.twins(), 3)
    rng = np.random.default_rng(0)
    strategy = space.random_strategy(rng)
    for _ in range(300):
        change = space.random_change(rng, strategy, moves.ONE_OPERATOR)
        assert tuple(change) in space.families


def test_a_layer_takes_along_what_has_no_weights_and_no_other_layer():
    graph = toys.diamond()
    space = space_of(graph, 4)
    rng = np.random.default_rng(0)
    layers = {n for n, operator in enumerate(graph.operators) if operator.weights}
    strategy = space.whole()
    alone = 0
    for _ in range(300):
        change = space.random_change(rng, strategy, moves.Shares(1.0))
        devices = {device for n in layers & set(change) for device in change[n].devices}
        if len(layers & set(change)) == 1:
            alone += len(change) > 1
            assert all(set(config.devices) <= devices for config in change.values())
    assert alone > 100


def test_a_layer_splits_any_of_its_dimensions_within_nodes_or_across():
    space = space_of(toys.chain((8, 8), 8), 8)
    rng = np.random.default_rng(0)
    strategy = space.whole()
    changes = (space.random_change(rng, strategy, moves.Shares(1.0)) for _ in range(4000))
    drawn = {config.devices for change in changes for config in change.values()}
    squares = [c for c in space.configs(1) if sorted(c.degrees) == [2, 4] and c.num_parts == 8]
    assert {c.devices for c in squares} <= drawn
    assert (0, 1, 2, 3, 4, 5, 6, 7) in drawn
    assert (0, 2, 4, 6, 1, 3, 5, 7) in drawn


def test_others_leave_the_devices_of_a_layer_in_half_of_the_changes_of_layers():
    graph = toys.chain()
    space = space_of(graph, 8)
    rng = np.random.default_rng(0)
    layers = [n for n, operator in enumerate(graph.operators) if operator.weights]
    strategy = space.random_strategy(rng)
    for n in layers:
        wide = max(space.degrees[space.family_of[n]], key=math.prod)
        strategy = strategy.replace({n: ParallelConfig(wide, tuple(range(math.prod(wide))))})
    apart = narrow = 0
    for _ in range(400):
        after = strategy.replace(space.random_change(rng, strategy, moves.Shares(1.0)))
        for n in layers:
            mine = set(after.configs[n].devices)
            if after.configs[n] != strategy.configs[n] and len(mine) <= 4:
                others = {d for m in layers if m != n for d in after.configs[m].devices}
                narrow += 1
                apart += not mine & others
    assert apart > 0.3 * narrow > 30


def test_every_configuration_is_reached():
    space = space_of(toys.chain((8, 8), 8), 3)
    rng = np.random.default_rng(0)
    drawn = {space.random_config(rng, 1) for _ in range(5000)}
    assert drawn == set(space.configs(1, anywhere=True))
    assert len(drawn) == space.num_configs(1)


def test_structured_configurations_are_among_all_of_them():
    space = space_of(toys.chain(), 4)
    for family in range(len(space.families)):
        structured = list(space.configs(family))
        assert len(structured) == len(set(structured))
        assert set(structured) <= set(space.configs(family, anywhere=True))


def test_without_o_parts_lie_on_the_first_devices():
    space = space_of(toys.chain(), 4, "SAP")
    for config in space.configs(1):
        assert config.devices == tuple(range(config.num_parts))


def test_letters_say_which_dimensions_are_split():
    dimensions = (
        Dimension("sample", (0,), 8, DimensionKind.SAMPLE),
        Dimension("length", (1,), 8, DimensionKind.ATTRIBUTE),
        Dimension("channel", (2,), 8, DimensionKind.PARAMETER),
    )
    assert set(all_degrees(dimensions, 2, "S")) == {(1, 1, 1), (2, 1, 1)}
    assert set(all_degrees(dimensions, 2, "A")) == {(1, 1, 1), (1, 2, 1)}
    assert set(all_degrees(dimensions, 2, "P")) == {(1, 1, 1), (1, 1, 2)}
    assert set(all_degrees(dimensions, 2, "O")) == {(1, 1, 1)}


def test_degrees_divide_sizes_and_fit_the_devices():
    dimensions = (
        Dimension("sample", (0,), 6, DimensionKind.SAMPLE),
        Dimension("channel", (1,), 8, DimensionKind.PARAMETER, step=4),
    )
    found = all_degrees(dimensions, 5)
    assert set(found) == {(1, 1), (1, 2), (2, 1), (2, 2), (3, 1)}


def test_unknown_letters_are_refused():
    with pytest.raises(SearchError, match="letters of 'SOAP'"):
        space_of(toys.chain(), 4, "SX")


def test_a_change_often_takes_over_the_devices_of_a_neighbour():
    space = space_of(toys.chain(), 16)
    rng = np.random.default_rng(0)
    strategy = space.random_strategy(rng)
    followed = 0
    for _ in range(500):
        change = space.random_change(rng, strategy)
        first = next(iter(change))
        neighbours = {other for _, other in space.neighbours[space.family_of[first]]}
        devices = change[first].devices
        followed += any(
            strategy.configs[other].devices[: len(devices)] == devices != (0,)
            for other in neighbours
        )
    assert followed > 0.8 * moves.USUAL.copy * 500


@pytest.mark.parametrize("num_devices", [3, 4, 16])
def test_choices_are_numbered_by_family_and_parts(num_devices):
    space = space_of(toys.diamond(), num_devices)
    assert len(set(space.choices)) == len(space.choices)
    for number, (family, degrees) in enumerate(space.choices):
        assert space.choice(family, degrees) == number
        first, last = space.moves.size_start[family : family + 2]
        sizes = space.moves.sizes[first:last]
        (row,) = sizes[(sizes[:, 1] <= number) & (number < sizes[:, 2])]
        assert row[0] == math.prod(degrees)
        assert tuple(space.moves.choices[number, : len(degrees)]) == degrees


def test_a_change_needs_no_more_random_numbers_than_are_asked_for():
    space = space_of(toys.diamond(), 16)
    rng = np.random.default_rng(0)
    strategy = space.random_strategy(rng)
    enough = 3 * len(space.families) + space.num_devices + 32
    for share in [0.0, 1.0] * 1000:
        space.random_change(rng, strategy, share)
        assert space.moves.scalar[moves.USED] < enough


@pytest.mark.parametrize("num_devices", [1, 3, 4, 6, 12, 16])
def test_groups_are_aligned_and_in_range(num_devices):
    for size in range(1, num_devices + 1):
        for stride in placement.strides(num_devices, size):
            number = placement.num_groups(num_devices, size, stride)
            assert number > 0
            members = [d for k in range(number) for d in placement.group(size, stride, k)]
            assert len(members) == len(set(members))
            assert all(0 <= device < num_devices for device in members)


def test_orders_put_a_dimension_within_or_across_nodes():
    #   parts of degrees (2, 2): (0,0) (0,1) (1,0) (1,1)
    assert placement.orders((2, 2)) == ((0, 1, 2, 3), (0, 2, 1, 3))
    assert placement.orders((2, 1, 3)) == ((0, 1, 2, 3, 4, 5), (0, 2, 4, 1, 3, 5))
    assert placement.orders((4, 1)) == ((0, 1, 2, 3),)


def test_random_placements_are_structured_or_anywhere():
    space = space_of(toys.chain((8, 8), 8), 8)
    rng = np.random.default_rng(0)
    drawn = [space.random_config(rng, 1) for _ in range(20_000)]
    structured = set(space.configs(1))
    assert structured <= set(drawn)
    elsewhere = sum(config not in structured for config in drawn) / len(drawn)
    assert 0.5 * proposals.ANYWHERE_SHARE < elsewhere <= 1.1 * proposals.ANYWHERE_SHARE


def test_whole_nodes_split_samples_inside_and_anything_across():
    found = placement.on_nodes(toys.machine(8, 4))
    assert [(each.start, each.samples, each.parameters) for each in found] == [
        *((start, 2, 1) for start in (0, 2, 4, 6)),
        *((start, *split) for start in (0, 4) for split in ((4, 1), (2, 2))),
        (0, 8, 1),
        (0, 2, 4),
    ]
    assert [each.samples for each in placement.on_nodes(toys.machine(6, 3))] == [
        2,
        2,
        2,
        4,
        2,
        6,
        2,
    ]
    assert placement.on_nodes(toys.machine(4)) == ()
    assert placement.on_nodes(toys.machine(5, 2)) == ()


def test_a_layer_begins_on_nodes_of_its_own():
    graph = toys.chain((32, 64, 512, 64))
    space = space_of(graph, 8, num_nodes=4)
    heaviest = space.families[space.heaviest][0]
    assert graph.operators[heaviest].output.shape == (32, 512)
    where = [(each.start, each.parameters) for each in space.on_nodes].index((4, 2))
    strategy = space.all_on_nodes(len(space.on_nodes) - 2)
    strategy = space.layer_on_nodes(strategy, space.heaviest, where)
    assert strategy.configs[heaviest] == ParallelConfig((2, 2), (4, 6, 5, 7))
    for number, operator in enumerate(graph.operators):
        if operator.weights and number != heaviest:
            assert strategy.configs[number] == ParallelConfig((8, 1), tuple(range(8)))


def test_changes_to_whole_nodes_keep_the_heaviest_layer_and_are_on_whole_nodes():
    graph = toys.diamond(48)
    space = space_of(graph, 8, num_nodes=4)
    heaviest = space.families[space.heaviest][0]
    everywhere = space.all_on_nodes(len(space.on_nodes) - 2)
    strategy = space.layer_on_nodes(everywhere, space.heaviest, 0)
    kept = strategy.configs[heaviest]
    allowed = {
        family: {
            space.layer_on_nodes(everywhere, family, where).configs[space.families[family][0]]
            for where in range(len(space.on_nodes))
        }
        for family in range(len(space.families))
        if not space.is_input[family]
    }
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(1000):
        change = space.random_change(rng, strategy, moves.Shares(nodes=1.0))
        branches = {change[n].devices for n in (2, 3) if n in change}
        # The sum has no weights, and goes along.
        assert not branches or change[4].devices in branches
        strategy = strategy.replace(change)
        assert strategy.configs[heaviest] == kept
        for family, configs in allowed.items():
            assert strategy.configs[space.families[family][0]] in configs
        seen.add(strategy)
    for family, configs in allowed.items():
        first = space.families[family][0]
        assert first == heaviest or {each.configs[first] for each in seen} == configs


def test_inputs_of_the_model_are_never_placed():
    graph = toys.chain()
    space = space_of(graph, 8)
    rng = np.random.default_rng(0)
    strategy = space.random_strategy(rng)
    inputs = [number for number, operator in enumerate(graph.operators) if operator.kind == "input"]
    assert inputs == [0, 3]
    for shares in (moves.USUAL, moves.ONE_OPERATOR, moves.Shares(1.0)):
        for _ in range(300):
            assert not set(inputs) & set(space.random_change(rng, strategy, shares))
    for number in inputs:
        assert list(space.configs(space.family_of[number], anywhere=True)) == [FED]
        split = strategy.replace({number: ParallelConfig((2,), (0, 1))})
        with pytest.raises(StrategyError, match="parallelizable dimensions are 0: none"):
            check_strategy(graph, space.dimensions, split, 8)
