"""``attnbench eval``: the accuracy of a model with given weights on a folder of images."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbench.errors import UserError

if TYPE_CHECKING:
    import torch

    from attnbench.evaluation import Accuracy, Images, Preprocessing
    from attnbench.published.adapt import Loaded

TELLINGS = 10  # lines of progress where there is no terminal


def add_parser(commands: Any) -> None:
    """Add the command to argparse's sub-commands; ``run_eval`` is its function."""
    parser = commands.add_parser("eval", help="the accuracy of given weights on a folder of images", allow_abbrev=False)
    parser.add_argument("--model", required=True, metavar="NAME", help="a published model, timm:NAME, uniform:NAME")
    parser.add_argument("--weights", required=True, type=Path, metavar="FILE", help=".pth, .pt, .bin or .safetensors")
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="val/<class>/* or <class>/*")
    parser.add_argument("--res", default="224", metavar="N", help="resolution in pixels, N or HxW; default: 224")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images per batch; default: 64")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that load images; default: 0")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads; default: torch's own choice")
    parser.add_argument("--limit", type=int, metavar="N", help="only N of the images, evenly spread")
    parser.add_argument("--ema", action="store_true", help="take the moving average of the weights")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.set_defaults(function=run_eval)


def run_eval(options: argparse.Namespace) -> int:
    """Load, adapt, score and print; return the exit code.

    Raises:
        UserError: a model, weights, data or flags that do not work, or do not work together.
    """
    for flag, least in (("batch_size", 1), ("workers", 0), ("threads", 1), ("limit", 1)):
        value = getattr(options, flag)
        if value is not None and value < least:
            raise UserError(f"--{flag.replace('_', '-')} must be at least {least}, not {value}")
    import torch

    from attnbench.checkpoints import read
    from attnbench.environment import resolve_device
    from attnbench.evaluation import find_images, preprocessing_of
    from attnbench.models import check
    from attnbench.validation import parse_resolution
    from attnbench.weights import load_model

    check(options.model)
    resolution = parse_resolution(options.res)
    device = torch.device(resolve_device(options.device))
    images = find_images(options.data, options.limit)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    loaded = load_model(options.model, read(options.weights, options.ema), resolution)
    if loaded.num_classes != len(images.classes):
        there = f"{str(options.data)!r} holds {len(images.classes)}"
        raise UserError(f"the weights tell {loaded.num_classes} classes apart, but {there}")
    preprocessing = preprocessing_of(loaded.model, resolution)
    accuracy = _evaluate(options, loaded, images, preprocessing, device)
    write = _as_json if options.json else _as_text
    sys.stdout.write(write(options, loaded, preprocessing, accuracy))
    return 0


def _evaluate(
    options: argparse.Namespace,
    loaded: "Loaded",
    images: "Images",
    preprocessing: "Preprocessing",
    device: "torch.device",
) -> "Accuracy":
    """Score with progress on stderr: a bar where that is a terminal, ten lines elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from attnbench.evaluation import evaluate

    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    total, told = len(images.files), 0
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        line = bar.add_task(f"{options.model} on {device}", total=total)

        def progress(done: int) -> None:
            nonlocal told
            bar.update(line, completed=done)
            if not console.is_terminal and done * TELLINGS // total > told:
                told = done * TELLINGS // total
                console.print(f"attnbench: {done} of {total} images")

        size, workers = options.batch_size, options.workers
        return evaluate(loaded.model, images, preprocessing, device, size, workers, progress)


def _as_json(
    options: argparse.Namespace, loaded: "Loaded", preprocessing: "Preprocessing", accuracy: "Accuracy"
) -> str:
    found = {
        "model": options.model,
        "weights": str(options.weights),
        "resolution": list(preprocessing.resolution),
        "images": accuracy.images,
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "throughput_img_per_s": accuracy.throughput,
        "parameters": _parameters(loaded),
        "adapted": list(loaded.adapted),
    }
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _as_text(
    options: argparse.Namespace, loaded: "Loaded", preprocessing: "Preprocessing", accuracy: "Accuracy"
) -> str:
    height, width = preprocessing.resolution
    crop = preprocessing.crop
    cut = "the whole image resized" if crop is None else f"the centre, {crop:g} of the shorter side"
    lines = [
        ("model", options.model),
        ("weights", str(options.weights) + (", moving average" if options.ema else "")),
        ("resolution", f"{height} x {width} pixels: {cut}, {preprocessing.interpolation}"),
        ("images", f"{accuracy.images:,} of {loaded.num_classes:,} classes"),
        ("top-1", f"{100 * accuracy.top1:.2f} %"),
        ("top-5", "-" if accuracy.top5 is None else f"{100 * accuracy.top5:.2f} %"),
        ("throughput", f"{accuracy.throughput:.4g} images/s, the model alone, batches of {options.batch_size}"),
        ("parameters", f"{_parameters(loaded):,}"),
        *(("adapted", note) for note in loaded.adapted or ("nothing",)),
    ]
    return "".join(f"{name:<10}  {text}\n" for name, text in lines)


def _parameters(loaded: "Loaded") -> int:
    return sum(parameter.numel() for parameter in loaded.model.parameters())
