"""Which mechanisms were trained and scored alike: everything that decides a score is equal, but mechanism and seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from attnbench.record import Record
from attnbench.report.group import Group
from attnbench.report.rows import Row
from attnbench.report.view import pixels, setting, task_name

_HELD: Final = ("size", "precision", "device", "threads")
_SCORED: Final = ("task", "head", "data", "recipe", "num_classes", "train_resolution")


@dataclass(frozen=True, slots=True, eq=False)
class Entrant:
    """One mechanism's records of one probe, which differ in the seed alone."""

    row: Row  # one of those that it stands in
    seeds: Mapping[int, Record]  # those that are ok, in the order of the seeds

    @property
    def mechanism(self) -> str:
        """The mechanism as the table names it."""
        return str(self.row["mechanism"])


@dataclass(frozen=True, slots=True, eq=False)
class Race:
    """The entrants that may be compared with one another, in the order of the report."""

    probe: Literal["training", "accuracy"]
    entrants: tuple[Entrant, ...]

    @property
    def reference(self) -> Entrant:
        """The one that the others are compared to: the reference of times if it is here, else the first."""
        named = {entrant.row["reference"] for entrant in self.entrants}
        return next((one for one in self.entrants if one.row["mechanism"] in named), self.entrants[0])

    @property
    def title(self) -> str:
        """Task, head and resolutions, in words; a stranger's text, as is ``held``."""
        row = self.entrants[0].row
        own, trained = pixels(row["resolution"]), pixels(row["train_resolution"])
        return f"{task_name(row)} " + (
            f"at {trained}" if self.probe == "training" or own == trained else f"at {own}, trained at {trained}"
        )

    @property
    def held(self) -> str:
        """What is held equal beside these, in words."""
        return setting(self.entrants[0].row, _HELD)


def races(found: Sequence[tuple[Row, Group]], probe: Literal["training", "accuracy"]) -> list[Race]:
    """Return the races of a run, from what :func:`~attnbench.report.rows.named` returns.

    Trainings are apart by where they train, accuracies also by where they are scored. Rows that share their records,
    for they differ in a cost alone, are one entrant.
    """
    made: dict[str, list[Entrant]] = {}
    seen: set[tuple[str, ...]] = set()
    for row, group in found:
        own = [record for record in group.records if record.cell.probe == probe and record.status == "ok"]
        keys = tuple(sorted(record.cell.key for record in own))
        if not own or keys in seen:
            continue
        seen.add(keys)
        scored = group.scored or {}
        where = [row["resolution"]] if probe == "accuracy" else []
        held = str([*where, *(row[name] for name in _HELD), *(scored[name] for name in _SCORED)])
        in_order = sorted(own, key=lambda record: record.cell.seed or 0)
        made.setdefault(held, []).append(Entrant(row, {record.cell.seed or 0: record for record in in_order}))
    return [Race(probe, tuple(entrants)) for entrants in made.values()]
