"""``attnbench compare A B``: what became faster, slower, larger or smaller from run A to run B."""

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbench.errors import UserError

if TYPE_CHECKING:
    from attnbench.comparison import Compared, Comparison
    from attnbench.record import Cell, Record


def add_parser(commands: Any, function: Callable[[argparse.Namespace], int]) -> None:
    """Add the command to argparse's sub-commands; ``function`` makes an exit code of :func:`run_compare`."""
    parser = commands.add_parser("compare", help="what one run does better or worse than another", allow_abbrev=False)
    parser.add_argument("a", type=Path, metavar="RUN_A", help="folder of the run to compare to")
    parser.add_argument("b", type=Path, metavar="RUN_B", help="folder of the run that is judged")
    parser.add_argument(
        "--threshold", default="5%", metavar="SHARE", help="worse by more is a regression: 5%% (default) or 0.05"
    )
    parser.add_argument(
        "--any-hardware", action="store_true", help="compare runs of different machines, without times and RSS"
    )
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.set_defaults(function=function)


def run_compare(options: argparse.Namespace) -> bool:
    """Compare two run folders and print the outcome; return whether anything regressed.

    Raises:
        UserError: folders without records, corrupt ones, one folder twice, a threshold that is none, runs that have
            no cell in common or times of different hardware.
    """
    from attnbench.comparison import compare

    threshold = parse_threshold(options.threshold)
    a, b = _records(options.a), _records(options.b)
    if options.a.resolve() == options.b.resolve():
        raise UserError(f"{str(options.a)!r} and {str(options.b)!r} are one folder; give those of two runs")
    found = compare(a, b, threshold, any_hardware=options.any_hardware)
    if options.json:
        sys.stdout.write(json.dumps(_as_json(found, options, threshold), indent=1, allow_nan=False) + "\n")
    else:
        from rich.console import Console

        from attnbench.comparison_table import terminal

        Console().print(terminal(found, threshold))
    return found.regressions > 0


def parse_threshold(text: str) -> float:
    """Return the share that ``5%`` or ``0.05`` stands for.

    Raises:
        UserError: not a number, below 0, or 1 and more without a per cent sign, which is a slip.
    """
    number, percent, rest = text.strip().partition("%")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        value = math.nan
    if rest or not 0 <= value < (math.inf if percent else 1):
        raise UserError(f"--threshold {text!r}: write a share such as 5% or 0.05")
    return value


def _records(folder: Path) -> "list[Record]":
    from attnbench.store import load

    try:
        there = (folder / "records.jsonl").is_file()
    except OSError as error:
        raise UserError(f"cannot read {str(folder)!r}: {error.strerror}") from error
    records = load(folder) if there else []
    if not records:
        raise UserError(f"{str(folder)!r} holds no records; give the folder of a run")
    return records


def _as_json(found: "Compared", options: argparse.Namespace, threshold: float) -> dict[str, Any]:
    return {
        "a": str(options.a),
        "b": str(options.b),
        "threshold": threshold,
        "regressions": found.regressions,
        "comparisons": [_row(row) for row in found.rows],
        "only_in_a": [_cell(cell) for cell in found.only_a],
        "only_in_b": [_cell(cell) for cell in found.only_b],
        "differences": dict(found.differences),
    }


def _row(row: "Comparison") -> dict[str, Any]:
    from attnbench.record import METRICS

    scored = row.cell.probe == "accuracy"
    return {
        "metric": row.metric,
        "verdict": row.verdict,
        "regression": row.regression,
        "a": row.a,
        "b": row.b,
        "unit": METRICS[row.metric].unit if row.metric in METRICS else None,
        "change": row.change,
        "change_is": "difference" if scored else "ratio",
        "low": row.low,
        "high": row.high,
        "raw_ratio": row.raw,
        "worse": row.worse if math.isfinite(row.worse) else None,
        "notes": list(row.notes),
        "cell": _cell(row.cell),
    }


def _cell(cell: "Cell") -> dict[str, Any]:
    return {"key": cell.key, **cell.to_json()}
