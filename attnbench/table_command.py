"""``attnbench table NAME``: the papers' tables with what is measured here, to the terminal or into a file."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attnbench.errors import UserError, unknown

if TYPE_CHECKING:
    from attnbench.tables.measured import Interval, Key, Measured, Resolution, Selection
    from attnbench.tables.page import Page

TABLES: Final = "configs, imagenet, counts, throughput, ablations, coco, detectors, ade20k, scorecard, all"
FORMATS: Final = ("terminal", "markdown", "csv", "latex")
_WITH_RESOLUTIONS: Final = ("imagenet", "counts", "throughput", "scorecard", "all")
_WITH_ACCURACY: Final = ("imagenet", "scorecard", "all")
_FILE_WIDTH: Final = 120

# Takes models, Swin-Tiny first, and resolutions; returns the time ratios to Swin-Tiny of one run.
Timing = Callable[["Sequence[str]", "Sequence[Resolution]"], "Mapping[Key, Interval]"]


def add_parser(commands: Any, function: Callable[[argparse.Namespace], int] | None = None) -> None:
    """Add the command to argparse's sub-commands; its function is ``run_table``, or another that calls it."""
    table = commands.add_parser(
        "table", help="the papers' tables: reported, measured here, verdict", allow_abbrev=False
    )
    table.add_argument("name", metavar="NAME", help=TABLES)
    table.add_argument("--models", metavar="A,B", help="only these models; timm:<name> and uniform:<name> too")
    table.add_argument("--res", metavar="N,HxW", help="only these resolutions in pixels")
    table.add_argument(
        "--weights", metavar="NAME=FILE", action="append", help="score this model on --data; may be repeated"
    )
    table.add_argument("--data", metavar="DIR", type=Path, help="images for --weights: val/<class>/* or <class>/*")
    table.add_argument("--format", metavar="NAME", default="terminal", help=f"{', '.join(FORMATS)}; default: terminal")
    table.add_argument("--out", metavar="FILE", type=Path, help="write there instead of printing")
    table.add_argument("--json", action="store_true", help="print JSON and nothing else")
    table.add_argument("--debug", action="store_true", help="show tracebacks")
    table.set_defaults(function=function or run_table)


def run_table(options: argparse.Namespace, timing: Timing | None = None) -> int:
    """Measure what the named table needs, build it, and print or write it; return the exit code.

    ``timing``, if given, is asked once for the time ratios of the throughput table; for the scorecard and all tables,
    whose counting takes a minute, only where models are named.

    Raises:
        UserError: an unknown table, model or format, a bad resolution, a table without rows, or an unwritable file;
            nothing is measured or written then, except that a file may turn out unwritable at the end.
    """
    from attnbench.tables.build import check_name
    from attnbench.tables.throughput import timeable

    check_name(options.name)
    if options.format not in FORMATS:
        raise unknown("format", options.format, FORMATS)
    if options.json and options.format != "terminal":
        raise UserError(f"--json and --format {options.format} exclude each other")
    if options.res is not None and options.name not in _WITH_RESOLUTIONS:
        these = ", ".join(_WITH_RESOLUTIONS)
        raise UserError(f"--res: table {options.name} has no resolutions to choose from; these have: {these}")
    if options.out is not None and (not options.out.parent.is_dir() or options.out.is_dir()):
        raise UserError(f"--out {options.out} is no file in an existing folder")
    selection = _selection(options)
    _refuse_empty(options.name, selection)
    accuracy = _accuracy(options, selection)
    measured = replace(_measured(options.name, selection), accuracy=accuracy)
    if timing is not None and _times(options):
        measured = replace(measured, time_ratios=timing(*timeable(selection, list(measured.configurations))))
    _write(_pages(options.name, measured, selection), options)
    return 0


def _accuracy(options: argparse.Namespace, selection: "Selection") -> "Mapping[Key, float]":
    """Score the models whose weights are given, before anything else: a wrong file should be told soon."""
    if (options.weights is None) != (options.data is None):
        raise UserError("--weights and --data go together: weights are scored on the images of a folder")
    if options.weights is None:
        return {}
    if options.name not in _WITH_ACCURACY:
        raise UserError(f"--weights: table {options.name} has no accuracy; these have: {', '.join(_WITH_ACCURACY)}")
    from attnbench.table_scoring import parse_weights, score
    from attnbench.tables.imagenet import SIDE

    return score(parse_weights(options.weights), options.data, selection.resolutions or ((SIDE, SIDE),))


def _times(options: argparse.Namespace) -> bool:
    return options.name == "throughput" or (options.name in ("scorecard", "all") and options.models is not None)


def _selection(options: argparse.Namespace) -> "Selection":
    from attnbench.tables.measured import Selection
    from attnbench.validation import parse_resolution

    models = None if options.models is None else tuple(dict.fromkeys(_words("--models", options.models)))
    for name in models or ():
        _check_model(name)
    sizes = None if options.res is None else _words("--res", options.res)
    resolutions = None if sizes is None else tuple(dict.fromkeys(parse_resolution(word) for word in sizes))
    return Selection(models, resolutions)


def _words(flag: str, text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise UserError(f"{flag}: {text!r} is not a list separated by commas")
    return words


def _check_model(name: str) -> None:
    from attnbench.models import check, names
    from attnbench.published.model_names import is_context
    from attnbench.tables.build import printed_models

    known = {*names(), *printed_models()}
    if name in known:
        return
    if not is_context(name):
        raise unknown("model", name, known)
    check(name)


def _tables(name: str) -> tuple[str, ...]:
    from attnbench.tables.build import ALL, BUILDERS, SCORECARD

    return tuple(BUILDERS) if name in (ALL, SCORECARD) else (name,)


def _refuse_empty(name: str, selection: "Selection") -> None:
    from attnbench.tables.build import build, refuse_empty

    found = [build(each, _unmeasured(), selection) for each in _tables(name)]
    if not any(table.rows for table in found):
        refuse_empty(found[0], selection)


def _unmeasured() -> "Measured":
    from attnbench.models import configuration, names
    from attnbench.tables.measured import Measured

    return Measured(configurations={name: configuration(name) for name in names()})


def _measured(name: str, selection: "Selection") -> "Measured":
    from attnbench.models import names
    from attnbench.tables.build import needs
    from attnbench.tables.measuring import measure

    measured = _unmeasured()
    wanted = needs(name, selection, names())
    if not wanted:
        return measured
    measured = measure(wanted, measured, _progress)
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    return measured


def _progress(done: int, total: int, name: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[Kcounting {done + 1} of {total}: {name}")
        sys.stderr.flush()


def _pages(name: str, measured: "Measured", selection: "Selection") -> "list[Page]":
    from attnbench.tables import scorecard
    from attnbench.tables.build import ALL, SCORECARD, build
    from attnbench.tables.layout import page

    tables = [build(each, measured, selection) for each in _tables(name)]
    tables = [table for table in tables if table.rows]
    pages = [] if name == SCORECARD else [page(table) for table in tables]
    if name in (SCORECARD, ALL):
        pages.append(scorecard.page(tables, measured))
    return pages


def _write(pages: "Sequence[Page]", options: argparse.Namespace) -> None:
    from attnbench.tables import text

    form = "json" if options.json else options.format
    renderers = {"markdown": text.markdown, "latex": text.latex, "csv": text.to_csv, "json": text.to_json}
    if options.out is None and form == "terminal":
        _print(pages, None)
        return
    written = renderers[form](pages) if form in renderers else _print(pages, _FILE_WIDTH)
    if options.out is None:
        sys.stdout.write(written)
        return
    try:
        options.out.write_text(written, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {options.out}: {error.strerror}") from error


def _print(pages: "Sequence[Page]", width: int | None) -> str:
    """Print the pages, or with a width return them as text."""
    import io

    from rich.console import Console

    from attnbench.tables.terminal import terminal

    console = Console() if width is None else Console(file=io.StringIO(), width=width)
    for page in pages:
        console.print(terminal(page))
    return console.file.getvalue() if isinstance(console.file, io.StringIO) else ""
