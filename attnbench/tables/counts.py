"""Exact counts: parameters and MACs of the authors' code to the last digit, and what ours leave out of them."""

from collections.abc import Iterator
from typing import Final

from attnbench.published import reported
from attnbench.published.model_names import is_context, label_of
from attnbench.published.reported import CountRow
from attnbench.tables.gather import pixels
from attnbench.tables.measured import Key, Measured, Need, Resolution, Selection
from attnbench.tables.model import Cell, Here, Part, Quantity, Reported, Row, Table
from attnbench.tables.verdict import judge_setting

SIDE: Final = 224  # where the table stands without a choice of resolutions
PARAMETERS: Final = Quantity("exact_parameters", "parameters", 0, judge_setting)
MACS: Final = Quantity("exact_macs", "MACs, with what ours leave out", 0, judge_setting)
_NOTES: Final = (
    "MACs of matrix products, convolutions and attention for one image, head included, traced once through the "
    "authors' code. Where that code multiplies what the same outputs do not need, ours do less: what is left out is "
    "added, and itemised below.",
    "Focal's parameters depend on the resolution that it is built for: where one window covers the map, in stage 4 at "
    "224, there is no ring and so no table for its biases. PVT's position embeddings grow with the map.",
)


def build(measured: Measured, selection: Selection) -> Table:
    """Return the table, one row per model and resolution; notes itemise the MACs."""
    rows = _chosen(selection)
    part = Part(("model", "HxW"), (PARAMETERS, MACS), tuple(_row(row, measured) for row in rows))
    return Table("counts", "Parameters and MACs, exactly", (part,), (*_NOTES, *_items(rows, measured)))


def needs(selection: Selection, names: list[str]) -> list[Need]:
    """Return the models that the table counts."""
    chosen = (row for row in _chosen(selection) if row.model_key in names or is_context(row.model_key))
    return [Need(row.model_key, row.model_key, (row.resolution, row.resolution)) for row in chosen]


def _chosen(selection: Selection) -> list[CountRow]:
    sides: tuple[Resolution, ...] = selection.resolutions or ((SIDE, SIDE),)
    resolved = Selection(selection.models, sides)
    return [row for row in reported.counts() if resolved.takes(*_key(row))]


def _key(row: CountRow) -> Key:
    return row.model_key, (row.resolution, row.resolution)


def _row(row: CountRow, measured: Measured) -> Row:
    cost, failure = measured.costs.get(_key(row)), measured.failures.get(_key(row))
    here: list[Here | None] = [None, None]
    if failure is not None:
        here = [Here(None, reason=failure)] * 2
    elif cost is not None:
        here = [Here(f"{cost.parameters:,}"), Here(f"{cost.macs + sum(cost.surplus.values()):,}")]
    cells = (
        Cell(PARAMETERS, (Reported(f"{int(row.params):,}", row.source),), here[0]),
        Cell(MACS, (Reported(f"{int(row.traced_macs):,}", row.source),), here[1]),
    )
    return Row(row.model_key, _lead(row), cells)


def _items(rows: list[CountRow], measured: Measured) -> Iterator[str]:
    """Yield the sum of every line whose MACs are not ours alone."""
    for row in rows:
        cost = measured.costs.get(_key(row))
        if cost is not None and cost.surplus:
            left_out = " + ".join(f"{macs:,} ({name})" for name, macs in cost.surplus.items())
            total = f"{cost.macs + sum(cost.surplus.values()):,}"
            yield f"{' at '.join(_lead(row))}: {cost.macs:,} here + {left_out} = {total} MACs."


def _lead(row: CountRow) -> tuple[str, str]:
    return label_of(row.model_key), pixels((row.resolution, row.resolution))
