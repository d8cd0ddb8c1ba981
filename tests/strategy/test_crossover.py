import numpy as np
import pytest

from keras_soap.strategy.moves import Shares, meet
from keras_soap.strategy.search_space import SearchSpace
from keras_soap.tasks.lowering import Lowering
from tests.search import toys

ONLY_CROSSOVERS = Shares(crossover=1.0)


def space_of(graph, dims="SOAP"):
    return SearchSpace(graph, Lowering(graph).dimensions, toys.machine(4), dims)


def differing(space, one, other):
    """Families in which strategies differ."""
    return {
        family
        for family, members in enumerate(space.families)
        if one.configs[members[0]] != other.configs[members[0]]
    }


@pytest.mark.parametrize("graph", [toys.chain((64, 32, 16)), toys.diamond(), toys.twins()])
@pytest.mark.parametrize("dims", ["SOAP", "SAP"])
def test_a_crossover_takes_from_the_partner_what_is_different_there_and_nothing_else(graph, dims):
    space = space_of(graph, dims)
    rng = np.random.default_rng(0)
    sizes = set()
    for _ in range(40):
        here, partner = space.random_strategy(rng), space.random_strategy(rng)
        different = differing(space, here, partner)
        meet(space.moves, space, partner)
        for _ in range(10 if different else 0):
            change = space.random_change(rng, here, ONLY_CROSSOVERS)
            changed = {space.family_of[number] for number in change}
            # Seldom none of those is drawn in which they differ: then the change is any other.
            if not changed <= different:
                assert len(different) < len(space.families) / 2
                continue
            for family in changed:
                for member in space.families[family]:
                    assert change[member] == partner.configs[member]
            sizes.add(len(changed))
    assert {1, 2} <= sizes


def test_crossovers_reach_every_part_of_what_is_different():
    space = space_of(toys.diamond())
    rng = np.random.default_rng(1)
    here, partner = space.random_strategy(rng), space.random_strategy(rng)
    different = differing(space, here, partner)
    assert len(different) >= 4
    meet(space.moves, space, partner)
    seen = set()
    for _ in range(2000):
        change = space.random_change(rng, here, ONLY_CROSSOVERS)
        seen.add(frozenset(space.family_of[number] for number in change))
    assert len([each for each in seen if each <= different]) == 2 ** len(different) - 1


def test_beside_a_partner_that_is_the_same_changes_are_the_usual_ones():
    space = space_of(toys.diamond())
    strategy = space.random_strategy(np.random.default_rng(0))
    meet(space.moves, space, strategy)
    rng = np.random.default_rng(0)
    changes = [space.random_change(rng, strategy, ONLY_CROSSOVERS) for _ in range(18)]
    assert len({strategy.replace(change) for change in changes} - {strategy}) > 5
