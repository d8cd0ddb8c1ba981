"""Greedy descent: changes one operator at a time, until no change helps.

Where it ends, the strategy is a local optimum of what was tried: all degrees, on all structured
placements and on the devices of each neighbour; with `anywhere`, on every placement.
"""

from collections.abc import Iterator

from keras_soap.objective import Evaluation, Evaluator
from keras_soap.search.tracker import Tracker
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.strategy.search_space import SearchSpace
from keras_soap.strategy.strategy import Strategy


def descend(
    start: Evaluation,
    space: SearchSpace,
    objective: Evaluator,
    tracker: Tracker,
    anywhere: bool = False,
) -> bool:
    """Improves `start`, telling `tracker` of every step down.

    Returns:
        Whether it ended at a local optimum, rather than with the budget.
    """
    current = start
    since_change = 0
    family = 0
    num_families = len(space.families)
    while since_change < num_families:
        members = space.families[family]
        since_change += 1
        for config in candidates(space, family, current.strategy, anywhere):
            if config == current.strategy.configs[members[0]]:
                continue
            if tracker.spent():
                return False
            tracker.proposals += 1
            proposed = objective.update(
                current, dict.fromkeys(members, config), current.step_time_ns
            )
            if proposed.rank < current.rank:
                current = proposed
                since_change = 0
                tracker.offer(current)
        family = (family + 1) % num_families
    return True


def candidates(
    space: SearchSpace, family: int, strategy: Strategy, anywhere: bool = False
) -> Iterator[ParallelConfig]:
    """What a family may change to, each once."""
    if anywhere or not space.places:
        yield from space.configs(family, anywhere)
        return
    seen = set()
    for config in space.configs(family):
        seen.add(config)
        yield config
    for config in space.followers(family, strategy):
        if config not in seen:
            seen.add(config)
            yield config
