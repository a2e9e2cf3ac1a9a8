"""``attnbench data check PATH --task NAME``: what is in a data set and what is wrong with it, before any training."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from attnbench.errors import UserError
from attnbench.report.rows import one_line

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from attnbench.data_report import Problem, Report

SOUND, UNSOUND = 0, 1  # exit codes: no error (warnings allowed), errors
LISTED: Final = 10  # problems of a kind that are named
CLASSES: Final = 40  # classes that are listed
LONGEST: Final = 300  # characters of a problem: names of files are strangers'


def add_parser(commands: Any) -> None:
    """Add the command to argparse's sub-commands; ``run_check`` is its function."""
    data = commands.add_parser("data", help="look at data before training on them", allow_abbrev=False)
    actions = data.add_subparsers(required=True, metavar="check")
    parser = actions.add_parser("check", help="count what is there, name what is wrong", allow_abbrev=False)
    parser.add_argument("path", metavar="PATH", help="folder of the data, as run's --data takes it")
    parser.add_argument("--task", required=True, metavar="NAME", help="what they are for; see: attnbench list tasks")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else, with every problem")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.set_defaults(function=run_check)


def run_check(options: argparse.Namespace) -> int:
    """Check the data and print what was found; return the exit code.

    Raises:
        UserError: no such task, one whose data cannot be checked, a path without data.
    """
    from attnbench.registry import TASKS

    check = getattr(TASKS[options.task], "check", None)
    if check is None:
        raise UserError(f"task {options.task!r} has no check of its data")
    found = _watched(check, options.path)
    if options.json:
        content = {"path": options.path, "task": options.task, **found.to_json()}
        sys.stdout.write(json.dumps(content, indent=1, allow_nan=False) + "\n")
    else:
        from rich.console import Console

        console = Console()
        for part in terminal(found):
            console.print(part)
    return UNSOUND if found.errors else SOUND


def terminal(found: "Report") -> "Iterator[RenderableType]":
    """Yield the report for rich's console: counts, classes, problems by kind, a last line that sums up."""
    from rich.text import Text

    yield _table("", found.counts)
    if any(found.classes.values()):
        yield Text()
        yield _table(f"{found.unit} per class", found.classes)
        more = len(_rows(found.classes)) - CLASSES
        if more > 0:
            yield Text(f"... and {more} more classes; --json has all", style="dim")
    for severity, style in (("error", "bold red"), ("warning", "bold yellow")):
        kinds: dict[str, list[Problem]] = {}
        for problem in found.problems:
            if problem.severity == severity:
                kinds.setdefault(problem.kind, []).append(problem)
        for kind, problems in kinds.items():
            yield Text()
            yield Text(f"{severity}: {one_line(kind)} ({len(problems):,})", style=style)
            yield from (Text(line) for line in _lines(problems))
    yield Text()
    yield Text(f"{_number(found.errors, 'error')}, {_number(found.warnings, 'warning')}.", style="bold")


def _watched(check: Any, path: str) -> "Report":
    """Run the check, with a bar on stderr where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        line = bar.add_task("reading files", total=None)
        found: Report = check(path, lambda done, total: bar.update(line, completed=done, total=total))
        return found


def _table(corner: str, splits: Any) -> "Table":
    """Return a table with a column for each split."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(Text(corner))
    for split in splits:
        table.add_column(Text(one_line(split)), justify="right", no_wrap=True)
    for name in _rows(splits)[:CLASSES]:
        # Text, not str: a name in square brackets would be taken for markup.
        table.add_row(Text(one_line(name)), *(Text(_amount(found.get(name))) for found in splits.values()))
    return table


def _rows(splits: Any) -> list[str]:
    return list(dict.fromkeys(name for found in splits.values() for name in found))


def _amount(value: float | None) -> str:
    if isinstance(value, float):
        return f"{100 * value:.1f} %"
    return "-" if value is None else f"{value:,}"


def _lines(problems: "Iterable[Problem]") -> Iterator[str]:
    texts = [one_line(f"{problem.where}: {problem.what}" if problem.what else problem.where) for problem in problems]
    yield from (f"  {text if len(text) <= LONGEST else text[:LONGEST] + '...'}" for text in texts[:LISTED])
    if len(texts) > LISTED:
        yield f"  ... and {len(texts) - LISTED:,} more"


def _number(count: int, word: str) -> str:
    return f"{count or 'no'} {word}{'' if count == 1 else 's'}"
