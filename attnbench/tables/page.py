"""A page: what every renderer prints. Grids of text for people, records for machines, and the lines below."""

from collections.abc import Mapping
from dataclasses import dataclass

Lines = tuple[str, ...]  # the lines of one grid cell, one per printed value


@dataclass(frozen=True, slots=True)
class Column:
    """A column's header, and the quantity that it belongs to with its neighbours; "" leads the line.

    A spare column may be left out where the width does not suffice; one that folds gives way by more lines.
    """

    header: str
    group: str = ""
    right: bool = False
    spare: bool = False
    folds: bool = False


@dataclass(frozen=True, slots=True)
class Grid:
    """Rows of cells under columns."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Lines, ...], ...]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """One table, ready to print."""

    name: str
    title: str
    grids: tuple[Grid, ...]
    notes: tuple[str, ...]
    records: tuple[Mapping[str, str | float | None], ...]
    fields: tuple[str, ...]
