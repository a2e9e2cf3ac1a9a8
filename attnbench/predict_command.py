"""``attnbench predict``: what contenders will take at which resolution, and where memory runs out, without running."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any, Final

from attnbench.amounts import parse_bytes
from attnbench.errors import UserError

if TYPE_CHECKING:
    from attnbench.contenders import Contender
    from attnbench.forecast import Forecast, Question

OK, SOME_FAILED = 0, 1
_CLASSES: Final = 1000  # of ImageNet, as the tables have
_RANGE: Final = ".."


def add_parser(commands: Any) -> None:
    """Add the command to argparse's sub-commands; ``run_predict`` is its function."""
    parser = commands.add_parser("predict", help="memory and work before anything runs", allow_abbrev=False)
    parser.add_argument("--mechanisms", metavar="A,B", help="mechanisms in one backbone; default: focal,swin")
    parser.add_argument("--models", metavar="A,B", help="attnbench list models, uniform:swin_tiny, timm:NAME")
    parser.add_argument("--size", default="nano", metavar="SIZE", help="backbone: nano (default), tiny, small, base")
    parser.add_argument("--res", default="224", metavar="N,HxW,N..M", help="resolutions in pixels; 224..1792 doubles")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images per batch; default: 64")
    parser.add_argument("--precision", default="fp32", metavar="NAME", help="fp32 (default), bf16")
    parser.add_argument("--num-classes", type=int, default=_CLASSES, metavar="N", help="default: 1000")
    parser.add_argument("--threads", type=int, metavar="N", help="of the process that is told of; default: all cores")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where it is to run; default: cpu")
    parser.add_argument("--memory-limit", metavar="AMOUNT", help="80GiB, 16GB, bytes; default: what is available here")
    parser.add_argument("--sdpa", metavar="KERNEL", help="only this attention kernel: math, flash; default: torch's")
    parser.add_argument("--channels-last", action="store_true", help="images and convolutions in channels-last format")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.set_defaults(function=run_predict)


def run_predict(options: argparse.Namespace) -> int:
    """Predict every contender at every resolution and print; return 1 if one of them could not be predicted, else 0.

    Raises:
        UserError: names, resolutions or amounts that are wrong; nothing is predicted then.
    """
    found, question = _question(options)
    from attnbench import predict_table
    from attnbench.forecast import forecasts

    results = list(forecasts(found, question, _progress))
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    here = options.memory_limit is None
    if options.json:
        sys.stdout.write(json.dumps(predict_table.as_json(results, question, here), indent=2) + "\n")
    else:
        _print(results, question, here)
    return SOME_FAILED if any(item.reason for item in results) else OK


def parse_resolutions(text: str) -> tuple[tuple[int, int], ...]:
    """Return the (H, W) of ``224,448x672`` and of ranges: ``224..1792`` doubles 224 as long as 1792 is not passed.

    Raises:
        UserError: what is no list of resolutions, a range that ends below its begin, one resolution twice.
    """
    from attnbench.validation import parse_resolution, unique

    sides: list[tuple[int, int]] = []
    for word in _words("--res", text):
        low, dots, high = word.partition(_RANGE)
        height, width = parse_resolution(low)
        last = parse_resolution(high) if dots else (height, width)
        if last[0] < height or last[1] < width:
            raise UserError(f"--res: the range {word!r} ends below its begin")
        while height <= last[0] and width <= last[1]:
            sides.append((height, width))
            height, width = 2 * height, 2 * width
    return tuple(unique("--res", sides))


def _question(options: argparse.Namespace) -> "tuple[tuple[Contender, ...], Question]":
    """Check everything that was given, cheap things first."""
    from attnbench.capacity import available_memory
    from attnbench.config import RunConfig
    from attnbench.validation import check_names, check_numbers

    resolutions = parse_resolutions(options.res)
    limit = available_memory() if options.memory_limit is None else parse_bytes(options.memory_limit)
    config = RunConfig(
        mechanisms=None if options.mechanisms is None else _words("--mechanisms", options.mechanisms),
        models=[] if options.models is None else _words("--models", options.models),
        resolutions=["x".join(map(str, sides)) for sides in resolutions],
        size=options.size,
        batch_size=options.batch_size,
        precision=options.precision,
        num_classes=options.num_classes,
        threads=options.threads,
    )
    check_names(config)
    check_numbers(config)
    from attnbench.contenders import contenders
    from attnbench.environment import usable_cores
    from attnbench.forecast import Question
    from attnbench.measure.prediction import check_kernel

    if options.sdpa is not None:
        check_kernel(options.sdpa)
    question = Question(
        resolutions,
        options.batch_size,
        options.precision,
        options.num_classes,
        limit,
        options.threads or usable_cores(),
        options.sdpa,
        options.channels_last,
        options.device,
    )
    return contenders(config), question


def _words(flag: str, text: str) -> list[str]:
    from attnbench.names import split

    try:
        return split(text)
    except ValueError:
        raise UserError(f"{flag}: {text!r} is not a list separated by commas") from None


def _progress(done: int, total: int, name: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[Kpredicting {done + 1} of {total}: {name}")
        sys.stderr.flush()


def _print(results: "list[Forecast]", question: "Question", here: bool) -> None:
    from rich.console import Console

    from attnbench.forecast import STEPS
    from attnbench.predict_table import notes, table

    console = Console(highlight=False)
    for step in STEPS:
        console.print(table(results, question.batch_size, step))
        console.print()
    for note in notes(results, question, here):
        console.print(note, markup=False)
