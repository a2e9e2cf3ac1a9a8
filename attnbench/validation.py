"""What a configuration may hold: types, names and numbers, each refused by name with what would be right."""

import math
import re
import types
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from attnbench.axes import check_axes
from attnbench.config import RunConfig
from attnbench.errors import UserError, unknown
from attnbench.registry import TASKS
from attnbench.sizes import SIZES

LEAST_SIDE = 32
COSTS = ("macs", "time", "training_time", "memory")  # all of them: cost
MEASURES = ("cost", *COSTS, "best_batch", "accuracy")
RESOLUTIONS = ("resolutions", "train_resolution")  # read by parse_resolution, whatever their types


def parse_resolution(text: object) -> tuple[int, int]:
    """Return (H, W) of ``224``, ``"224"``, ``"224x336"`` or ``(224, 336)``; both at least 32."""
    words = "x".join(map(str, text)) if isinstance(text, list | tuple) else str(text)
    match = re.fullmatch(r"([0-9]{1,6})(?:x([0-9]{1,6}))?", words.strip())
    if not match:
        raise UserError(f"resolution {words!r} is neither N nor HxW in whole pixels, such as 224 or 448x672")
    height = int(match[1])
    width = int(match[2]) if match[2] else height
    if min(height, width) < LEAST_SIDE:
        raise UserError(f"resolution {words!r} is under {LEAST_SIDE} pixels, the least that four stages can take")
    return height, width


def unique(title: str, items: list[Any]) -> list[Any]:
    """Return ``items``; none at all, or one twice, is a ``UserError``."""
    if not items:
        raise UserError(f"{title}: at least one is needed")
    twice = next((item for index, item in enumerate(items) if item in items[:index]), None)
    if twice is not None:
        raise UserError(f"{title}: {'x'.join(map(str, twice)) if isinstance(twice, tuple) else twice} is given twice")
    return items


def check_types(config: Any, prefix: str = "") -> None:
    """Refuse a value of another type than its field's: the command line's are checked on the way, Python's here."""
    hints = get_type_hints(type(config))
    for item in fields(config):
        value, hint = getattr(config, item.name), hints[item.name]
        if is_dataclass(hint):
            if not isinstance(value, hint):  # type: ignore[arg-type]
                raise UserError(f"{item.name} must be a {hint.__name__}, not {value!r}")  # type: ignore[union-attr]
            check_types(value, f"{item.name}.")
        elif item.name in RESOLUTIONS:
            if item.name == "resolutions" and not isinstance(value, list | tuple):
                raise UserError(f"resolutions must be a list, not {value!r}")
        elif not _fits(value, hint):
            raise UserError(f"{prefix}{item.name} must be {_words(hint)}, not {value!r}")
    if isinstance(config, RunConfig):
        wrong = next((name for name, value in config.settings.items() if not isinstance(value, Mapping)), None)
        if wrong is not None:
            raise UserError(f"settings of {wrong!r} must be a mapping from setting to value")
        if "" in (config.out, config.data):
            raise UserError(f"{'out' if config.out == '' else 'data'} is an empty path; leave it out, or name a folder")


def check_names(config: RunConfig) -> None:
    """Refuse an unknown size, precision, measure or task, or one that is given twice."""
    choices: tuple[tuple[str, list[str], Collection[str]], ...] = (
        ("size", [config.size], SIZES),
        ("measure", config.measure, MEASURES),
    )
    for title, given, known in choices:
        for name in given:
            if name not in known:
                raise unknown(title, name, known)
    check_axes(config)
    for title, names in (("tasks", config.tasks), ("measure", config.measure)):
        unique(title, names)
    for name in config.tasks:
        TASKS[name]
    if config.train_resolution not in (None, "each"):
        parse_resolution(config.train_resolution)


def check_numbers(config: RunConfig) -> None:
    """Refuse a number that no run can have."""
    timing = config.timing
    counts = {
        "seeds": (config.seeds, 10_000),
        "batch_size": (config.batch_size, 10**6),
        "threads": (1 if config.threads is None else config.threads, 1024),
        "num_classes": (1 if config.num_classes is None else config.num_classes, 10**6),
        "processes": (config.processes, 1024),
        "timing.min_rounds": (timing.min_rounds, 10**6),
        "timing.max_rounds": (timing.max_rounds, 10**6),
        "timing.min_launches": (timing.min_launches, 10**6),
    }
    for name, (value, most) in counts.items():
        if not 1 <= value <= most:
            raise UserError(f"{name} must be at least 1{f' and at most {most}' if value > 1 else ''}, not {value}")
    if not 0 <= config.workers <= 1024:
        raise UserError(
            f"workers must be 0 or more{' and at most 1024' if config.workers > 0 else ''}, not {config.workers}"
        )
    if timing.max_rounds < timing.min_rounds:
        raise UserError(f"timing.max_rounds ({timing.max_rounds}) is below timing.min_rounds ({timing.min_rounds})")
    positive: dict[str, float] = {
        "timeout": config.timeout,
        "timing.budget": timing.budget,
        "timing.precision": timing.precision,
        "timing.sample": timing.sample,
        "timing.launch": timing.launch,
        "cell_limit": config.cell_limit,
        "checkpoint": config.checkpoint,
    }
    for name, number in positive.items():
        if not (number > 0 and math.isfinite(number)):
            raise UserError(f"{name} must be a positive number, not {number}")


def _fits(value: object, hint: Any) -> bool:
    if isinstance(hint, types.UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if get_origin(hint) is list:
        return isinstance(value, list | tuple) and all(_fits(item, get_args(hint)[0]) for item in value)
    if get_origin(hint) is dict:
        return isinstance(value, Mapping)
    if hint is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    return type(value) is hint


def _words(hint: Any) -> str:
    return str(hint).replace("<class '", "").replace("'>", "")
