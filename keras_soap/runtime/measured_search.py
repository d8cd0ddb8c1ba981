"""Searches on measured times, and looks twice at what it finds.

Every measurement is off by some percent, and a search takes most of what was measured too fast: so
the time that it predicts is too short, and a strategy of worse parts may win. It also passes over
what was measured too slow. Therefore the parts that the winner uses, and those of baselines that it
is hardly faster than, are measured again, at another moment, and only that second time counts,
which nobody has chosen. Then the search goes on from there, until it finds what was looked at
twice.
"""

from collections.abc import Iterable
from typing import Any

from keras_soap.costs.cost_profile import CostProfile
from keras_soap.costs.measure import MeasuredProfile
from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions
from keras_soap.runtime.measuring import measure_again
from keras_soap.search.problem import Budget
from keras_soap.search.result import SearchResult
from keras_soap.search.run import search
from keras_soap.strategy.baselines import BASELINES
from keras_soap.strategy.strategy import Strategy
from keras_soap.tasks.lowering import Lowering
from keras_soap.topology.device_topology import DeviceTopology

MOST_SEARCHES = 4
"""The first one, and those after second looks."""

LATER_SHARE = 0.25
"""Of the budget, for each search but the first."""

LOOKED_AT_SHARE = 0.95
"""Of what a strategy computes: parts that take little are not measured again."""

NEAR = 0.1
"""Baselines that are predicted to take no more than so much longer than the winner are compared
with it on equal terms."""


def measured_search(
    lowering: Lowering,
    topology: DeviceTopology,
    profile: CostProfile,
    seconds: float,
    progress: bool = True,
    **options: Any,
) -> SearchResult:
    """Finds the fastest strategy, by times that were measured twice if `profile` measures.

    Args:
        lowering: Of the model's graph.
        topology: To plan for.
        profile: Times of parts. A `MeasuredProfile` knows more of them afterwards.
        seconds: For the first search.
        progress: Whether to show progress bars, on stderr.
        **options: Of `keras_soap.search.run.search`.
    """
    options = {**options, "progress": progress}
    result = search(lowering.graph, topology, profile, budget=Budget(seconds), **options)
    for _ in range(MOST_SEARCHES - 1):
        if not isinstance(profile, MeasuredProfile) or options.get("method") in BASELINES:
            break
        looks = [
            measure_again(profile, _heavy(lowering, topology, profile, strategy), progress)
            for strategy in _near(result)
        ]
        if not any(looks):
            break
        options["initial"] = [*options.get("initial", ()), result.strategy]
        budget = Budget(seconds * LATER_SHARE)
        result = search(lowering.graph, topology, profile, budget=budget, **options)
    return result


def _near(result: SearchResult) -> Iterable[Strategy]:
    """The winner, and baselines that it is hardly faster than."""
    yield result.strategy
    for baseline in result.baselines.values():
        longest_ns = (1 + NEAR) * result.evaluation.step_time_ns
        if baseline.feasible and baseline.step_time_ns <= longest_ns:
            yield baseline.strategy


def _heavy(
    lowering: Lowering, topology: DeviceTopology, profile: MeasuredProfile, strategy: Strategy
) -> list[tuple[Operator, Regions]]:
    """The parts that take the most time in a strategy."""
    time_ns: dict[tuple[str, tuple[int, ...]], int] = {}
    parts: dict[tuple[str, tuple[int, ...]], tuple[Operator, Regions]] = {}
    for number, (operator, config) in enumerate(
        zip(lowering.graph.operators, strategy.configs, strict=True)
    ):
        key = operator.signature, config.degrees
        regions = lowering.operator(number, config.degrees).outputs[0]
        times = profile.part_times_ns(operator, regions, topology.devices[config.devices[0]])
        parts[key] = operator, regions
        time_ns[key] = time_ns.get(key, 0) + sum(int(of_pass.sum()) for of_pass in times)
    found = []
    left_ns = LOOKED_AT_SHARE * sum(time_ns.values())
    for key in sorted(parts, key=lambda key: -time_ns[key]):
        if left_ns > 0:
            found.append(parts[key])
        left_ns -= time_ns[key]
    return found
