"""The table that a run ends with on the terminal: as many columns as fit, then the legend and the first failures."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from attnbench.report.rows import Row, identity
from attnbench.report.spread import Spreads, winners
from attnbench.report.view import (
    SETTING,
    TRANSFER,
    VERDICTS,
    VIEWS,
    pixels,
    score,
    score_header,
    setting,
    shown,
    task_name,
)

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

_HEADERS: Final = {
    "throughput_img_per_s": "img/s",
    "peak_memory_inference_B": "infer.\n(MiB)",
    "peak_memory_training_B": "train\n(MiB)",
}
_LEAST_FIRST: Final = (
    *("parameters", "throughput_img_per_s", "interval", "peak_memory_training_B", "macs", "peak_memory_inference_B"),
    *("best_batch_size", "best_throughput_img_per_s", "latency_one_s", "training_step_s", "training_ratio"),
    *("time_ratio", "latency_s", *SETTING),
)
_NAME: Final = 28  # characters of a mechanism's name, at most
_REASONS: Final = 5  # failures told below the table
_GAP: Final = 2  # between two columns


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    header: str
    values: list[str]
    justify: Literal["left", "right"] = "right"


@dataclass(frozen=True, slots=True)
class _Fitting:
    """A table that learns the console's width when it is printed."""

    rows: Sequence[Row]
    known: Spreads

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "Iterator[RenderableType]":
        from rich.text import Text

        columns, dropped = _fit(_columns(self.rows), options.max_width)
        won = winners(self.rows, self.known)
        yield _table(columns, [identity(row) in won for row in self.rows])
        if dropped:
            yield Text(f"Left out at this width: {', '.join(dropped)}.", style="dim")
        for line in _legend(self.rows):
            yield Text(line, style="dim")
        for line in _failures(self.rows):
            yield Text(line, style="red", no_wrap=True, overflow="ellipsis")


def terminal(rows: Sequence[Row], known: Spreads | None = None) -> "RenderableType":
    """Return the table of a run for rich's console; it leaves out columns until it fits the console's width.

    ``known``, from :func:`~attnbench.report.spread.spreads`, tells under which conditions scores compete.
    """
    return _Fitting(rows, known or {})


def _columns(rows: Sequence[Row]) -> list[_Column]:
    columns = [
        _Column("mechanism", "mechanism", [_short(str(row["mechanism"])) for row in rows], "left"),
        _Column("resolution", "HxW", [pixels(row["resolution"]) for row in rows]),
    ]
    tasks = [_task(row) for row in rows]
    if len({*tasks} - {None}) > 1:  # what does not vary stands in the legend
        columns.append(_Column("task", "task", [_plain(name) for name in tasks], "left"))
    differing = [name for name in SETTING if _varies(rows, name)]
    columns += [_Column(n, n.replace("_", "\n"), [_plain(row[n]) for row in rows], "left") for n in differing]
    for view in VIEWS:
        if any(row[view.column] is not None for row in rows):
            header = _HEADERS.get(view.column, view.header.replace(" (", "\n("))
            columns.append(_Column(view.column, header, [shown(row, view) for row in rows]))
    if any(row["transfer"] is not None for row in rows):
        header = score_header(row["headline_metric"] for row in rows)
        columns.append(_Column("score", header.replace(" (", "\n("), [_score(row) for row in rows]))
    if len({pixels(row["train_resolution"]) for row in rows if row["transfer"]}) > 1:
        columns.append(_Column("train", "trained\nat", [pixels(row["train_resolution"]) for row in rows]))
    columns.append(_Column("note", "", [_note(row) for row in rows], "left"))
    return columns


def _fit(columns: list[_Column], width: int) -> tuple[list[_Column], list[str]]:
    """Leave out the least important columns until the others fit; return these and the headers of those."""
    left_out: list[str] = []
    for name in _LEAST_FIRST:
        if sum(_width(column) + _GAP for column in columns) - _GAP <= width:
            break
        if name == "interval":
            columns = [
                replace(c, values=[v.split(" [")[0] for v in c.values]) if c.name in VERDICTS else c for c in columns
            ]
            continue
        left_out += [column.header.replace("\n", " ") for column in columns if column.name == name]
        columns = [column for column in columns if column.name != name]
    return columns, left_out


def _width(column: _Column) -> int:
    from rich.cells import cell_len

    return max(cell_len(line) for text in (column.header, *column.values) for line in text.split("\n"))


def _table(columns: list[_Column], won: list[bool]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(Text(column.header), justify=column.justify, no_wrap=True, overflow="ellipsis")
    for index, winner in enumerate(won):
        # Text, not str: a name in square brackets would be taken for markup.
        table.add_row(*(Text(c.values[index], style="bold" if winner and c.name == "score" else "") for c in columns))
    return table


def _score(row: Row) -> str:
    text = score(row["headline_value"], row["headline_metric"])
    return text + TRANSFER if row["transfer"] and text != "-" else text


def _note(row: Row) -> str:
    words = [] if row["status"] == "ok" else [str(row["status"]).replace("_", " ")]
    if row["mechanism"] == row["reference"] and row["time_ratio"] is not None:
        words.append("reference")
    if row["verdict"] == "tie":
        words.append("tie")
    if row["training_verdict"] == "tie":
        words.append("tie in training")
    if row["macs_agree"] is False:
        words.append("MACs in doubt: not ranked")
    if row["conditions"] is not None:
        words.append("disturbed")
    return ", ".join(words)


def _legend(rows: Sequence[Row]) -> Iterator[str]:
    if not rows:
        yield "Nothing was measured."
        return
    tasks = {_task(row) for row in rows} - {None}
    held = setting(rows[0], [name for name in SETTING if not _varies(rows, name)])
    yield ", ".join([*(f"task {task}" for task in tasks if len(tasks) == 1), *filter(None, [held])])
    seeds = sorted({int(str(row["seeds"])) for row in rows if row["seeds"]})
    if seeds == [1]:
        yield "Scores are of one seed: indicative, not ranked."
    elif seeds:
        yield f"Scores are means over {' or '.join(map(str, seeds))} seeds; bold: best of those trained there."
    trained = sorted({pixels(row["train_resolution"]) for row in rows if row["transfer"]})
    if trained:
        where = trained[0] if len(trained) == 1 else "another resolution"
        yield f"{TRANSFER} transfer: trained at {where}; not ranked."
    references = sorted({str(row["reference"]) for row in rows if row["time_ratio"] is not None})
    if references:
        yield f"Time ratio to {', '.join(references)}, 95 % interval; below 1 is faster; a tie: within the noise."
    said = list(dict.fromkeys(part for row in rows if row["conditions"] for part in str(row["conditions"]).split("; ")))
    if said:
        more = f"; and {len(said) - _REASONS} more" if len(said) > _REASONS else ""
        yield f"Disturbed: {'; '.join(said[:_REASONS])}{more}."


def _failures(rows: Sequence[Row]) -> Iterator[str]:
    found = [row for row in rows if row["reason"] is not None]
    told: dict[str, None] = {f"{row['mechanism']} {pixels(row['resolution'])}: {row['reason']}": None for row in found}
    yield from list(told)[:_REASONS]
    if len(told) > _REASONS:
        yield f"and {len(told) - _REASONS} more"


def _varies(rows: Iterable[Row], name: str) -> bool:
    return len({row[name] for row in rows if row[name] is not None}) > 1


def _task(row: Row) -> str | None:
    return None if row["task"] is None else task_name(row)


def _short(name: str) -> str:
    return name if len(name) <= _NAME else name[: _NAME - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _plain(value: object) -> str:
    return "-" if value is None else str(value)
