"""Whether cores are as fast beside each other as they are alone.

Cores of a virtual machine may be one of its host's at one moment and several at the next, and two
logical CPUs of a processor may be one core. The operating system cannot tell: only the speed can.
"""

import contextlib
import functools
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

PROBE_S = 0.015
"""For a core alone, and for all together."""

MOST_CORES = 8
"""That are compared. With many more threads would wait for Python's lock."""

NUM_ELEMENTS = 131_072
"""Of an array that a core computes roots of, for the same reason: so that it takes long enough."""

LEAST_APART = 0.85
"""How fast cores are beside each other while they are apart, of how fast they can be."""


class Cores:
    """Those that this process may use."""

    def __init__(self):
        self._best = 1.0

    def apart(self) -> float:
        """How fast they are together, over how fast they were if each were alone.

        1 if none shares anything with another, and where they cannot be told apart (not on Linux).
        """
        if not hasattr(os, "sched_setaffinity"):
            return 1.0
        numbers = sorted(os.sched_getaffinity(0))[:MOST_CORES]
        with ThreadPoolExecutor(len(numbers)) as threads:
            alone = threads.submit(_speed, numbers[0]).result()
            ratio = sum(threads.map(_speed, numbers)) / len(numbers) / alone
        self._best = min(1.0, max(self._best, ratio))
        return ratio

    def enough(self, ratio: float) -> bool:
        """Whether cores are as far apart as can be, if `apart` says `ratio`."""
        return ratio >= LEAST_APART * self._best

    def settle_for(self, ratio: float) -> None:
        """What `apart` says at most, as long as it does not say more."""
        self._best = min(1.0, ratio)


@functools.cache
def of_this_process() -> Cores:
    """The one that knows how far apart cores were so far."""
    return Cores()


def _speed(core: int) -> float:
    """Arrays per second, on one core; for a thread that does nothing else."""
    _set_affinity(0, {core})
    array, roots = np.ones(NUM_ELEMENTS, np.float32), np.empty(NUM_ELEMENTS, np.float32)
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < PROBE_S:
        np.sqrt(array, out=roots)
        count += 1
    return count / (time.perf_counter() - begun)


@contextlib.contextmanager
def on_one_core() -> Iterator[None]:
    """All threads of this process share one of its cores, where the system lets them (Linux)."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    usual = os.sched_getaffinity(0)
    before = {thread: cores for thread in _threads() if (cores := _affinity(thread))}
    try:
        for thread in before:
            _set_affinity(thread, {min(usual)})
        yield
    finally:
        # Threads that began meanwhile have the affinity of those that started them.
        for thread in _threads():
            _set_affinity(thread, before.get(thread, usual))


def _threads() -> list[int]:
    return [int(entry.name) for entry in Path("/proc/self/task").iterdir()]


def _affinity(thread: int) -> set[int] | None:
    """Cores that a thread may use; None if it has ended."""
    try:
        return os.sched_getaffinity(thread)
    except OSError:
        return None


def _set_affinity(thread: int, cores: set[int]) -> None:
    """Nothing happens to a thread that has ended, nor where the system forbids it."""
    with contextlib.suppress(OSError):
        os.sched_setaffinity(thread, cores)
