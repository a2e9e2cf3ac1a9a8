"""Axes of a run besides mechanisms and resolutions: each word of ``--compile off,on`` is a variant to compare."""

from collections.abc import Mapping
from itertools import product
from typing import Any

from attnbench.config import RunConfig
from attnbench.errors import UserError, unknown

SWITCH = ("off", "on")
SDPA = ("auto", "math", "flash", "efficient", "cudnn")
PRECISIONS = ("fp32", "bf16")
AXES = ("compile", "channels_last", "sdpa")  # fields of a cost cell; precision is one of every cell
CHOICES = {"precision": PRECISIONS, "compile": SWITCH, "channels_last": SWITCH, "sdpa": SDPA}


def words(text: str) -> list[str]:
    """Return the words of a list separated by commas."""
    return [word.strip() for word in text.split(",")]


def check_axes(config: RunConfig) -> None:
    """Refuse an unknown word, or one that is given twice."""
    for name, known in CHOICES.items():
        given = words(getattr(config, name))
        for index, word in enumerate(given):
            if word not in known:
                raise unknown(name, word, known)
            if word in given[:index]:
                raise UserError(f"{name}: {word} is given twice")


def variants(config: RunConfig) -> list[dict[str, Any]]:
    """Return the fields of a cost cell for each combination; what torch does by itself is None, as in older records."""
    axes: dict[str, list[Any]] = {
        name: [True if word == "on" else None for word in words(getattr(config, name))]
        for name in ("compile", "channels_last")
    }
    axes["sdpa"] = [None if word == "auto" else word for word in words(config.sdpa)]
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def suffix(variant: Mapping[str, Any]) -> str:
    """Return what tells a variant's label from that of the plain contender."""
    return "".join(f"+{name if value is True else f'{name}={value}'}" for name, value in variant.items() if value)
