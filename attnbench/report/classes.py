"""Scores class by class: a section of ``report.md``, and ``classes.csv``."""

from collections.abc import Iterator, Sequence
from typing import Final

from attnbench.report.markdown import escape, table
from attnbench.report.races import Race
from attnbench.report.scores import BY_CLASS
from attnbench.report.scores_text import HELD
from attnbench.report.seeds import Seeds
from attnbench.report.separated import to_csv as separated
from attnbench.report.view import metric_name, pixels, score, score_header

_COLUMNS: Final = (
    *("mechanism", "resolution", "train_resolution", *HELD),
    *("metric", "class", "mean", "least", "greatest", "seeds"),
)
_MOST: Final = 50  # classes that the report names; the file has all
_READING: Final = "Means over seeds, class by class, in the data's order; a class without a value occurs nowhere."

Key = tuple[str, str]  # metric, class


def section(races: Sequence[Race]) -> str:
    """Return the section for ``report.md``, of races of accuracies; nothing where no task scores classes."""
    parts = [text for race in races for text in _race(race)]
    return "\n\n".join(["## Classes", _READING, *parts]) if parts else ""


def to_csv(races: Sequence[Race]) -> str | None:
    """Return ``classes.csv``: a line per mechanism, resolution, metric and class; None where there are none."""
    lines = [line for race in races for line in _lines(race)]
    return separated(_COLUMNS, lines) if lines else None


def _race(race: Race) -> Iterator[str]:
    found = {entrant.mechanism: _seeds(race, place) for place, entrant in enumerate(race.entrants)}
    keys = list(dict.fromkeys(key for values in found.values() for key in values))
    for metric in dict.fromkeys(metric for metric, _ in keys):
        names = [name for other, name in keys if other == metric]
        yield f"### {escape(metric_name(metric))}: {escape(race.title)}"
        yield f"Held equal: {escape(race.held)}."
        header = [score_header([metric]), *(escape(mechanism) for mechanism in found)]
        yield table(
            header,
            [
                [escape(name), *(_shown(values.get((metric, name)), metric) for values in found.values())]
                for name in names[:_MOST]
            ],
        )
        if len(names) > _MOST:
            yield f"{len(names) - _MOST} more classes are in classes.csv."


def _lines(race: Race) -> Iterator[tuple[object, ...]]:
    for place, entrant in enumerate(race.entrants):
        row = entrant.row
        where = (entrant.mechanism, pixels(row["resolution"]), pixels(row["train_resolution"]))
        for (metric, name), seeds in _seeds(race, place).items():
            numbers = (seeds.mean, seeds.least, seeds.greatest, seeds.count)
            yield (*where, *(row[column] for column in HELD), metric, name, *numbers)


def _seeds(race: Race, place: int) -> dict[Key, Seeds]:
    """Return the values of each class over the seeds of one entrant."""
    values: dict[Key, list[float]] = {}
    for record in race.entrants[place].seeds.values():
        for item in record.measurements:
            if item.metric in BY_CLASS and item.kind is not None:
                values.setdefault((item.metric, item.kind), []).append(item.value)
    return {key: Seeds(tuple(found)) for key, found in values.items()}


def _shown(seeds: Seeds | None, metric: str) -> str:
    return "-" if seeds is None else score(seeds.mean, metric)
