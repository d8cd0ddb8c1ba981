"""Whether cores are as fast beside each other as they are alone.

Cores of a virtual machine may be one of its host's at one moment and several at another, and two
logical CPUs of a processor may be one core. The operating system of the machine cannot tell: only
the speed can.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

PROBE_S = 0.015
"""Of each core alone, and of all together."""

NUM_ELEMENTS = 131_072
"""Of an array that a core computes roots of: so long that threads seldom wait for Python's lock."""


class Cores:
    """Those that this process may use."""

    def __init__(self):
        self._numbers = sorted(os.sched_getaffinity(0))
        self._threads = ThreadPoolExecutor(len(self._numbers))

    def apart(self) -> float:
        """How fast all are together, over the sum of how fast each is alone: 1 if none shares."""
        alone = [self._threads.submit(_speed, number).result() for number in self._numbers]
        return sum(self._threads.map(_speed, self._numbers)) / sum(alone)


def _speed(core: int) -> float:
    """Arrays per second, on one core; for a thread that does nothing else."""
    os.sched_setaffinity(0, {core})
    array, roots = np.ones(NUM_ELEMENTS, np.float32), np.empty(NUM_ELEMENTS, np.float32)
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < PROBE_S:
        np.sqrt(array, out=roots)
        count += 1
    return count / (time.perf_counter() - begun)
