"""How the kernel is compiled: once, and then cached on disk.

1. A cache belongs to the file of the function that Python calls. So after a change to a module that
   `kernel` imports, `kernel.py` must look changed too: `tests/simulator/conftest.py` sees to it.
2. Functions that Python does not call borrow their arrays: they make no arrays, so there are no
   references to count, which would cost more than the work.
"""

import numba

entry = numba.njit(cache=True, error_model="numpy")
"""For what Python calls, or what makes arrays."""

njit = numba.njit(cache=True, _nrt=False, error_model="numpy")
"""For all others."""

inline = numba.njit(cache=True, _nrt=False, inline="always", error_model="numpy")
"""For what runs once for each task: a call would cost more than the work."""
