"""Keeps TensorFlow's start-up chatter from burying a command's own lines."""

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops what goes to stderr, if this may be where TensorFlow is imported.

    Its native code logs before it reads `TF_CPP_MIN_LOG_LEVEL`. Exceptions come through.
    """
    if "tensorflow" in sys.modules:
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
