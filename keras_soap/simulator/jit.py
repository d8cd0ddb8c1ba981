"""How the kernel is compiled: once, and then cached on disk.

A cache belongs to the file of the function that Python calls. So after a change to a module that
`kernel` imports, `kernel.py` must look changed too: `tests/simulator/conftest.py` sees to it.
"""

import numba

njit = numba.njit(cache=True)
inline = numba.njit(cache=True, inline="always")
"""For what runs once for each task: a call would cost more than the work."""
