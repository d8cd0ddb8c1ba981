"""What the accuracy benchmark makes of its (network, strategy) pairs."""

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_soap.costs.cores import LEAST_APART

Pair = Mapping[str, Any]
"""`model`, `strategy`, `predicted_s`, and by turn the seconds of each step: `measured_s`, and in
`processor_s` those of all cores together, and how fast cores were beside each other: `apart`. In a
round all strategies of a network take turns, so rounds of different strategies can be compared."""


CHANCE = 0.05
"""An order that rounds agree about less often by chance is decided."""

QUANTILE = 0.25
"""Of steps: what interferes only ever slows them. Of medians, means, minima and quartiles, of steps
or of turns, relative to their round or not, halves of the rounds agreed best about the order of
these; see `costs/README.md`."""


def undisturbed(pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs of one network with those steps only in which each core was one of its own.

    As far as it usually is on this machine. A turn may be left with no step, but not all of them.
    """
    ratios = [ratio for pair in pairs for turn in pair["apart"] for ratio in turn]
    least = LEAST_APART * float(np.quantile(ratios, 0.75))
    kept = []
    for pair in pairs:
        whole = [[ratio >= least for ratio in turn] for turn in pair["apart"]]
        if any(map(any, whole)):
            clocks = ("measured_s", "processor_s")
            steps = {clock: list(map(_compress, pair[clock], whole)) for clock in clocks}
            pair = {**pair, **steps}
        kept.append(pair)
    return kept


def _compress(steps: Sequence[float], kept: Sequence[bool]) -> list[float]:
    return list(itertools.compress(steps, kept))


def num_steps(pairs: Sequence[Pair]) -> int:
    """How many steps were measured."""
    return sum(len(turn) for pair in pairs for turn in pair["measured_s"])


def measured(pair: Pair) -> float:
    """Seconds per step: the lower quartile of all that were timed."""
    return _quick(itertools.chain.from_iterable(pair["measured_s"]))


def _quick(steps: Iterable[float]) -> float:
    return float(np.quantile(list(steps), QUANTILE))


def cores(pair: Pair) -> float:
    """How many cores a step keeps at work."""
    return sum(map(sum, pair["processor_s"])) / sum(map(sum, pair["measured_s"]))


def halves(pair: Pair) -> tuple[Pair, Pair] | None:
    """The pair by one half of its rounds, and by the other; None if one of them has no step.

    Two rounds that follow each other go opposite ways: each half has both ways.
    """
    turns = pair["measured_s"]
    of_half = [[turn for n, turn in enumerate(turns) if (n + 1) // 2 % 2 == h] for h in (0, 1)]
    if not all(any(half) for half in of_half):
        return None
    return {**pair, "measured_s": of_half[0]}, {**pair, "measured_s": of_half[1]}


def error(pair: Pair) -> float:
    """Of the prediction, relative to what was measured; negative if it is too fast."""
    return pair["predicted_s"] / measured(pair) - 1


def spread(pair: Pair) -> float:
    """Half of the difference between what halves of the rounds say, over what all say."""
    both = halves(pair)
    return abs(measured(both[0]) - measured(both[1])) / 2 / measured(pair) if both else 0.0


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
    turns = zip(one["measured_s"], other["measured_s"], strict=True)
    signs = np.array([np.sign(_quick(a) - _quick(b)) for a, b in turns if a and b])
    faster, slower = int((signs < 0).sum()), int((signs > 0).sum())
    total = faster + slower
    as_uneven = sum(math.comb(total, k) for k in range(max(faster, slower), total + 1))
    by_chance = min(1.0, 2 * as_uneven / 2**total)
    return int(np.sign(slower - faster)) if by_chance <= CHANCE else 0


def tau_of_halves(pairs: Sequence[Pair]) -> float | None:
    """Kendall's tau of halves of the rounds, which share none of their noise; None of one round."""
    both = [of_pair for of_pair in map(halves, pairs) if of_pair]
    if len(both) < len(pairs):
        return None
    return kendall_tau(*([measured(of_pair[half]) for of_pair in both] for half in (0, 1)))


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
        of_halves = figures["kendall_tau_of_halves"][model]
        undecided = f"{figures['undecided_orders'][model]} of {figures['orders'][model]}"
        lines.append(
            f"{model:<14}{figures['mean_error_of'][model]:>11.1%}{tau:>7.2f}"
            f"{'–' if of_halves is None else f'{of_halves:.2f}':>11}"
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
