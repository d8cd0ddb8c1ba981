"""Times functions on a machine that does other things too.

1. All functions run in turn, round after round, so that a machine that slows down slows them all.
   What a function takes beyond another is the median of the differences within rounds.
2. Rounds stop when the 95 % confidence interval of the median is narrow enough, or time is up.
3. Interference only ever slows: rounds far above the median are left out.
4. So are rounds in which cores are slower than at other moments, as they or others hinder them:
   see `cores`.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from keras_soap.costs.cores import Cores

DEVIATION_OF_MAD = 1.4826
"""Standard deviation over median absolute deviation, for normally distributed values."""

ERROR_OF_MEDIAN = 1.2533
"""Standard error of a median over that of a mean, for the same."""

PATIENCE = 40
"""For so many times `Precision.seconds` slow rounds go on at most, until enough others count."""

OUTLIER_DEVIATIONS = 5.0
"""A round that is this many standard deviations above the median has met something else."""


@dataclass(frozen=True, slots=True)
class Precision:
    """When to stop repeating.

    Attributes:
        relative_error: Half the 95 % confidence interval of the median, over the median.
        error_ns: Half an interval that is narrow enough however short the time is.
        min_runs: Rounds at least.
        max_runs: Rounds at most.
        seconds: Time for all rounds; exceeded only for `min_runs`.
    """

    relative_error: float = 0.03
    error_ns: float = 3_000.0
    min_runs: int = 7
    max_runs: int = 100
    seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of functions that ran in turn.

    Attributes:
        beyond_previous_ns: For each function but the first the median of what it took beyond the
            one before it; never negative.
        relative_spread: Standard deviation of what the last took beyond the first, over its median.
        num_runs: Rounds that these are over, outliers left out.
    """

    beyond_previous_ns: tuple[int, ...]
    relative_spread: float
    num_runs: int


def time_in_turn(
    functions: Sequence[Callable[[], object]],
    precision: Precision,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
    cores: Cores | None = None,
) -> Timing:
    """Times `functions` against each other; each returns when its work is done.

    Args:
        functions: First one that does nothing but be called, then ever more work. They must have
            run before, so that nothing is traced or allocated for the first time.
        precision: When to stop.
        clock_ns: What is to be told: the time that passes, or that of processors.
        cores: Those that are at work; rounds in which they are slower than they can be do not
            count. If others are too long in coming (`PATIENCE`, `Cores.wait`), the fastest do.
    """
    rounds: list[list[int]] = []
    speeds: list[float] = []
    began = clock_ns()
    before = cores.speed() if cores else 1.0
    while True:
        row = []
        for function in functions:
            start = clock_ns()
            function()
            row.append(clock_ns() - start)
        rounds.append(row)
        after = cores.speed() if cores else 1.0
        speeds.append(min(before, after))
        before = after
        counted = [
            row for row, s in zip(rounds, speeds, strict=True) if not cores or cores.enough(s)
        ]
        slow_s = (clock_ns() - began) / 1e9 * (1 - len(counted) / len(rounds))
        if len(counted) < precision.min_runs:
            if not cores or len(rounds) < precision.min_runs:
                continue
            if slow_s < PATIENCE * precision.seconds and cores.wait(slow_s):
                continue
            fastest = sorted(range(len(rounds)), key=lambda number: -speeds[number])
            counted = [rounds[number] for number in fastest[: precision.min_runs]]
            cores.settle_for(speeds[fastest[precision.min_runs - 1]])
        kept = without_outliers(np.array(counted, np.float64))
        beyond = kept[:, -1] - kept[:, 0]
        half_interval = 1.96 * ERROR_OF_MEDIAN * deviation(beyond) / np.sqrt(len(beyond))
        narrow = max(precision.error_ns, precision.relative_error * np.median(beyond))
        is_late = clock_ns() - began > 1e9 * precision.seconds
        if half_interval <= narrow or is_late or len(counted) >= precision.max_runs:
            break
    if cores:
        cores.waited(slow_s)
    steps = np.maximum(np.median(np.diff(kept, axis=1), axis=0), 0).round().astype(int)
    median = float(np.median(beyond))
    spread = deviation(beyond) / median if median > 0 else 0.0
    return Timing(tuple(steps.tolist()), float(spread), len(kept))


def deviation(values: np.ndarray) -> float:
    """Standard deviation, as estimated from the median absolute deviation."""
    return DEVIATION_OF_MAD * float(np.median(np.abs(values - np.median(values))))


def without_outliers(rounds: np.ndarray) -> np.ndarray:
    """Rounds (rows) whose total is not far above the median of totals."""
    totals = rounds.sum(axis=1)
    limit = np.median(totals) + OUTLIER_DEVIATIONS * deviation(totals)
    return rounds[totals <= limit]
