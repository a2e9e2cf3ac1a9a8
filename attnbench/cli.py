"""The command line: flags and words to a RunConfig, events and rows to the terminal. The only place that prints."""

import argparse
import json
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from attnbench import __version__, compare_command, data_command, eval_command, predict_command, table_command
from attnbench.errors import UserError

if TYPE_CHECKING:
    from attnbench.record import Record
    from attnbench.tables.measured import Interval, Key, Resolution

OK, SOME_FAILED, USAGE, REGRESSION, INTERRUPTED = 0, 1, 2, 3, 130
LISTS = ("mechanisms", "models", "tasks", "sizes", "presets", "recipes")
# Flag, key of RunConfig, type, metavar, help.
FLAGS: tuple[tuple[str, str, Any, str, str], ...] = (
    ("--mechanisms", "mechanisms", "list", "A,B", "what to compare in one backbone; see: attnbench list mechanisms"),
    ("--models", "models", "list", "A,B", "models to compare: attnbench list models, uniform:swin_tiny, timm:NAME"),
    ("--res", "resolutions", "list", "N,HxW", "resolutions in pixels, from 32 up"),
    ("--size", "size", str, "SIZE", "backbone: nano, tiny, small, base"),
    ("--tasks", "tasks", "list", "A,B", "see: attnbench list tasks"),
    ("--heads", "heads", "list", "A,B", "of tasks that have several, such as mask_rcnn or semantic_fpn"),
    ("--data", "data", str, "PATH", "the task's data, see the README for formats; without it, embedded data"),
    ("--seeds", "seeds", int, "N", "how many trainings per mechanism"),
    ("--batch-size", "batch_size", int, "N", "images per batch of the cost measurements"),
    ("--threads", "threads", int, "N", "CPU threads of every worker; default: all cores"),
    ("--workers", "workers", int, "N", "processes that load data; default 0: the training process itself"),
    ("--processes", "processes", int, "N", "that train one model together, a share of the batch each; default 1"),
    ("--device", "device", str, "NAME", "auto, cpu, cuda, cuda:N"),
    ("--precision", "precision", str, "A,B", "fp32, bf16, or both"),
    ("--compile", "compile", "switch", "off,on", "torch.compile in cost measurements, or both ways"),
    ("--channels-last", "channels_last", "switch", "off,on", "channels-last memory format, or both ways"),
    ("--sdpa", "sdpa", str, "A,B", "attention kernels: auto, math, flash, efficient, cudnn"),
    ("--measure", "measure", "list", "A,B", "cost (or macs, time, training_time, memory), best_batch, accuracy"),
    ("--budget", "budget", str, "TIME", "for the whole run, such as 10m; what does not fit is skipped"),
    ("--memory-limit", "memory_limit", str, "SIZE", "for one cell, such as 8GiB; default: what is free here"),
    ("--train-res", "train_resolution", str, "N", "where to train: N, HxW or 'each'; default: the smallest of --res"),
    ("--reference", "reference", str, "NAME", "what time ratios are taken to; default: the first compared"),
    ("--out", "out", str, "DIR", "run folder; default: results/<UTC time>-<hash>; the same folder continues a run"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        options = _parse(words)
        code: int = options.function(options)
    except UserError as error:
        _say(f"attnbench: error: {error}", "--debug" in words)
        return USAGE
    except KeyboardInterrupt:
        _say("attnbench: interrupted; finished cells are kept, the same command with --out goes on", "--debug" in words)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away
        sys.stderr.close()
        return OK
    except Exception as error:  # noqa: BLE001 (a defect of ours: one line, and the traceback on request)
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        _say(f"attnbench: internal error: {cause} (--debug shows where)", "--debug" in words)
        return SOME_FAILED
    return code


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see: {self.prog} --help")


def _parse(words: list[str]) -> argparse.Namespace:
    """Parse the command line; key=value words may stand between flags too, where argparse gives up on them."""
    parser = _parser()
    options, rest = parser.parse_known_args(words)
    if rest and not (hasattr(options, "overrides") and all("=" in word and word[0] != "-" for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest
    return options


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("attnbench", description="Compare attention mechanisms in one backbone.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"attnbench {__version__}")
    commands = parser.add_subparsers(
        required=True, metavar="run | predict | table | eval | data | list | report | compare"
    )
    run = commands.add_parser("run", help="measure, train, score, report", allow_abbrev=False)
    for flag, key, kind, metavar, text in FLAGS:
        more: dict[str, Any] = {"nargs": "?", "const": "on"} if kind == "switch" else {}
        parse: Any = {"list": _comma_list, "switch": str}.get(kind, kind)
        run.add_argument(flag, dest=key, type=parse, metavar=metavar, help=text, **more)
    run.add_argument("--recipe", metavar="NAME", help="how models are trained; see: attnbench list recipes")
    run.add_argument("--steps", type=int, metavar="N", help="training steps, instead of the recipe's samples or epochs")
    run.add_argument("--preset", default="quick", metavar="NAME", help="quick (default) or paper")
    run.add_argument("--rerun", action="store_true", help="measure again what --out has already")
    run.add_argument("overrides", nargs="*", metavar="key=value", help="any key of the configuration")
    run.set_defaults(function=_run)
    listing = commands.add_parser("list", help="what there is", allow_abbrev=False)
    listing.add_argument("what", metavar="|".join(LISTS))
    listing.set_defaults(function=_list)
    report = commands.add_parser("report", help="write a run's table, report and figures again", allow_abbrev=False)
    report.add_argument("folder", type=Path, metavar="DIR")
    report.set_defaults(function=_report)
    table_command.add_parser(commands, _table)
    eval_command.add_parser(commands)
    data_command.add_parser(commands)
    predict_command.add_parser(commands)
    compare_command.add_parser(commands, _compare)
    for command in (run, listing, report):
        command.add_argument("--json", action="store_true", help="print JSON and nothing else")
        command.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def _run(options: argparse.Namespace) -> int:
    from attnbench.compose import compose, keys_of

    config = compose(options.preset, options.overrides)
    flags = {key: getattr(options, key) for _, key, *_ in FLAGS if getattr(options, key) is not None}
    amount = {"recipe.samples", "recipe.steps", "recipe.epochs"} if options.steps is not None else set()
    name = {"recipe.name"} if options.recipe is not None else set()
    twice = sorted(keys_of(options.overrides) & {*flags, *amount, *name})
    if twice:
        raise UserError(f"{twice[0]} is given twice: by a flag and by {twice[0]}=...")
    config = replace(config, **flags, rerun=options.rerun or config.rerun)
    if options.steps is not None and options.steps < 1:
        raise UserError(f"--steps must be at least 1, not {options.steps}")
    own = {"steps": options.steps, "name": options.recipe}
    config = replace(config, recipe=config.recipe | {key: value for key, value in own.items() if value is not None})
    # Only now: these import torch, and a typing error should not wait for it.
    from attnbench.harness import run_cells
    from attnbench.progress import Progress

    with Progress(config) as progress:
        outcome = run_cells(config, progress)
    _show(outcome.records, options.json)
    figures = ", figures" if (outcome.folder / "figures").is_dir() else ""
    _say(f"attnbench: written to {outcome.folder}: table.csv, report.md, records.jsonl{figures}", debug=False)
    return OK if outcome.complete else SOME_FAILED


def _list(options: argparse.Namespace) -> int:
    from attnbench.listing import listing

    if options.what not in LISTS:
        raise UserError(f"cannot list {options.what!r}; known: {', '.join(LISTS)}")
    items = listing(options.what)
    if options.json:
        print(json.dumps(items, indent=2, ensure_ascii=False))
        return OK
    width = max((len(item["name"]) for item in items), default=0)
    for item in items:
        print(f"{item['name']:<{width}}  {'  '.join(_plain(item[key]) for key in item if key != 'name' and item[key])}")
    return OK


def _report(options: argparse.Namespace) -> int:
    from attnbench import report
    from attnbench.store import latest, load

    try:
        there = (options.folder / "records.jsonl").is_file()
    except OSError as error:
        raise UserError(f"cannot read {str(options.folder)!r}: {error.strerror}") from error
    if not there:
        raise UserError(f"{options.folder} holds no records.jsonl; give the folder of a run")
    records = list(latest(load(options.folder)).values())
    config = options.folder / "config.yaml"
    text = config.read_text(encoding="utf-8") if config.is_file() else ""
    report.write(options.folder, records, text)
    _show(records, options.json)
    return OK


def _table(options: argparse.Namespace) -> int:
    def timing(models: Sequence[str], resolutions: "Sequence[Resolution]") -> "Mapping[Key, Interval]":
        from attnbench.table_timing import TINY, time_models

        return time_models([models[0], *TINY] if options.models is None else models, resolutions)

    return table_command.run_table(options, timing)


def _compare(options: argparse.Namespace) -> int:
    return REGRESSION if compare_command.run_compare(options) else OK


def _show(records: "list[Record]", as_json: bool) -> None:
    from attnbench.report.rows import rows
    from attnbench.report.spread import spreads
    from attnbench.report.table import to_json

    table = rows(records)
    if as_json:
        print(to_json(table), end="")
        return
    from rich.console import Console

    from attnbench.report.terminal import terminal

    Console().print(terminal(table, spreads(records)))


def _plain(value: object) -> str:
    return ", ".join(f"{key}={item}" for key, item in value.items()) if isinstance(value, dict) else str(value)


def _comma_list(text: str) -> list[str]:
    from attnbench.names import split

    try:
        return split(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of names separated by commas") from None


def _say(message: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print(message, file=sys.stderr)


def _terminated(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
