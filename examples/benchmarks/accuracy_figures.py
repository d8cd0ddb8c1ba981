"""What the accuracy benchmark makes of its (network, strategy) pairs."""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_soap.costs.timing import ERROR_OF_MEDIAN, deviation

Pair = Mapping[str, Any]
"""`model`, `strategy`, `predicted_s`, and by turn the seconds of each step: `measured_s`, and in
`processor_s` those of all cores together. In a round all strategies of a network take turns, so
rounds of different strategies can be compared."""

CHANCE = 0.05
"""An order that rounds agree about less often by chance is decided."""


def measured(pair: Pair) -> float:
    """Seconds per step: the median of all turns' medians."""
    return statistics.median(_by_turn(pair))


def _by_turn(pair: Pair) -> list[float]:
    return [statistics.median(turn) for turn in pair["measured_s"]]


def cores(pair: Pair) -> float:
    """How many cores a step keeps at work."""
    of_turns = [statistics.median(turn) for turn in pair["processor_s"]]
    return statistics.median(of_turns) / measured(pair)


def error(pair: Pair) -> float:
    """Of the prediction, relative to what was measured; negative if it is too fast."""
    return pair["predicted_s"] / measured(pair) - 1


def spread(pair: Pair) -> float:
    """Half of the 95 % confidence interval of what was measured, over that."""
    turns = np.array(_by_turn(pair))
    return 1.96 * ERROR_OF_MEDIAN * deviation(turns) / np.sqrt(len(turns)) / measured(pair)


def summarize(pairs: Sequence[Pair]) -> dict[str, Any]:
    """The figures of all pairs, and by network."""
    errors = [abs(error(pair)) for pair in pairs]
    result: dict[str, Any] = {
        "num_pairs": len(pairs),
        "mean_error": statistics.fmean(errors),
        "max_error": max(errors),
        "share_within_30_percent": statistics.fmean(e <= 0.3 for e in errors),
        "mean_spread": statistics.fmean(map(spread, pairs)),
    }
    by_model = {
        model: [pair for pair in pairs if pair["model"] == model]
        for model in dict.fromkeys(pair["model"] for pair in pairs)
    }
    figures: dict[str, Any] = {
        "mean_error_of": lambda some: statistics.fmean(abs(error(pair)) for pair in some),
        "kendall_tau": lambda some: kendall_tau(
            [pair["predicted_s"] for pair in some], list(map(measured, some))
        ),
        "kendall_tau_of_halves": tau_of_halves,
        "kendall_tau_of_decided": tau_of_decided,
        "orders": lambda some: len(some) * (len(some) - 1) // 2,
        "undecided_orders": lambda some: sum(
            order(*two) == 0 for two in itertools.combinations(some, 2)
        ),
        "chosen_over_best": lambda some: (
            measured(min(some, key=lambda pair: pair["predicted_s"])) / min(map(measured, some))
        ),
    }
    for name, figure in figures.items():
        result[name] = {model: figure(some) for model, some in by_model.items()}
    return result


def kendall_tau(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau-b: 1 where both order alike, -1 where oppositely; 0 if one is all ties."""
    signs_a = np.sign(np.subtract.outer(a, a))
    signs_b = np.sign(np.subtract.outer(b, b))
    untied = np.sqrt(float((signs_a**2).sum()) * float((signs_b**2).sum()))
    return float((signs_a * signs_b).sum() / untied) if untied else 0.0


def order(one: Pair, other: Pair) -> int:
    """-1 if the first is faster, 1 if the second is; 0 if measuring cannot tell.

    A sign test: turns of both are compared round by round, since they ran near each other.
    """
    signs = np.sign(np.subtract(_by_turn(one), _by_turn(other)))
    faster, slower = int((signs < 0).sum()), int((signs > 0).sum())
    total = faster + slower
    as_uneven = sum(math.comb(total, k) for k in range(max(faster, slower), total + 1))
    by_chance = min(1.0, 2 * as_uneven / 2**total)
    return int(np.sign(slower - faster)) if by_chance <= CHANCE else 0


def tau_of_halves(pairs: Sequence[Pair]) -> float | None:
    """Kendall's tau of one half of the rounds with the other, which share none of their noise.

    None of a single round. Two rounds that follow each other go opposite ways: each half has both.
    """
    if min(len(pair["measured_s"]) for pair in pairs) < 2:
        return None
    halves = [[], []]
    for pair in pairs:
        for half, found in enumerate(halves):
            turns = [turn for n, turn in enumerate(pair["measured_s"]) if (n + 1) // 2 % 2 == half]
            found.append(measured({**pair, "measured_s": turns}))
    return kendall_tau(*halves)


def tau_of_decided(pairs: Sequence[Pair]) -> float | None:
    """Kendall's tau over those pairs of strategies whose order is decided.

    None if there are none.
    """
    agreements = []
    for one, other in itertools.combinations(pairs, 2):
        decided = order(one, other)
        if decided:
            agreements.append(decided * np.sign(one["predicted_s"] - other["predicted_s"]))
    return float(np.mean(agreements)) if agreements else None


def render(figures: Mapping[str, Any]) -> str:
    """For people."""
    lines = [
        f"{figures['num_pairs']} pairs: mean error {figures['mean_error']:.1%}, at most "
        f"{figures['max_error']:.1%}; within 30 %: {figures['share_within_30_percent']:.0%}; "
        f"measured ± {figures['mean_spread']:.1%}",
        f"{'network':<14}{'mean error':>11}{'tau-b':>7}{'of halves':>11}{'decided tau':>13}"
        f"{'undecided':>11}"
        f"{'chosen/best':>13}",
    ]
    for model, tau in figures["kendall_tau"].items():
        decided = figures["kendall_tau_of_decided"][model]
        halves = figures["kendall_tau_of_halves"][model]
        undecided = f"{figures['undecided_orders'][model]} of {figures['orders'][model]}"
        lines.append(
            f"{model:<14}{figures['mean_error_of'][model]:>11.1%}{tau:>7.2f}"
            f"{'–' if halves is None else f'{halves:.2f}':>11}"
            f"{'–' if decided is None else f'{decided:.2f}':>13}{undecided:>11}"
            f"{figures['chosen_over_best'][model]:>13.3f}"
        )
    return "\n".join(lines)


def plot(pairs: Sequence[Pair], path: str) -> None:
    """Predicted against measured, with lines at 30 %. Needs matplotlib."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 5))
    for model in dict.fromkeys(pair["model"] for pair in pairs):
        of_model = [pair for pair in pairs if pair["model"] == model]
        axes.scatter(
            list(map(measured, of_model)),
            [pair["predicted_s"] for pair in of_model],
            label=model,
            s=14,
        )
    ends = [min(map(measured, pairs)), max(map(measured, pairs))]
    axes.plot(ends, ends, color="gray", linewidth=1, label="exact")
    for factor in (0.7, 1.3):
        axes.plot(ends, [factor * e for e in ends], "--", color="gray", linewidth=0.5)
    axes.set(
        xscale="log", yscale="log", xlabel="measured s per step", ylabel="predicted s per step"
    )
    axes.legend()
    figure.savefig(path, bbox_inches="tight")
