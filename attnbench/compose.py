"""From a preset and ``key=value`` words to a RunConfig: Hydra composes, the dataclass schema checks names and types."""

import re
from dataclasses import fields, is_dataclass
from importlib.resources import files
from typing import Any, cast

from attnbench import recipes
from attnbench.config import RunConfig
from attnbench.errors import UserError, unknown

WORD = re.compile(r"(?P<key>[A-Za-z_]\w*(?:\.\w+)*)=(?P<value>.*)", re.DOTALL)


def presets() -> list[str]:
    """Return the names of the presets."""
    return sorted(
        item.name.removesuffix(".yaml") for item in files("attnbench.conf").iterdir() if item.name.endswith(".yaml")
    )


def compose(preset: str, words: list[str]) -> RunConfig:
    """Return ``preset`` changed by ``words``, each ``key=value`` with a key of the schema.

    Raises:
        UserError: an unknown preset or key, a key given twice, a value of the wrong type, or Hydra's ``+``, ``~`` and
            ``hydra.`` words, which would slip past the schema.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if preset not in presets():
        raise unknown("preset", preset, presets())
    overrides = [_override(word) for word in words]
    keys = [word.partition("=")[0] for word in words]
    twice = next((key for index, key in enumerate(keys) if key in keys[:index]), None)
    if twice is not None:
        raise UserError(f"{twice} is given twice")
    ConfigStore.instance().store(name="schema", node=RunConfig)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("attnbench.conf", version_base="1.3"):
            composed = hydra_compose(preset, overrides)
        return cast(RunConfig, OmegaConf.to_object(composed))
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
        first = str(cause).strip().partition("\n")[0]
        raise UserError(f"{' '.join(words)}: {first}") from error


def keys_of(words: list[str]) -> set[str]:
    """Return the keys that ``words`` set."""
    return {word.partition("=")[0] for word in words}


def _override(word: str) -> str:
    match = WORD.fullmatch(word)
    if not match:
        raise UserError(f"override {word!r} is not key=value with a key of the configuration (no +, ~ or spaces)")
    path = match["key"].split(".")
    schema: Any = RunConfig
    for depth, name in enumerate(path):
        known = {item.name: item.type for item in fields(schema)}
        if name not in known:
            raise unknown("override", ".".join(path[: depth + 1]), [".".join([*path[:depth], item]) for item in known])
        schema = known[name]
        if name == "settings":  # a free mapping, checked by each mechanism's own settings
            if len(path) != 3:
                raise UserError(f"override {word!r}: settings are written settings.<mechanism>.<setting>=value")
            return f"++{word}"
        if name == "recipe":
            return f"++{_recipe_word(path, word)}"
        if not is_dataclass(schema):
            if depth + 1 < len(path):
                raise UserError(f"override {word!r}: {'.'.join(path[: depth + 1])} has no parts")
            return word
    raise _group(word, [item.name for item in fields(schema)])


def _recipe_word(path: list[str], word: str) -> str:
    """Return ``word`` if it names a value of a recipe; recipes say what the value may be."""
    known = recipes.keys()
    if len(path) == 1:
        raise _group(word, known)
    if len(path) > 2 or path[1] not in known:
        raise unknown("override", ".".join(path), [f"recipe.{name}" for name in known])
    return word


def _group(word: str, keys: list[str]) -> UserError:
    return UserError(f"override {word!r} sets a group; set one of its keys: {', '.join(keys)}")
