"""When each task ran."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Timeline:
    """The outcome of a simulation.

    Attributes:
        ready_ns: int64 (T,). When the last predecessor of each task ended.
        start_ns: int64 (T,). When each task started.
        end_ns: int64 (T,). When it ended.
    """

    ready_ns: np.ndarray
    start_ns: np.ndarray
    end_ns: np.ndarray

    @property
    def step_time_ns(self) -> int:
        """When the last task ended; 0 if there is none."""
        return int(self.end_ns.max(initial=0))
