"""How fast cores are at the moment, beside each other and beside one of them alone.

Cores of a virtual machine may be one of its host's at one moment and several at the next, two
logical CPUs of a processor may be one core, and others on the host slow a core down for seconds or
minutes. The operating system cannot tell: only the speed can.
"""

import contextlib
import functools
import os
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np

PROBE_S = 0.015
"""For a core alone, and for all together."""

MOST_CORES = 8
"""That are compared. With many more threads would wait for Python's lock."""

MATRICES = 32, 64, 64
"""That a core multiplies, as what is timed mostly does: other work, such as square roots, is slowed
down by others, too, but by less. So small that no library shares them out over cores, and so many
that it takes long enough for the same reason as above."""

FASTEST = 0.9
"""Of what a core alone was seen to do this quantile counts as what it can do: a few moments are
faster, as those in which its clock is."""

MOST_SEEN = 4096
"""Moments that are kept."""

LEAST_SPEED = 0.88
"""Of the speed that cores can have; at slower moments they are hindered."""

PATIENCE_S = 120.0
"""For moments at which cores are fast, of all that is timed in a process."""


class Cores:
    """Those that this process may use."""

    def __init__(self):
        self._alone: deque[float] = deque(maxlen=MOST_SEEN)
        self._best = 1.0
        self._patience_s = PATIENCE_S

    def speed(self) -> float:
        """How fast they are at the moment, all at work together, over what one can do alone.

        1 where nothing hinders them, and where nothing can be told (not on Linux).
        """
        numbers = _numbers()
        if not numbers:
            return 1.0
        with ThreadPoolExecutor(len(numbers)) as threads:
            together = alone = threads.submit(_speed, numbers[0]).result()
            if len(numbers) > 1:
                together = sum(threads.map(_speed, numbers)) / len(numbers)
        self._alone.append(alone)
        ratio = min(1.0, together / float(np.quantile(self._alone, FASTEST)))
        self._best = max(self._best, ratio)
        return ratio

    def enough(self, speed: float) -> bool:
        """Whether nothing that ever changes hinders them, if this is their speed."""
        return speed >= LEAST_SPEED * self._best

    def wait(self, seconds: float) -> bool:
        """Whether to wait on for fast moments, after so many seconds of slow ones."""
        return seconds < self._patience_s

    def waited(self, seconds: float) -> None:
        """What was timed took so much longer because of slow moments."""
        self._patience_s -= seconds

    def settle_for(self, speed: float) -> None:
        """They are as fast as they can be at this speed, as long as they are no faster."""
        self._best = speed


@functools.cache
def of_this_process() -> Cores:
    """The one that knows how fast cores were so far."""
    return Cores()


def _numbers() -> list[int]:
    if not hasattr(os, "sched_getaffinity"):
        return []
    return sorted(os.sched_getaffinity(0))[:MOST_CORES]


def _speed(core: int) -> float:
    """Products per second, on one core; for a thread that does nothing else."""
    _set_affinity(0, {core})
    matrices, products = np.ones(MATRICES, np.float32), np.empty(MATRICES, np.float32)
    np.matmul(matrices, matrices, out=products)
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < PROBE_S:
        np.matmul(matrices, matrices, out=products)
        count += 1
    return count / (time.perf_counter() - begun)


def _set_affinity(thread: int, cores: set[int]) -> None:
    """Nothing happens to a thread that has ended, nor where the system forbids it."""
    with contextlib.suppress(OSError):
        os.sched_setaffinity(thread, cores)
