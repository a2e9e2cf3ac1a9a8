"""The comparison of two runs as people read it: a table, worst first, with what decides each verdict below it."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from attnbench.comparison import TIMES, Compared, Comparison
from attnbench.record import METRICS, Cell
from attnbench.report.rows import one_line
from attnbench.report.view import MIB, number, pixels, score, score_header

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

_NAME: Final = 28  # characters of a mechanism's name, at most
_LISTED: Final = 5  # cells of only one run, named
_UNJUDGED: Final = "-"
_GAP: Final = 2  # between two columns
_SCALED: Final = {"s": ("ms", 1e3), "MAC": ("G", 1e-9), "B": ("MiB", 1 / MIB)}
_LEAST_FIRST: Final = ("raw", "a", "b", "batch_size", "size", "precision")  # what a narrow terminal leaves out
# What tells two cells apart beside probe, mechanism, settings and resolution.
_TOLD_APART: Final = (
    *("size", "batch_size", "precision", "device", "threads", "task", "head", "seed", "train_resolution"),
    *("num_classes", "compile", "channels_last", "sdpa"),
)


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    header: str
    values: list[str]
    justify: Literal["left", "right"] = "left"

    @property
    def width(self) -> int:
        from rich.cells import cell_len

        return max(cell_len(line) for text in (self.header, *self.values) for line in text.split("\n"))


@dataclass(frozen=True, slots=True)
class _Fitting:
    """A table that learns the console's width when it is printed."""

    found: Compared
    threshold: float

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "Iterator[RenderableType]":
        from rich.text import Text

        shown = [row for row in self.found.rows if row.verdict != "equal"]
        if shown:
            columns, dropped = _fit(_columns(shown), options.max_width)
            yield _table(columns, shown)
            if dropped:
                yield Text(f"Left out at this width: {', '.join(dropped)}.", style="dim")
        for line in _legend(self.found, shown):
            yield Text(line, style="dim")
        summary = f"{self.found.regressions or 'No'} regression{'' if self.found.regressions == 1 else 's'}"
        style = "bold red" if self.found.regressions else "bold"
        yield Text(f"{summary} by more than {100 * self.threshold:g} %.", style=style)


def terminal(found: Compared, threshold: float) -> "RenderableType":
    """Return the comparison for rich's console; it leaves out columns until it fits the console's width."""
    return _Fitting(found, threshold)


def label(cell: Cell) -> str:
    """Return the mechanism with its settings, on one line."""
    settings = ", ".join(f"{name}={_plain(value)}" for name, value in cell.settings.items())
    return one_line(cell.mechanism + (f"({settings})" if settings else ""))


def _columns(rows: Sequence[Comparison]) -> list[_Column]:
    columns = [
        _Column("verdict", "verdict", [_verdict(row) for row in rows]),
        _Column("quantity", "quantity", [_quantity(row) for row in rows]),
        _Column("mechanism", "mechanism", [_short(label(row.cell)) for row in rows]),
        _Column("resolution", "HxW", [pixels(list(row.cell.resolution)) for row in rows], "right"),
    ]
    for name in _TOLD_APART:
        values = [getattr(row.cell, name) for row in rows]
        if len({value for value in values if value is not None}) > 1:
            columns.append(_Column(name, name.replace("_", "\n"), [_field(value) for value in values]))
    columns.append(_Column("a", "A", [_value(row, row.a) for row in rows], "right"))
    columns.append(_Column("b", "B", [_value(row, row.b) for row in rows], "right"))
    columns.append(_Column("change", "B / A", [_change(row) for row in rows], "right"))
    if any(row.raw is not None and row.raw != row.change for row in rows):
        raw = ["" if row.raw is None else f"{row.raw:.3f}" for row in rows]
        columns.append(_Column("raw", "as\nmeasured", raw, "right"))
    return columns


def _fit(columns: list[_Column], width: int) -> tuple[list[_Column], list[str]]:
    """Leave out the least important columns until the others fit; return these and the headers of those."""
    left_out: list[str] = []
    for name in _LEAST_FIRST:
        if sum(column.width + _GAP for column in columns) - _GAP <= width:
            break
        left_out += [column.header.replace("\n", " ") for column in columns if column.name == name]
        columns = [column for column in columns if column.name != name]
    return columns, left_out


def _table(columns: Sequence[_Column], rows: Sequence[Comparison]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(Text(column.header), justify=column.justify, no_wrap=True, overflow="ellipsis")
    for index, row in enumerate(rows):
        # Text, not str: a name in square brackets would be taken for markup.
        table.add_row(*(Text(column.values[index], style="red" if row.regression else "") for column in columns))
    return table


def _legend(found: Compared, shown: Sequence[Comparison]) -> Iterator[str]:
    equal = len(found.rows) - len(shown)
    if equal:
        yield f"{equal} {_plural('value', equal)} equal in both runs, not shown."
    times = [row for row in shown if row.metric in TIMES]
    if times:
        yield "Times: B's over A's, above 1 is slower; a tie lies within the 95 % interval or the noise floor."
    if any(row.raw is not None and row.raw != row.change for row in times):
        yield "Each is a ratio to the same piece of work in the same rounds; 'as measured' is without that."
    if any(row.cell.probe == "accuracy" for row in shown):
        yield "Scores: B - A."
    if any(row.verdict == "seen" for row in shown):
        yield f"{_UNJUDGED} is told and not judged."
    yield from _noted(shown)
    for name, values in found.differences.items():
        yield one_line(f"Differs: {name}: {values}.")
    for run, cells in (("A", found.only_a), ("B", found.only_b)):
        if cells:
            yield f"Only in {run}: {_listed(cells)}."


def _noted(shown: Iterable[Comparison]) -> Iterator[str]:
    """Yield the reason of each failure, and every other note once, with how many rows it is about."""
    counts: dict[str, int] = {}
    for row in shown:
        if row.metric == "status":
            where = f"{label(row.cell)} {pixels(list(row.cell.resolution))}, {_probe(row.cell)}"
            yield one_line(f"{where}: {': '.join(row.notes)}")
        else:
            for note in row.notes:
                counts[note] = counts.get(note, 0) + 1
    yield from (one_line(f"{count} {_plural('row', count)}: {note}.") for note, count in counts.items())


def _listed(cells: Sequence[Cell]) -> str:
    names = dict.fromkeys(f"{_probe(cell)} {label(cell)} {pixels(list(cell.resolution))}" for cell in cells)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{len(cells)} {_plural('cell', len(cells))}: {'; '.join(list(names)[:_LISTED])}{more}"


def _verdict(row: Comparison) -> str:
    return _UNJUDGED if row.verdict == "seen" else row.verdict


def _quantity(row: Comparison) -> str:
    if row.metric == "status":
        return _probe(row.cell)
    if row.cell.probe == "accuracy":
        return score_header([row.metric])
    unit = METRICS[row.metric].unit
    shown = _SCALED.get(unit, (unit, 1.0))[0]
    name = row.metric.replace("_", " ").replace("macs", "MACs")
    step = row.cell.probe.removeprefix("memory_") if row.metric.startswith("peak_") else ""
    name += f" {step}" if step and step not in name else ""
    return name if shown == "1" else f"{name} ({shown})"


def _value(row: Comparison, value: float | None) -> str:
    if value is None or row.cell.probe == "accuracy":
        return score(value, row.metric)
    return number(value * _SCALED.get(METRICS[row.metric].unit, ("", 1.0))[1])


def _change(row: Comparison) -> str:
    if row.change is None:
        return "-"
    show: Callable[[float], str] = _difference(row.metric) if row.cell.probe == "accuracy" else "{:.3f}".format
    interval = "" if row.low is None or row.high is None else f" [{show(row.low)}, {show(row.high)}]"
    return show(row.change) + interval


def _difference(metric: str) -> Callable[[float], str]:
    return lambda value: f"{'+' if value >= 0 else '-'}{score(abs(value), metric)}"


def _probe(cell: Cell) -> str:
    return cell.probe.replace("_", " ")


def _field(value: object) -> str:
    if isinstance(value, tuple):
        return pixels(list(value))
    return "-" if value is None else one_line(str(value))


def _short(name: str) -> str:
    return name if len(name) <= _NAME else name[: _NAME - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
