"""How the kernel is compiled: once, and then cached on disk.

1. numba keeps compiled code as long as the file of a function does not change; it does not notice
   a change of a function that was compiled into it from another file. So all files of this package
   are given the time of the newest: a change of one is a change of all.
2. Functions that Python does not call borrow their arrays: they make no arrays, so there are no
   references to count, which would cost more than the work.
"""

import contextlib
import os
from pathlib import Path
from typing import Any

import numba


def _change_all_with_one() -> None:
    files = list(Path(__file__).parent.glob("*.py"))
    newest = max(file.stat().st_mtime_ns for file in files)
    for file in files:
        if file.stat().st_mtime_ns < newest:
            # Where files cannot be touched nobody edits them.
            with contextlib.suppress(OSError):
                os.utime(file, ns=(newest, newest))


_change_all_with_one()

_OPTIONS: dict[str, Any] = {"cache": True, "error_model": "numpy"}
_BORROWING: dict[str, Any] = {**_OPTIONS, "_nrt": False}

entry = numba.njit(**_OPTIONS)
"""For what Python calls, or what makes arrays."""

njit = numba.njit(**_BORROWING)
"""For all others."""

inline = numba.njit(inline="always", **_BORROWING)
"""For what runs once for each task: a call would cost more than the work."""


def is_compiled(function: Any) -> bool:
    """Whether compiled code of an `entry` function is on disk, or it needs none."""
    if not hasattr(function, "stats"):
        return True  # numba is switched off.
    source = Path(function.py_func.__code__.co_filename)
    name = function.py_func.__qualname__
    cached = Path(function.stats.cache_path).glob(f"{source.stem}.{name}-*.nbi")
    return any(file.stat().st_mtime_ns >= source.stat().st_mtime_ns for file in cached)
