"""What the accuracy benchmark makes of its (network, strategy) pairs.

1. Steps count in which cores were as fast as they usually are (`keras_soap.costs.cores`).
2. In a round all strategies of a network take turns, near each other, so that a machine that is
   slower for a while is so for all of them. So what counts of a turn is its median step, relative
   to those of the other strategies in the same round; and of these the median over all rounds.
3. Halves of the rounds agree better about the order of these than about that of quartiles and
   minima, or of what is not relative to its round; about means of turns as well. See
   `costs/README.md` for what the choice makes of figures.
"""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_soap.costs.cores import LEAST_SPEED

Pair = Mapping[str, Any]
"""`model`, `strategy`, `predicted_s`, and by turn the seconds of each step: `measured_s`, in
`processor_s` those of all cores together, and how fast cores were: `speed`. `of_network` adds the
seconds of a step, `step_s`, and how far halves of the rounds are from them, in proportion,
`spread`."""


CHANCE = 0.05
"""An order that rounds agree about less often by chance is decided."""


def of_network(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs of one network with the steps that count, and what these say."""
    kept = undisturbed(pairs)
    both = halves(kept)
    of_halves = [steps_s(half) for half in both] if both else [np.zeros(len(kept))] * 2
    differences = np.abs(of_halves[0] - of_halves[1]) / 2
    return [
        {**pair, "step_s": float(step_s), "spread": float(difference / step_s)}
        for pair, step_s, difference in zip(kept, steps_s(kept), differences, strict=True)
    ]


def undisturbed(pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs of one network with those steps only in which cores were as fast as they usually are.

    A turn may be left with no step, but not all of them.
    """
    speeds = [speed for pair in pairs for turn in pair["speed"] for speed in turn]
    least = LEAST_SPEED * float(np.quantile(speeds, 0.75))
    kept = []
    for pair in pairs:
        whole = [[speed >= least for speed in turn] for turn in pair["speed"]]
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


def steps_s(pairs: Sequence[Pair]) -> np.ndarray:
    """Seconds per step of each pair of one network; see the rules."""
    turns = np.array(
        [[np.median(turn) if turn else np.nan for turn in pair["measured_s"]] for pair in pairs]
    )
    turns = turns[:, ~np.isnan(turns).all(axis=0)]
    levels = np.nanmedian(turns, axis=0)
    return np.nanmedian(turns / levels, axis=1) * np.median(levels)


def cores(pair: Pair) -> float:
    """How many cores a step keeps at work."""
    return sum(map(sum, pair["processor_s"])) / sum(map(sum, pair["measured_s"]))


def halves(pairs: Sequence[Pair]) -> list[list[Pair]] | None:
    """Pairs by one half of their rounds, and by the other; None if one has no step of some.

    Two rounds that follow each other go opposite ways: each half has both ways.
    """
    both = []
    for half in (0, 1):
        of_half = [
            {
                **pair,
                "measured_s": [
                    turn for n, turn in enumerate(pair["measured_s"]) if (n + 1) // 2 % 2 == half
                ],
            }
            for pair in pairs
        ]
        if not all(any(pair["measured_s"]) for pair in of_half):
            return None
        both.append(of_half)
    return both


def error(pair: Pair) -> float:
    """Of the prediction, relative to what was measured; negative if it is too fast."""
    return pair["predicted_s"] / pair["step_s"] - 1


def summarize(pairs: Sequence[Pair]) -> dict[str, Any]:
    """The figures of all pairs, and by network."""
    errors = [abs(error(pair)) for pair in pairs]
    result: dict[str, Any] = {
        "num_pairs": len(pairs),
        "mean_error": statistics.fmean(errors),
        "max_error": max(errors),
        "share_within_30_percent": statistics.fmean(e <= 0.3 for e in errors),
        "mean_spread": statistics.fmean(pair["spread"] for pair in pairs),
    }
    by_model = {
        model: [pair for pair in pairs if pair["model"] == model]
        for model in dict.fromkeys(pair["model"] for pair in pairs)
    }
    figures: dict[str, Any] = {
        "mean_error_of": lambda some: statistics.fmean(abs(error(pair)) for pair in some),
        "kendall_tau": lambda some: kendall_tau(
            [pair["predicted_s"] for pair in some], [pair["step_s"] for pair in some]
        ),
        "kendall_tau_of_halves": tau_of_halves,
        "kendall_tau_of_decided": tau_of_decided,
        "orders": lambda some: len(some) * (len(some) - 1) // 2,
        "undecided_orders": lambda some: sum(
            order(*two) == 0 for two in itertools.combinations(some, 2)
        ),
        "chosen_over_best": lambda some: (
            min(some, key=lambda pair: pair["predicted_s"])["step_s"]
            / min(pair["step_s"] for pair in some)
        ),
    }
    for name, figure in figures.items():
        result[name] = {model: figure(some) for model, some in by_model.items()}
    return result


def kendall_tau(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
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
    signs = np.array([np.sign(np.median(a) - np.median(b)) for a, b in turns if a and b])
    faster, slower = int((signs < 0).sum()), int((signs > 0).sum())
    total = faster + slower
    as_uneven = sum(math.comb(total, k) for k in range(max(faster, slower), total + 1))
    by_chance = min(1.0, 2 * as_uneven / 2**total)
    return int(np.sign(slower - faster)) if by_chance <= CHANCE else 0


def tau_of_halves(pairs: Sequence[Pair]) -> float | None:
    """Kendall's tau of halves of the rounds, which share none of their noise; None of one round."""
    both = halves(pairs)
    return kendall_tau(*map(steps_s, both)) if both else None


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
            [pair["step_s"] for pair in of_model],
            [pair["predicted_s"] for pair in of_model],
            label=model,
            s=14,
        )
    measured = [pair["step_s"] for pair in pairs]
    ends = [min(measured), max(measured)]
    axes.plot(ends, ends, color="gray", linewidth=1, label="exact")
    for factor in (0.7, 1.3):
        axes.plot(ends, [factor * e for e in ends], "--", color="gray", linewidth=0.5)
    axes.set(
        xscale="log", yscale="log", xlabel="measured s per step", ylabel="predicted s per step"
    )
    axes.legend()
    figure.savefig(path, bbox_inches="tight")
