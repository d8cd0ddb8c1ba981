"""Locks that processes on one machine take in turn."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock that the file `path` stands for, and makes the file if need be."""
    try:
        import fcntl
    except ImportError:  # Not a POSIX system, and no process waits for another.
        yield
        return
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield  # Closing unlocks.
