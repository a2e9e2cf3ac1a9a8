"""What a check of a data set found: numbers of things, and problems by kind."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

Severity = Literal["error", "warning"]  # an error stops a training, or falsifies it; a warning may be meant
Progress = Callable[[int, int], None]  # files looked at, files in all


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong at one place."""

    severity: Severity
    kind: str  # a few words, the same for every problem of the kind
    where: str  # a file, an entry of a file
    what: str  # is there, and what is expected; may be empty


@dataclass(frozen=True, slots=True)
class Report:
    """What there is and what is wrong with it; splits are named as the data name them."""

    counts: Mapping[str, Mapping[str, int | float]]  # by split and thing; a float is a share, 0..1
    classes: Mapping[str, Mapping[str, int]]  # by split and class
    unit: str  # what is counted of each class: images, boxes, pixels
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> int:
        """Return the number of errors."""
        return sum(problem.severity == "error" for problem in self.problems)

    @property
    def warnings(self) -> int:
        """Return the number of warnings."""
        return len(self.problems) - self.errors

    def to_json(self) -> dict[str, Any]:
        """Return everything as values that JSON has."""
        return {
            "errors": self.errors,
            "warnings": self.warnings,
            "counts": {split: dict(found) for split, found in self.counts.items()},
            "classes": {split: dict(found) for split, found in self.classes.items()},
            "unit": self.unit,
            "problems": [asdict(problem) for problem in self.problems],
        }


class Check(Protocol):
    """A task's static method ``check``, where it has one."""

    def __call__(self, path: str, progress: Progress | None = None) -> Report:
        """Look at everything under ``path`` and go on after problems.

        Raises:
            UserError: nothing there, or nothing of the layout that the task reads.
        """


@dataclass(frozen=True, slots=True)
class Problems:
    """Collects problems."""

    found: list[Problem]

    def error(self, kind: str, where: object, what: object = "") -> None:
        """Take an error."""
        self.found.append(Problem("error", kind, str(where), str(what)))

    def warning(self, kind: str, where: object, what: object = "") -> None:
        """Take a warning."""
        self.found.append(Problem("warning", kind, str(where), str(what)))
