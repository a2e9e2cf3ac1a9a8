"""From a recipe's name and a user's changes to a :class:`Recipe`: presets are YAML, a section for each task.

A preset and the changes speak alike: in fields of ``Recipe``, or in ``WORDS``, which are easier to hold against a
paper and become fields once the number of training images is known. The preset is settled by itself first; a change
then replaces what it says, and shares that the preset gave in steps or epochs keep their part of the training.
"""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from importlib.resources import files
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from attnbench.errors import UserError, unknown
from attnbench.recipe import Recipe

AMOUNTS = ("samples", "steps", "epochs")  # how much to train
WARMUPS = ("warmup", "warmup_steps", "warmup_epochs")
MILESTONES = ("milestones", "milestone_steps", "milestone_epochs")
GROUPS = (AMOUNTS, WARMUPS, MILESTONES)  # each says one thing in three ways; the first is the field
# Words beside the fields of a recipe, and their types.
WORDS: Mapping[str, Any] = {
    "steps": int,
    "epochs": float,
    "warmup_steps": int,
    "warmup_epochs": float,
    "milestone_steps": tuple[int, ...],
    "milestone_epochs": tuple[float, ...],
}
TYPES: Mapping[str, Any] = {**get_type_hints(Recipe), **WORDS}
SCHEDULES = ("cosine", "linear", "steps", "constant")


DEFAULT = "quick"
NAME = "name"  # the word that chooses a preset


def keys() -> list[str]:
    """Return the words that a user's changes may have."""
    return [NAME, *TYPES]


def chosen(words: Mapping[str, Any], task: str, train_images: int) -> Recipe:
    """Return the recipe of a run for ``task``: ``words`` are changes, and maybe the name of the preset.

    A task of a plug-in, which ``DEFAULT`` does not know, starts from the defaults of :class:`Recipe`.

    Raises:
        UserError: see :func:`resolve`.
    """
    changes = dict(words)
    name = changes.pop(NAME, DEFAULT)
    if not isinstance(name, str):
        raise UserError(f"recipe.name must be one of {', '.join(names())}, not {name!r}")
    return resolve(name, task, train_images, changes)


def tasks(name: str) -> list[str]:
    """Return the tasks that the preset ``name`` is for."""
    return list(_sections(name))


def names() -> list[str]:
    """Return the names of the presets."""
    found = (item.name for item in (files("attnbench.conf") / "recipes").iterdir())
    return sorted(name.removesuffix(".yaml") for name in found if name.endswith(".yaml"))


def resolve(name: str, task: str, train_images: int, changes: Mapping[str, Any]) -> Recipe:
    """Return the recipe ``name`` for ``task`` on data of ``train_images`` images, with the user's ``changes``.

    Raises:
        UserError: an unknown name or key, a recipe that is not for the task, or a value of a wrong type or range.
    """
    preset = _settled(Recipe(), _less(_section(name, task), changes), train_images)
    recipe = _settled(preset, changes, train_images)
    check(recipe)
    return recipe


def check(recipe: Recipe) -> None:
    """Refuse a recipe that no training can have.

    Raises:
        UserError: a value of a wrong type or range, named.
    """
    for item in fields(Recipe):
        _typed(item.name, getattr(recipe, item.name))
    _check_counts(recipe)
    for name in ("learning_rate", "clip", "mixup", "cutmix", "color_jitter"):
        number, zero = getattr(recipe, name), name != "learning_rate"
        if not (math.isfinite(number) and (number > 0 or (zero and number == 0))):
            raise UserError(f"recipe.{name} must be a positive number{' or 0' if zero else ''}, not {number}")
    _check_shares(recipe)
    if recipe.schedule not in SCHEDULES:
        raise unknown("recipe.schedule", recipe.schedule, SCHEDULES)
    rising = list(recipe.milestones) == sorted(set(recipe.milestones))
    if not rising or not all(0 < share < 1 for share in recipe.milestones):
        raise UserError(f"recipe.milestones must rise, between 0 and 1, not {list(recipe.milestones)}")
    if recipe.milestones and recipe.schedule != "steps":
        raise UserError(f"recipe.milestones are of the schedule 'steps', not of {recipe.schedule!r}")
    if recipe.schedule == "steps" and not recipe.milestones:
        raise UserError("the schedule 'steps' needs recipe.milestones, such as [0.6667, 0.9167]")
    for name in ("scales", "test_scales"):
        sizes = getattr(recipe, name)
        if not sizes or not all(0 < size <= 10 for size in sizes) or (name == "scales" and sizes[0] > sizes[-1]):
            raise UserError(f"recipe.{name} must be sizes above 0, smallest first, at most 10, not {list(sizes)}")


def _check_counts(recipe: Recipe) -> None:
    most = {"samples": 10**12, "batch_size": 10**6, "accumulate": 10**6, "repeats": 10**3}
    for name, highest in most.items():
        value = getattr(recipe, name)
        if not 1 <= value <= highest:
            limit = f" and at most {highest}" if value > 1 else ""
            raise UserError(f"recipe.{name} must be at least 1{limit}, not {value}")
    if recipe.samples < recipe.batch_size:
        raise UserError(f"recipe.samples ({recipe.samples}) must cover one batch of {recipe.batch_size}")
    if recipe.batch_size % recipe.accumulate:
        raise UserError(
            f"recipe.batch_size ({recipe.batch_size}) does not divide into recipe.accumulate={recipe.accumulate} parts"
        )
    steps = recipe.samples // recipe.batch_size
    if not 0 <= recipe.evaluations <= steps:
        raise UserError(
            f"recipe.evaluations must be 0 or more, and at most the {steps} steps of the training, "
            f"not {recipe.evaluations}"
        )


def _check_shares(recipe: Recipe) -> None:
    above = ("scale", "layer_decay")  # not 0
    below = ("drop_path", "label_smoothing", "ema")  # not 1
    others = ("warmup", "warmup_start", "final", "weight_decay", "flip", "erasing")
    for name in (*above, *below, *others):
        share = getattr(recipe, name)
        if not 0 <= share <= 1 or (name in above and not share) or (name in below and share == 1):
            raise UserError(f"recipe.{name} must lie between 0 and 1, not {share}")


def _sections(name: str) -> dict[str, dict[str, Any]]:
    if name not in names():
        raise unknown("recipe", name, names())
    text = (files("attnbench.conf") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    sections: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return sections


def _section(name: str, task: str) -> Mapping[str, Any]:
    sections = _sections(name)
    if task not in sections:
        if name == DEFAULT:
            return {}
        raise UserError(f"recipe {name!r} is for {' and '.join(sections)}, not for {task}")
    return sections[task]


def _less(section: Mapping[str, Any], changes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a preset without the warm-up and milestones that the changes replace, or leave no place for."""
    gone = {key for group in (WARMUPS, MILESTONES) if set(group) & set(changes) for key in group}
    if changes.get("schedule", "steps") != "steps":
        gone |= set(MILESTONES)
    return {key: value for key, value in section.items() if key not in gone}


def _settled(recipe: Recipe, changes: Mapping[str, Any], train_images: int) -> Recipe:
    """Return ``recipe`` with ``changes``, which may say amounts in steps and epochs."""
    for key in changes:
        if key not in TYPES:
            raise unknown("override", f"recipe.{key}", [f"recipe.{name}" for name in TYPES])
    given = {key: _typed(key, value) for key, value in changes.items()}
    for group in GROUPS:
        several = [f"recipe.{key}" for key in group if key in given]
        if len(several) > 1:
            raise UserError(f"{' and '.join(several)} say the same; give one of them")
    recipe = replace(recipe, **{key: value for key, value in given.items() if key not in WORDS})
    recipe = replace(recipe, samples=_samples(recipe, given, train_images))
    steps = max(1, recipe.samples // max(1, recipe.batch_size))
    of_one = {"steps": 1 / steps, "epochs": train_images / recipe.samples if recipe.samples else math.nan}
    for unit, share in of_one.items():
        if f"warmup_{unit}" in given:
            recipe = replace(recipe, warmup=_within(f"warmup_{unit}", given, share, unit))
        if f"milestone_{unit}" in given:
            places = given[f"milestone_{unit}"]
            _within(f"milestone_{unit}", {f"milestone_{unit}": max(places, default=0)}, share, unit)
            recipe = replace(recipe, milestones=tuple(place * share for place in places))
    return recipe


def _samples(recipe: Recipe, given: Mapping[str, Any], train_images: int) -> int:
    amount = next((key for key in AMOUNTS[1:] if key in given), None)
    if amount is None:
        return recipe.samples
    value = given[amount]
    if not (value > 0 and math.isfinite(value)):
        raise UserError(f"recipe.{amount} must be positive, not {value}")
    return int(value) * recipe.batch_size if amount == "steps" else round(value * train_images)


def _within(key: str, given: Mapping[str, Any], share: float, unit: str) -> float:
    """Return what ``given[key]`` steps or epochs are of the training."""
    value = float(given[key])
    if not 0 <= value * share <= 1:
        word = key.partition("_")[0]
        word = f"{word}s" if word == "milestone" else word
        raise UserError(
            f"recipe.{key} ({value:g}) must lie within the {1 / share:.4g} {unit} of the training; "
            f"recipe.{word} says it as a share"
        )
    return value * share


def _typed(key: str, value: Any) -> Any:
    """Return ``value`` as the type of its key, lists as tuples; another type is a ``UserError``."""
    kind = TYPES[key]
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        length = None if inner[-1] is Ellipsis else len(inner)
        listed = isinstance(value, list | tuple) and length in (None, len(value))
        if listed and all(_is(item, inner[0]) for item in value):
            return tuple(inner[0](item) for item in value)
        count = f"{length} numbers" if length else "a list of numbers"
        raise UserError(f"recipe.{key} must be {count}, not {value!r}")
    if not _is(value, kind):
        raise UserError(f"recipe.{key} must be {kind.__name__}, not {value!r}")
    return float(value) if kind is float else value


def _is(value: object, kind: type) -> bool:
    if kind is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    return type(value) is kind
