"""What a table is: rows of cells, each with what is printed where and what was found here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

REPRODUCES: Final = "reproduces"
DIFFERS: Final = "differs"
DIFFERS_HERE: Final = "differs here"  # of a speed, which another machine may change
INCONCLUSIVE: Final = "inconclusive"  # of a speed: the interval has room for both
EQUAL: Final = "equal"
REFERENCE: Final = "reference"  # 1 by definition, no finding
NOT_MEASURED: Final = "not measured"
NOT_PRINTED: Final = "not printed"
FAILED: Final = "failed"

KINDS: Final = {  # row_kind: the letter before its source's number, and its heading in the list of sources
    "reported": ("", "the authors' own numbers, or those listed beside theirs"),
    "secondary": ("c", "as cited by another paper"),
    "re-evaluation": ("r", "released weights evaluated again by someone else"),
    "third-party measurement": ("t", "measured by someone else"),
}


@dataclass(frozen=True, slots=True)
class Reported:
    """A value as one source prints it, in the quantity's unit and with the digits printed."""

    printed: str
    source: str
    kind: str = "reported"
    note: str | None = None
    behind: str | None = None  # the printed numbers that a derived value comes from, such as "319 / 760"


@dataclass(frozen=True, slots=True)
class Here:
    """What was found here: a number in base units, perhaps with a 95 % interval; or a setting; or why there is none."""

    value: float | str | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


Judge = Callable[["Quantity", Reported, Here], str]


@dataclass(frozen=True, slots=True)
class Quantity:
    """A column group: base units times ``10 ** exponent`` are the unit shown and printed.

    ``relative`` and ``points`` (in the unit shown) are the tolerances of ``judge``. A quantity without ``judge`` is
    shown as reported and never compared.
    """

    name: str
    header: str
    exponent: int = 0
    judge: Judge | None = None
    relative: float = 0.0
    points: float = 0.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One quantity of one row; ``why`` says why nothing was measured that others of its table have measured."""

    quantity: Quantity
    reported: tuple[Reported, ...] = ()
    here: Here | None = None
    why: str | None = None

    def verdict(self, reported: Reported) -> str:
        """Return the verdict on one reported value."""
        if self.quantity.judge is None or self.here is None or self.here.value is None:
            return NOT_MEASURED
        return self.quantity.judge(self.quantity, reported, self.here)

    def verdicts(self) -> tuple[str, ...]:
        """Return the verdict on every distinct printed value; without one, that nothing is printed."""
        if not self.reported:
            return (NOT_PRINTED,)
        first = {reported.printed: reported for reported in reversed(self.reported)}
        return tuple(self.verdict(first[printed]) for printed in dict.fromkeys(r.printed for r in self.reported))


@dataclass(frozen=True, slots=True)
class Row:
    """One line: the model's name, the words that lead the line, and its cells in the order of the quantities."""

    model: str
    lead: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """Rows with the same columns: the headers of their leading words, and their quantities."""

    leads: tuple[str, ...]
    quantities: tuple[Quantity, ...]
    rows: tuple[Row, ...]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the papers, regenerated: ``notes`` are the lines under it that say how to read it."""

    name: str
    title: str
    parts: tuple[Part, ...]
    notes: tuple[str, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of all parts."""
        return tuple(row for part in self.parts for row in part.rows)


def part(leads: tuple[str, ...], quantities: tuple[Quantity, ...], rows: tuple[Row, ...], caption: str = "") -> Part:
    """Return a part without the quantities that no row has anything of; rows hold their cells in the same order."""
    used = [
        index
        for index in range(len(quantities))
        if any(row.cells[index].reported or row.cells[index].here for row in rows)
    ]
    kept = tuple(Row(row.model, row.lead, tuple(row.cells[index] for index in used)) for row in rows)
    return Part(leads, tuple(quantities[index] for index in used), kept, caption)
