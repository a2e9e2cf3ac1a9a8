"""Reported rows of several sources joined: one group per row of the table, its values per quantity."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from attnbench.tables.measured import Resolution
from attnbench.tables.model import KINDS, Reported, Row


@dataclass(frozen=True, slots=True)
class Subject:
    """What one row is about; rows of equal subjects are joined."""

    model: str
    lead: tuple[str, ...]
    resolution: Resolution | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """All that is printed about one subject: per quantity's name its values, the authors' own first."""

    subject: Subject
    values: Mapping[str, tuple[Reported, ...]] = field(default_factory=dict)

    def of(self, quantity: str) -> tuple[Reported, ...]:
        """Return the values of one quantity; none where nothing is printed."""
        return self.values.get(quantity, ())


def gather(entries: Iterable[tuple[Subject, str, Reported | None]]) -> tuple[Group, ...]:
    """Join (subject, quantity, value) entries in order of first appearance; None stands for what is not printed."""
    found: dict[Subject, dict[str, list[Reported]]] = {}
    for subject, quantity, reported in entries:
        values = found.setdefault(subject, {})
        if reported is not None:
            values.setdefault(quantity, []).append(reported)
    rank = list(KINDS)
    return tuple(
        Group(
            subject,
            {
                name: tuple(sorted(dict.fromkeys(seen), key=lambda r: rank.index(r.kind)))
                for name, seen in values.items()
            },
        )
        for subject, values in found.items()
    )


def entries(
    subject: Subject, columns: Mapping[str, str | None], source: str, kind: str, note: str | None
) -> Iterator[tuple[Subject, str, Reported | None]]:
    """Yield one entry per quantity of a source's row."""
    for quantity, printed in columns.items():
        yield subject, quantity, None if printed is None else Reported(printed, source, kind, note)


def by_last(rows: Iterable[Row]) -> dict[str, tuple[Row, ...]]:
    """Return the rows by the last word of their lead, which captions a part."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.lead[-1], []).append(row)
    return {word: tuple(several) for word, several in found.items()}


def pixels(resolution: Resolution) -> str:
    """Return a resolution as ``HxW``."""
    return f"{resolution[0]}x{resolution[1]}"
