"""The numbers that stand for sources in cells, and the lists under a table."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from attnbench.tables.model import KINDS, Reported, Table

_MANY = 3  # labels that a remark names; with more it names its sources


@dataclass(frozen=True, slots=True)
class Marks:
    """The mark of every (source, kind): a number, with the kind's letter before it."""

    of: Mapping[tuple[str, str], str]

    def __call__(self, reported: Reported) -> str:
        """Return the mark of a value's source."""
        return self.of[reported.source, reported.kind]

    def together(self, several: Iterable[Reported]) -> str:
        """Return the marks of several values' sources, ``[1,2,c1]``, in the order of the list of sources."""
        cited = {self(reported) for reported in several}
        return f"[{','.join(mark for mark in self.of.values() if mark in cited)}]"


def marks(table: Table) -> Marks:
    """Number the sources of a table, each kind for itself, in order of appearance."""
    counts = dict.fromkeys(KINDS, 0)
    found: dict[tuple[str, str], str] = {}
    for _, reported in _values(table):
        if (reported.source, reported.kind) not in found:
            counts[reported.kind] += 1
            found[reported.source, reported.kind] = f"{KINDS[reported.kind][0]}{counts[reported.kind]}"
    return Marks({key: found[key] for kind in KINDS for key in found if key[1] == kind})


def source_lines(known: Marks) -> Iterator[str]:
    """Yield the sources with their marks, kind by kind, each kind told by its first line."""
    for kind, (_, heading) in KINDS.items():
        listed = [f"[{mark}] {source}" for (source, found), mark in known.of.items() if found == kind]
        if listed:
            yield f"Sources, {heading}:"
            yield from listed


def remark_lines(table: Table, known: Marks) -> Iterator[str]:
    """Yield what the sources' rows say in a note, each remark once, with the rows or the sources it is about."""
    rows: dict[str, dict[str, None]] = {}
    cited: dict[str, dict[str, None]] = {}
    for label, reported in _values(table):
        if reported.note:
            rows.setdefault(reported.note, {})[label] = None
            cited.setdefault(reported.note, {})[f"[{known(reported)}]"] = None
    for note, labels in rows.items():
        sources = " ".join(cited[note])
        about = sources if len(labels) > _MANY else f"{', '.join(labels)} {sources}"
        yield f"{about}: {note}."


def _values(table: Table) -> Iterator[tuple[str, Reported]]:
    for row in table.rows:
        for cell in row.cells:
            for reported in cell.reported:
                yield row.lead[0], reported
