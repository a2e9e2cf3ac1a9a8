"""From a table to a page: values scaled to their units, sources numbered, one line per printed value."""

from collections.abc import Iterator
from typing import Final

from attnbench.report.view import number as digits
from attnbench.tables.model import FAILED, NOT_MEASURED, NOT_PRINTED, Cell, Here, Part, Quantity, Reported, Row, Table
from attnbench.tables.page import Column, Grid, Lines, Page
from attnbench.tables.sources import Marks, marks, remark_lines, source_lines
from attnbench.tables.verdict import judge_ratio, judge_setting, ratio, shown

NOTHING: Final = "-"
_HERE: Final = "measured here"
FIELDS: Final = (
    *("table", "row", "model", "quantity", "unit", "reported", "source", "kind", "note"),
    *("measured", "low", "high", "ratio", "verdict", "reason"),
)


def page(table: Table) -> Page:
    """Return the page of a table."""
    known = marks(table)
    grids = tuple(_grid(part, known) for part in table.parts)
    notes = (*table.notes, *_failures(table), *source_lines(known), *remark_lines(table, known))
    return Page(table.name, table.title, grids, notes, tuple(_records(table)), FIELDS)


def here_text(quantity: Quantity, here: Here | None) -> str:
    """Return what was found here in the unit shown; or the word for nothing."""
    if here is None:
        return NOT_MEASURED
    if here.value is None:
        return FAILED
    if isinstance(here.value, str):
        return here.value
    return f"{here.value:.3f}" if quantity.judge is judge_ratio else digits(float(shown(quantity, here.value)))


def interval_text(here: Here | None) -> str:
    """Return the 95 % interval of a ratio."""
    return NOTHING if here is None or here.low is None or here.high is None else f"{here.low:.3f}-{here.high:.3f}"


def reported_lines(cell: Cell, known: Marks) -> tuple[Lines, Lines]:
    """Return every distinct printed value, and the marks of its sources."""
    if not cell.reported:
        return (NOT_PRINTED,), (NOTHING,)
    values = tuple(dict.fromkeys(reported.printed for reported in cell.reported))
    return values, tuple(known.together(r for r in cell.reported if r.printed == value) for value in values)


def _grid(part: Part, known: Marks) -> Grid:
    tried = frozenset(cell.quantity.name for row in part.rows for cell in row.cells if cell.here is not None)
    columns = [Column(lead) for lead in part.leads]
    for quantity in part.quantities:
        columns += _columns(quantity, tried)
    rows = [_grid_row(row, len(part.leads), tried, known) for row in part.rows]
    if any(quantity.judge is judge_setting for quantity in part.quantities):
        columns.append(Column("source"))
        rows = [(*cells, _row_source(row, known)) for cells, row in zip(rows, part.rows, strict=True)]
    elif not tried:
        columns.append(Column(_HERE, _HERE))
        rows = [(*cells, (NOT_MEASURED,)) for cells in rows]
    return Grid(tuple(columns), tuple(rows), part.caption)


def _columns(quantity: Quantity, tried: frozenset[str]) -> Iterator[Column]:
    """Yield a quantity's columns: what was tried nowhere in the part needs neither ratio nor verdict."""
    group = quantity.header
    if quantity.judge is judge_setting:
        yield Column(group, group)
        return
    yield Column("reported", group, right=True)
    yield Column("source", group)
    if quantity.judge is not None and tried:
        yield Column("measured", group, right=True)
        if quantity.name in tried:
            if quantity.judge is judge_ratio:
                yield Column("95 %", group, right=True, spare=True)
            yield Column("ratio", group, right=True)
            yield Column("verdict", group)


def _grid_row(row: Row, leads: int, tried: frozenset[str], known: Marks) -> tuple[Lines, ...]:
    cells: list[Lines] = [(lead,) for lead in row.lead[:leads]]
    for cell in row.cells:
        if cell.quantity.judge is judge_setting:
            cells.append((_setting(cell),))
            continue
        cells += reported_lines(cell, known)
        if cell.quantity.judge is not None and tried:
            cells.append((here_text(cell.quantity, cell.here),))
            if cell.quantity.name in tried:
                cells += [(interval_text(cell.here),)] if cell.quantity.judge is judge_ratio else []
                cells += [_ratios(cell), cell.verdicts()]
    return tuple(cells)


def _row_source(row: Row, known: Marks) -> Lines:
    return (known.together(reported for cell in row.cells for reported in cell.reported),)


def _setting(cell: Cell) -> str:
    if not cell.reported:
        return NOTHING
    printed = cell.reported[0]
    if cell.here is None:
        return f"{printed.printed} {NOT_MEASURED}"
    verdict = cell.verdict(printed)
    return f"{printed.printed} {verdict}" if verdict == "equal" else f"{printed.printed} {verdict}: {cell.here.value}"


def _ratios(cell: Cell) -> Lines:
    first = {reported.printed: reported for reported in reversed(cell.reported)}
    texts = [_ratio_text(cell, first[printed]) for printed in dict.fromkeys(r.printed for r in cell.reported)]
    return tuple(texts) or (NOTHING,)


def _ratio_text(cell: Cell, reported: Reported) -> str:
    value = None if cell.here is None else ratio(cell.quantity, reported, cell.here)
    return NOTHING if value is None else f"{value:.3f}"


def _failures(table: Table) -> Iterator[str]:
    found = {
        f"Failed here: {', '.join(row.lead)}: {cell.here.reason}."
        for row in table.rows
        for cell in row.cells
        if cell.here is not None and cell.here.value is None
    }
    yield from sorted(found)


def _records(table: Table) -> Iterator[dict[str, str | float | None]]:
    """Yield one record per printed value; one per cell where nothing is printed."""
    for row in table.rows:
        for cell in row.cells:
            for reported in cell.reported or (None,):
                yield _record(table, row, cell, reported)


def _record(table: Table, row: Row, cell: Cell, reported: Reported | None) -> dict[str, str | float | None]:
    quantity, here = cell.quantity, cell.here
    name, _, unit = quantity.header.partition(" (")
    found: dict[str, str | float | None] = dict.fromkeys(FIELDS)
    found |= {"table": table.name, "row": ", ".join(row.lead), "model": row.model, "quantity": name}
    found |= {"unit": unit.rstrip(")") or "1", "reason": cell.why}
    if reported is not None:
        note = "; ".join(filter(None, [reported.note, f"from {reported.behind}" if reported.behind else None]))
        found |= {"reported": reported.printed, "source": reported.source, "kind": reported.kind, "note": note or None}
        found["ratio"] = None if here is None else ratio(quantity, reported, here)
    if here is not None:
        found["reason"] = here.reason
        for field, value in (("measured", here.value), ("low", here.low), ("high", here.high)):
            found[field] = float(shown(quantity, value)) if isinstance(value, int | float) else value
    found["verdict"] = NOT_PRINTED if reported is None else cell.verdict(reported)
    if quantity.judge is None:
        found["verdict"] = "not compared"
    return found
