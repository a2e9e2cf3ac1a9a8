"""Tables on the terminal: nothing is wider than the terminal, nothing is cut off, nothing is dropped."""

import io

import pytest
from rich.console import Console

from attnbench.tables import scorecard
from attnbench.tables.build import BUILDERS, build
from attnbench.tables.layout import page
from attnbench.tables.measured import Measured, Selection
from attnbench.tables.page import Page
from attnbench.tables.terminal import panels, terminal


def printed(found: Page, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, no_color=True)
    console.print(terminal(found))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def found_pages(measured: Measured) -> dict[str, Page]:
    tables = {name: build(name, measured) for name in BUILDERS}
    return {
        **{name: page(table) for name, table in tables.items()},
        "scorecard": scorecard.page(list(tables.values()), measured),
    }


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("name", [*BUILDERS, "scorecard"])
def test_every_printed_value_and_verdict_is_there_in_full(name: str, width: int, measured: Measured) -> None:
    found = found_pages(measured)[name]
    lines = printed(found, width)
    assert max(map(len, lines)) <= width
    everything = "\n".join(lines)
    assert "\N{HORIZONTAL ELLIPSIS}" not in everything
    words = set(everything.split())
    for grid in found.grids:
        for row in grid.rows:
            for index, cell in enumerate(row):
                if index and not grid.columns[index].folds and not grid.columns[index].spare:
                    assert all(word in words for line in cell for word in line.split()), cell


def test_a_quantity_is_never_torn_apart(measured: Measured) -> None:
    (grid, _) = page(build("imagenet", measured)).grids
    for width in (80, 120, 160):
        for columns in panels(grid, width):
            groups = {grid.columns[index].group for index in columns}
            for group in groups - {""}:
                whole = [index for index, column in enumerate(grid.columns) if column.group == group]
                assert set(whole) <= set(columns)


def test_a_wide_terminal_takes_fewer_panels(measured: Measured) -> None:
    (grid, _) = page(build("imagenet", measured)).grids
    assert len(panels(grid, 80)) > len(panels(grid, 160)) > len(panels(grid, 280))


def test_the_interval_gives_way_first(measured: Measured) -> None:
    found = page(build("throughput", measured, Selection(resolutions=((224, 224),))))
    assert any("0.400-0.435" in line for line in printed(found, 120))
    assert not any("0.400-0.435" in line for line in printed(found, 60))


def test_names_in_square_brackets_are_no_markup(measured: Measured) -> None:
    lines = printed(page(build("imagenet", measured, Selection(("swin_tiny",)))), 120)
    assert any("[r1]" in line for line in lines)
