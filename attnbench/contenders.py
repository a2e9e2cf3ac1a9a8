"""What a run compares: mechanisms in the uniform backbone and models by name, each maybe with settings of its own.

``swin`` and ``focal_tiny`` are contenders, ``swin[window=14]`` and ``focal_tiny[use_shift=true]`` are too.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from attnbench import models
from attnbench.config import RunConfig
from attnbench.errors import UserError
from attnbench.names import parse
from attnbench.registry import MECHANISMS
from attnbench.validation import parse_resolution

PUBLISHED, TIMM = "published", "timm"  # in the place of a size
DEFAULT = ("focal", "swin")


@dataclass(frozen=True, slots=True)
class Contender:
    """One thing to compare."""

    label: str  # unique in its run
    mechanism: str  # or the model's name
    size: str
    settings: dict[str, Any]
    modules: tuple[str, ...]  # registered mechanisms that it is made of

    @property
    def is_model(self) -> bool:
        """Whether it has a name of its own, and is not a mechanism in the uniform backbone."""
        return self.size in (PUBLISHED, TIMM)


def contenders(config: RunConfig) -> tuple[Contender, ...]:
    """Return what ``config`` compares, in its order, the mechanisms first.

    Raises:
        UserError: an unknown name or setting, or one contender twice.
    """
    mechanisms = named_mechanisms(config)
    found = [_mechanism(text, config) for text in mechanisms] + [_model(text, config) for text in config.models]
    if not found:
        raise UserError("mechanisms: at least one is needed, or one of models")
    keys = [(item.mechanism, item.size, json.dumps(item.settings, sort_keys=True)) for item in found]
    for index, key in enumerate(keys):
        if key in keys[:index]:
            title = "models" if index >= len(mechanisms) else "mechanisms"
            raise UserError(f"{title}: {found[index].label} is given twice")
    _check_settings(config, found)
    return tuple(_unique(found))


def named_mechanisms(config: RunConfig) -> list[str]:
    """Return the mechanisms as they were named, or the default ones."""
    if config.mechanisms is None:
        return [] if config.models else list(DEFAULT)
    return list(config.mechanisms)


def label_of(text: str, config: RunConfig) -> str:
    """Return the label of a contender as it was written, for the choice of a reference."""
    name, settings = parse(text)
    if name.startswith(models.UNIFORM):
        name = models.uniform_parts(name)[0]
    return _label(name, settings, _global(config, name) | settings)


def _mechanism(text: str, config: RunConfig) -> Contender:
    name, own = parse(text)
    settings = _global(config, name) | own
    MECHANISMS[name].configure(**settings)
    return Contender(_label(name, own, settings), name, config.size, settings, (name,))


def _model(text: str, config: RunConfig) -> Contender:
    name, own = parse(text)
    models.check(name)
    if name.startswith(models.UNIFORM):
        mechanism, size = models.uniform_parts(name)
        settings = _global(config, mechanism) | own
        MECHANISMS[mechanism].configure(**settings)
        return Contender(_label(mechanism, own, settings), mechanism, size, settings, (mechanism,))
    settings = _global(config, name) | own
    label = _label(name, own, settings)
    models.check_changes(name, settings, map(parse_resolution, config.resolutions))
    if name.startswith(models.TIMM):
        return Contender(label, name, TIMM, settings, ())
    return Contender(label, name, PUBLISHED, settings, (models.mechanism_of(name, settings),))


def _global(config: RunConfig, name: str) -> dict[str, Any]:
    return dict(config.settings.get(name) or {})


def _label(name: str, own: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Return the name, with all settings where some are its own: as reports show it."""
    if not own:
        return name
    shown = (
        f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in sorted(settings.items())
    )
    return f"{name}({', '.join(shown)})"


def _unique(found: list[Contender]) -> Iterator[Contender]:
    """Tell contenders apart that are called the same: one mechanism in several sizes."""
    labels = [item.label for item in found]
    for item in found:
        if labels.count(item.label) == 1:
            yield item
        else:
            label = f"{models.UNIFORM}{item.label}_{item.size}"
            yield Contender(label, item.mechanism, item.size, item.settings, item.modules)


def _check_settings(config: RunConfig, found: list[Contender]) -> None:
    for name in config.settings:
        if name not in [item.mechanism for item in found]:
            raise UserError(f"settings are given for {name!r}, which is not among the mechanisms or models of this run")
