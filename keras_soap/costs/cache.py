"""Measured times on disk, so that nothing is measured twice on one machine.

1. A file for each environment: what was measured there is no good elsewhere.
2. Each time is on disk as soon as it is known: an interrupted profile resumes.
3. Several processes may write: each adds to what it finds, under a lock, and replaces the file as a
   whole, so that without locks only entries may get lost. Readers need no lock.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from absl import logging

from keras_soap.costs.cost_table import PartTime
from keras_soap.locks import locked
from keras_soap.proto.files import write_atomically

VERSION = 14
"""Of the files, and of how times are measured: others are not read."""


def default_folder() -> Path:
    """The user's cache directory: `$XDG_CACHE_HOME`, or `~/.cache`, and our name."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification says to ignore relative paths.
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return root / "keras_soap" / "costs"


class CostCache:
    """Times by key, for one environment.

    Attributes:
        path: The file.
    """

    def __init__(self, environment: Mapping[str, str], folder: "str | os.PathLike[str] | None"):
        """Reads what is there.

        Args:
            environment: What measurements depend on, as in `costs.environment`.
            folder: Where files are; by default the user's cache directory.
        """
        self._environment = dict(sorted(environment.items()))
        name = hashlib.sha256(json.dumps([VERSION, self._environment]).encode()).hexdigest()[:16]
        self.path = Path(folder or default_folder()) / f"{name}.json"
        self._entries = self._read()

    def get(self, key: str) -> PartTime | None:
        return self._entries.get(key)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, key: str, time: PartTime) -> None:
        """Adds a time, here and in the file."""
        self._entries[key] = time
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.path.with_suffix(".lock")):
                self._entries = {**self._read(), **self._entries}
                write_atomically(self.path, self._text().encode())
        except OSError as error:
            logging.log_first_n(
                logging.WARNING,
                "Measured times are not kept: cannot write %s: %s. Set XDG_CACHE_HOME to a folder "
                "that can be written.",
                1,
                self.path,
                error.strerror,
            )

    def _text(self) -> str:
        content = {
            "version": VERSION,
            "environment": self._environment,
            "entries": {key: dataclasses.astuple(time) for key, time in self._entries.items()},
        }
        return json.dumps(content, indent=0) + "\n"

    def _read(self) -> dict[str, PartTime]:
        try:
            entries = json.loads(self.path.read_text("utf-8"))["entries"]
            return {key: PartTime(*values) for key, values in entries.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logging.warning(
                "Measuring anew: %s is not a file of measured times (%s). It will be replaced.",
                self.path,
                error,
            )
            return {}
