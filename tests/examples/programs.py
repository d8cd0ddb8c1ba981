"""Benchmark programs as modules, for tests that run them in this process."""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from absl import flags

FOLDER = Path(__file__).parents[2] / "examples" / "benchmarks"


@contextlib.contextmanager
def loaded(*names: str) -> Iterator[dict[str, ModuleType]]:
    """Modules by name, forgotten afterwards with their flags, as other programs have the same."""
    known = set(flags.FLAGS)
    sys.path.insert(0, str(FOLDER))
    try:
        modules = {name: importlib.import_module(name) for name in names}
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        yield modules
    finally:
        sys.path.remove(str(FOLDER))
        for name in set(flags.FLAGS) - known:
            delattr(flags.FLAGS, name)
        for name in names:
            sys.modules.pop(name, None)
