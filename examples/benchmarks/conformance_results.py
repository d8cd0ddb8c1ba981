"""What `conformance.py` has found: the file that keeps it, and the table that shows it."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_soap.proto.files import write_atomically
from keras_soap.report import table


@dataclass(frozen=True)
class Comparison:
    """Training of a model in one way beside training on one device.

    Attributes:
        difference: The largest relative one; None if there is none to be had.
        of: What differs most; or why nothing could be compared.
    """

    difference: float | None
    of: str

    def passes(self, tolerance: float) -> bool:
        return self.difference is not None and self.difference <= tolerance

    def cell(self, tolerance: float) -> str:
        """The difference, and of what it is if that is too much."""
        if self.difference is None:
            return self.of
        return f"{self.difference:.0e}" + ("" if self.passes(tolerance) else f", {self.of}")


@dataclass(frozen=True)
class ModelResult:
    """What was found of one model.

    Attributes:
        num_operators: Of a training step.
        num_split_by_sample_only: Of these.
        num_whole: Of these, on one device each, as they cannot be split.
        last_digit: One device beside itself, with inputs that differ in the last digit.
        strategies: By their numbers.
    """

    num_operators: int
    num_split_by_sample_only: int
    num_whole: int
    last_digit: Comparison
    strategies: tuple[Comparison, ...]

    @property
    def largest(self) -> float:
        """Of all strategies."""
        found = [c.difference for c in self.strategies]
        return max(math.inf if value is None else value for value in found)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "ModelResult":
        last_digit = Comparison(**content.pop("last_digit"))
        strategies = tuple(Comparison(**entry) for entry in content.pop("strategies"))
        return cls(**content, last_digit=last_digit, strategies=strategies)


@dataclass
class Results:
    """Results by model, and the file that they are kept in.

    Attributes:
        path: The file; None to keep them nowhere.
        settings: All that they depend on.
        tolerance: Relative, above which training differs.
        models: By name.
        errors: By name, what was raised where not even one device could train or be captured. They
            are not kept in the file.
    """

    path: str | None
    settings: dict[str, Any]
    tolerance: float
    models: dict[str, ModelResult] = dataclasses.field(default_factory=dict)
    errors: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, path: str | None, settings: dict[str, Any], tolerance: float) -> "Results":
        """Those in the file, if there is one.

        Raises:
            ValueError: If the file holds something else, or was made with other settings.
        """
        if path is None or not Path(path).exists():
            return cls(path, settings, tolerance)
        try:
            content = json.loads(Path(path).read_text("utf-8"))
            before = content["settings"]
            models = {name: ModelResult.from_json(m) for name, m in content["models"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is not a file of this program ({error!r}). Give --json_out another name."
            ) from error
        if before != settings:
            raise ValueError(
                f"{path} was made with {before}, not {settings}. Give --json_out another name."
            )
        return cls(path, settings, tolerance, models)

    def passes(self, name: str) -> bool:
        """Whether a model is there, and differs under no strategy."""
        found = self.models.get(name)
        if found is None or name in self.errors:
            return False
        return all(comparison.passes(self.tolerance) for comparison in found.strategies)

    def add(self, name: str, result: ModelResult) -> None:
        """Adds a model, in the place of what was there, and writes the file."""
        self.models[name] = result
        if self.path is None:
            return
        models = {key: dataclasses.asdict(value) for key, value in self.models.items()}
        content = {"settings": self.settings, "models": models}
        write_atomically(self.path, (json.dumps(content, indent=1) + "\n").encode())

    def render(self, names: Sequence[str]) -> str:
        """A table of models and strategies, and a line that sums it up."""
        numbers = [str(number) for number in range(self.settings["num_strategies"])]
        headers = ["model", "operators", "by sample", "whole", "last digit", *numbers]
        rows = []
        for name in names:
            found = self.models.get(name)
            if name in self.errors or found is None:
                rows.append([name, self.errors.get(name, ""), *[""] * (len(headers) - 2)])
                continue
            counts = (found.num_operators, found.num_split_by_sample_only, found.num_whole)
            cells = [found.last_digit.cell(math.inf)]
            cells += [comparison.cell(self.tolerance) for comparison in found.strategies]
            rows.append([name, *map(str, counts), *cells])
        failed = [name for name in names if not self.passes(name)]
        lines = [table.render(headers, rows, headers[1:])]
        if failed:
            lines.append(f"Failed: {', '.join(failed)}.")
        else:
            worst = max(names, key=lambda name: self.models[name].largest)
            lines.append(
                f"{len(names)} models, {len(numbers)} strategies each: all passed. The largest "
                f"relative difference is {self.models[worst].largest:.0e}, of {worst}."
            )
        return "\n".join(lines)

    def markdown(self, groups: Mapping[str, Sequence[str]]) -> str:
        """A table of groups and what was found of each model; then those that are missing."""
        lines = [["group", "models, and the largest relative difference of each"], ["---", "---"]]
        for group, names in groups.items():
            found = [name for name in names if name in self.models]
            lines.append(
                [
                    f"`{group}` ({sum(map(self.passes, names))} of {len(names)})",
                    ", ".join(f"{name} {self.models[name].largest:.0e}" for name in found),
                ]
            )
        text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        missing = [name for names in groups.values() for name in names if name not in self.models]
        return text + (f"\nNot run yet: {', '.join(missing)}.\n" if missing else "")
