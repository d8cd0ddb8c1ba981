"""Arrays that rows are added to. The array is longer than what is in use, so adding is cheap."""

import numpy as np


class Growing:
    """An array that doubles when it is full.

    Attributes:
        array: The rows, and room for more. Replaced when it has to grow.
    """

    def __init__(self, shape: tuple[int, ...], dtype: type):
        """Starts empty, with rows of `shape`."""
        self.array = np.zeros((64, *shape), dtype)
        self._used = 0

    def __len__(self) -> int:
        return self._used

    def append(self, row: np.ndarray) -> None:
        """Adds one row."""
        self.extend(row[None])

    def extend(self, rows: np.ndarray) -> None:
        """Adds rows."""
        needed = self._used + len(rows)
        if needed > len(self.array):
            longer = np.zeros(
                (max(needed, 2 * len(self.array)), *self.array.shape[1:]), self.array.dtype
            )
            longer[: self._used] = self.array[: self._used]
            self.array = longer
        self.array[self._used : needed] = rows
        self._used = needed
