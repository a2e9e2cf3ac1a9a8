"""Amounts as people write them: memory as ``80GiB``, time as ``1h30m``. Standard library only."""

import re
from collections.abc import Mapping
from typing import Final

from attnbench.errors import UserError

_BYTES: Final[Mapping[str, int]] = {
    "": 1,
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgtp", start=1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgtp", start=1)},
}
_MEMORY: Final = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([a-z]*)")
_NUMBER: Final = r"([0-9]{1,12}(?:\.[0-9]{1,9})?)"
_TIME: Final = re.compile(rf"(?:{_NUMBER}h)?\s*(?:{_NUMBER}m)?\s*(?:{_NUMBER}s?)?")


def parse_bytes(text: object) -> int:
    """Return the bytes of ``80GiB``, ``16GB``, ``1.5MiB`` or a plain number; at least 1.

    Raises:
        UserError: the text is no such amount.
    """
    match = _MEMORY.fullmatch(str(text).strip().lower())
    if not match or match[2] not in _BYTES:
        raise UserError(f"{str(text)!r} is no amount of memory; write 80GiB, 16GB, 512MiB or a number of bytes")
    number, unit = match[1], _BYTES[match[2]]
    amount = round(float(number) * unit) if "." in number else int(number) * unit
    if amount < 1:
        raise UserError(f"an amount of memory must be at least 1 byte, not {text}")
    return amount


def parse_seconds(text: object) -> float:
    """Return the seconds of ``90s``, ``10m``, ``1h30m`` or a plain number; more than 0.

    Raises:
        UserError: the text is no such time.
    """
    words = str(text).strip().lower()
    match = _TIME.fullmatch(words)
    if not words or not match:
        raise UserError(f"{str(text)!r} is no time; write 90s, 10m, 1h30m or a number of seconds")
    hours, minutes, rest = (float(part or 0) for part in match.groups())
    seconds = 3600 * hours + 60 * minutes + rest
    if seconds <= 0:
        raise UserError(f"a time must be more than 0 seconds, not {text}")
    return seconds
