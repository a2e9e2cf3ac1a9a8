"""How contenders are written: ``swin``, ``swin[window=14]``, lists of them. No torch."""

import re
from typing import Any

from attnbench.errors import UserError

FORM = re.compile(r"(?P<name>[^\[\]]+)(?:\[(?P<settings>.*)\])?")


def split(text: str) -> list[str]:
    """Split a list at the commas that are in no brackets; an empty item is a ``ValueError``."""
    items, depth = [""], 0
    for char in text:
        depth += (char == "[") - (char == "]")
        if char == "," and depth == 0:
            items.append("")
        else:
            items[-1] += char
    items = [item.strip() for item in items]
    if not all(items):
        raise ValueError(text)
    return items


def parse(text: object) -> tuple[str, dict[str, Any]]:
    """Return name and settings of ``name[setting=value, ...]``, the values as YAML reads them.

    Raises:
        UserError: the text is not of that form.
    """
    import yaml

    match = FORM.fullmatch(str(text).strip())
    if not match:
        raise UserError(f"{str(text)!r} is neither a name nor name[setting=value]")
    settings: dict[str, Any] = {}
    try:
        for item in split(match["settings"]) if match["settings"] is not None else ():
            key, equals, value = item.partition("=")
            if not (equals and key.strip().isidentifier()) or key.strip() in settings:
                raise ValueError(item)
            settings[key.strip()] = yaml.safe_load(value)
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{str(text)!r}: settings are written name[setting=value, setting=value]") from error
    return match["name"].strip(), settings
