"""Pages on the terminal: a wide grid is cut between quantities into panels that fit, each with the leading columns."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Final

from attnbench.tables.model import DIFFERS, DIFFERS_HERE, EQUAL, REPRODUCES
from attnbench.tables.page import Grid, Page

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

_GAP: Final = 2  # between two columns
_STYLES: Final = {REPRODUCES: "green", EQUAL: "green", DIFFERS: "red", DIFFERS_HERE: "yellow", "holds": "green"}
_LEAST: Final = 10  # characters that the first column keeps
_LABEL: Final = 30  # characters of the first column, at most; longer ones fold


@dataclass(frozen=True, slots=True)
class _Fitting:
    """A page that learns the console's width when it is printed."""

    page: Page

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "Iterator[RenderableType]":
        from rich.text import Text

        yield Text(self.page.title, style="bold")
        for grid in self.page.grids:
            yield Text("")
            if grid.caption:
                yield Text(grid.caption, style="italic")
            for index, columns in enumerate(panels(grid, options.max_width)):
                if index:
                    yield Text("")
                yield _table(grid, columns)
        yield Text("")
        for note in self.page.notes:
            yield Text(note, style="dim")
        yield Text("")


def terminal(page: Page) -> "RenderableType":
    """Return the page for rich's console."""
    return _Fitting(page)


def panels(grid: Grid, width: int) -> list[list[int]]:
    """Return the columns of each panel: the leading ones, and as many quantities as fit ``width``, at least one."""
    leads = [index for index, column in enumerate(grid.columns) if not column.group]
    groups = [list(found) for _, found in groupby(_grouped(grid), key=lambda index: grid.columns[index].group)]
    if not groups:
        return [leads]
    found: list[list[int]] = []
    for group in groups:
        if found and _total(grid, [*found[-1], *group]) <= width:
            found[-1] += group
        else:
            fits = _total(grid, [*leads, *group]) <= width
            found.append([*leads, *(index for index in group if fits or not grid.columns[index].spare)])
    return [sorted(columns) for columns in found]  # what follows the quantities ends every panel


def _total(grid: Grid, columns: list[int]) -> int:
    return sum(_width(grid, index) + _GAP for index in columns) - _GAP


def _grouped(grid: Grid) -> Iterator[int]:
    yield from (index for index, column in enumerate(grid.columns) if column.group)


def _width(grid: Grid, index: int) -> int:
    from rich.cells import cell_len

    texts = [*_header(grid, index).split("\n"), *(line for row in grid.rows for line in row[index])]
    widest = max(map(cell_len, texts), default=0)
    return min(widest, _LABEL) if index == 0 else widest


def _header(grid: Grid, index: int) -> str:
    column = grid.columns[index]
    if column.group in ("", column.header):
        return column.header
    first = index == 0 or grid.columns[index - 1].group != column.group
    return f"{column.group if first else ''}\n{column.header}"


def _table(grid: Grid, columns: list[int]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False)
    for index in columns:
        column = grid.columns[index]
        table.add_column(
            Text(_header(grid, index)),
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=index > 0 and not column.folds,
            max_width=_LABEL if index == 0 else None,
            min_width=_LEAST if index == 0 else None,
        )
    for row in grid.rows:
        # Text, not str: a source's mark in square brackets would be taken for markup.
        table.add_row(*(_cell(row[index]) for index in columns), end_section=False)
    return table


def _cell(lines: tuple[str, ...]) -> "RenderableType":
    from rich.text import Text

    return Text("\n").join(Text(line, style=_STYLES.get(line, "")) for line in lines)
