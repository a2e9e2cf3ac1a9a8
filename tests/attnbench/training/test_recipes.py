"""Recipes by name: the papers' values, words that become fields, and what is refused."""

from collections.abc import Callable
from dataclasses import fields, replace
from importlib.resources import files
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from attnbench.errors import UserError
from attnbench.recipe import Recipe
from attnbench.recipes import check, names, resolve

IMAGENET, COCO, ADE = 1_281_167, 118_287, 20_210
SECTIONS = [
    (name, task, section)
    for name in names()
    for task, section in yaml.safe_load((files("attnbench.conf") / "recipes" / f"{name}.yaml").read_text()).items()
]


def test_the_presets_are_these() -> None:
    assert names() == ["ade20k_160k", "coco_1x", "coco_3x", "imagenet_300e", "quick"]


@pytest.mark.parametrize(("name", "task", "section"), SECTIONS, ids=lambda item: item if isinstance(item, str) else "")
def test_every_preset_resolves_on_its_own_data(name: str, task: str, section: Any) -> None:
    images = {"classification": IMAGENET, "detection": COCO, "segmentation": ADE}[task]
    recipe = resolve(name, task, images, {})
    assert all(
        getattr(recipe, key) == (tuple(value) if isinstance(value, list) else value)
        for key, value in section.items()
        if key in {item.name for item in fields(Recipe)}
    )


@pytest.mark.parametrize("name", [name for name in names() if name != "quick"])
def test_every_value_of_a_paper_s_preset_names_its_source(name: str) -> None:
    lines = (files("attnbench.conf") / "recipes" / f"{name}.yaml").read_text().splitlines()
    values = [line for line in lines if line.startswith("  ")]
    assert len(values) > 10
    assert [line for line in values if " # " not in line] == []


def test_quick_classification_is_the_default_of_every_value() -> None:
    assert resolve("quick", "classification", 900, {}) == Recipe()


def test_imagenet_trains_300_epochs_of_which_20_are_warm_up() -> None:
    recipe = resolve("imagenet_300e", "classification", IMAGENET, {})
    assert recipe.samples == 300 * IMAGENET
    assert recipe.warmup == pytest.approx(20 / 300, rel=1e-6)
    assert recipe.learning_rate * recipe.warmup_start == pytest.approx(1e-6)
    assert recipe.learning_rate * recipe.final == pytest.approx(1e-5)


@pytest.mark.parametrize(("name", "epochs", "milestones"), [("coco_1x", 12, (8, 11)), ("coco_3x", 36, (27, 33))])
def test_coco_warms_up_for_500_steps_and_falls_after_whole_epochs(
    name: str, epochs: int, milestones: tuple[int, ...]
) -> None:
    recipe = resolve(name, "detection", COCO, {})
    assert recipe.samples == epochs * COCO
    assert round(recipe.warmup * (recipe.samples // 16)) == 500
    assert recipe.milestones == pytest.approx([one / epochs for one in milestones], rel=1e-9)


def test_ade20k_is_160_000_steps_of_which_1500_are_warm_up_whatever_the_data_hold() -> None:
    for images in (ADE, 7):
        recipe = resolve("ade20k_160k", "segmentation", images, {})
        assert recipe.samples == 160_000 * 16
        assert round(recipe.warmup * 160_000) == 1500


@pytest.mark.parametrize(
    ("changes", "samples"),
    [({"steps": 7}, 7 * 16), ({"epochs": 2.5}, 250), ({"samples": 99}, 99), ({"steps": 7, "batch_size": 4}, 28)],
)
def test_an_amount_of_the_user_s_replaces_the_preset_s_in_whatever_word(changes: dict[str, Any], samples: int) -> None:
    for name, task in (("quick", "classification"), ("coco_1x", "detection"), ("ade20k_160k", "segmentation")):
        base = {"warmup": 0.0}  # 500 steps are more than 12 epochs of 100 images
        assert resolve(name, task, 100, {**base, **changes}).samples == samples


@given(st.integers(1, 10**6))
def test_a_shorter_training_keeps_the_shape_of_the_preset_s(steps: int) -> None:
    whole, part = (resolve("coco_1x", "detection", COCO, changes) for changes in ({}, {"steps": steps}))
    assert part == replace(whole, samples=16 * steps)


def test_a_change_in_steps_and_epochs_is_of_the_training_that_the_user_asks_for() -> None:
    recipe = resolve("coco_1x", "detection", 160, {"epochs": 4, "warmup_steps": 10, "milestone_epochs": [1, 3]})
    assert (recipe.warmup, recipe.milestones) == (10 / 40, (1 / 4, 3 / 4))


def test_another_schedule_leaves_the_preset_s_milestones_out() -> None:
    assert resolve("coco_1x", "detection", COCO, {"schedule": "cosine"}).milestones == ()


def test_whole_numbers_become_real_ones_so_that_a_recipe_has_one_key() -> None:
    recipe = resolve("quick", "classification", 900, {"clip": 1, "scales": [1, 2]})
    assert [type(value) for value in (recipe.clip, *recipe.scales)] == [float] * 3


@pytest.mark.parametrize(
    ("name", "task", "changes", "message"),
    [
        ("quik", "classification", {}, "unknown recipe 'quik'; did you mean 'quick'"),
        ("coco_1x", "classification", {}, "recipe 'coco_1x' is for detection, not for classification"),
        ("quick", "classification", {"sample": 1}, "did you mean 'recipe.samples'"),
        ("quick", "classification", {"epoch": 1}, "did you mean 'recipe.epochs'"),
        ("quick", "classification", {"samples": 32, "steps": 2}, "recipe.samples and recipe.steps say the same"),
        ("quick", "classification", {"warmup": 0.1, "warmup_steps": 2}, "warmup and recipe.warmup_steps say the same"),
        ("quick", "classification", {"warmup_steps": 97}, r"warmup_steps \(97\) must lie within the 96 steps"),
        ("quick", "classification", {"warmup_epochs": 20}, r"warmup_epochs \(20\) must lie within the 15.36 epochs"),
        ("quick", "classification", {"schedule": "steps", "milestone_steps": [97]}, "recipe.milestones says it as a"),
        ("coco_1x", "detection", {}, r"recipe.warmup_steps \(500\) .* recipe.warmup says it as a share"),
        ("quick", "classification", {"epochs": 0}, "recipe.epochs must be positive, not 0"),
        ("quick", "classification", {"epochs": float("inf")}, "recipe.epochs must be positive"),
        ("quick", "classification", {"steps": 1.5}, "recipe.steps must be int, not 1.5"),
        ("quick", "classification", {"samples": "many"}, "recipe.samples must be int, not 'many'"),
        ("quick", "classification", {"checkpointing": 1}, "recipe.checkpointing must be bool, not 1"),
        ("quick", "classification", {"scales": [1.0]}, r"recipe.scales must be 2 numbers, not \[1.0\]"),
        ("quick", "classification", {"test_scales": 1.0}, "recipe.test_scales must be a list of numbers"),
    ],
)
def test_what_is_no_recipe_is_refused(name: str, task: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(name, task, 100, changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 3}, r"recipe.samples \(3\) must cover one batch of 16"),
        ({"samples": 10**20}, "at most 1000000000000"),
        ({"batch_size": 0}, "recipe.batch_size must be at least 1, not 0"),
        ({"accumulate": 3}, r"recipe.batch_size \(16\) does not divide into recipe.accumulate=3 parts"),
        ({"scale": 0.0}, "recipe.scale must lie between 0 and 1, not 0.0"),
        ({"scale": float("nan")}, "recipe.scale must lie between 0 and 1"),
        ({"ema": 1.0}, "recipe.ema must lie between 0 and 1, not 1.0"),
        ({"drop_path": 1.0}, "recipe.drop_path must lie"),
        ({"layer_decay": 0.0}, "recipe.layer_decay must lie"),
        ({"flip": 1.5}, "recipe.flip must lie"),
        ({"learning_rate": 0.0}, "recipe.learning_rate must be a positive number, not 0.0"),
        ({"learning_rate": float("nan")}, "positive"),
        ({"clip": -1.0}, "recipe.clip must be a positive number or 0, not -1.0"),
        ({"mixup": float("inf")}, "recipe.mixup must be a positive number or 0, not inf"),
        ({"evaluations": 97}, "at most the 96 steps of the training, not 97"),
        ({"evaluations": -1}, "recipe.evaluations must be 0 or more"),
        ({"repeats": 0}, "recipe.repeats must be at least 1"),
        ({"schedule": "cosin"}, "unknown recipe.schedule 'cosin'; did you mean 'cosine'"),
        ({"schedule": "steps"}, "needs recipe.milestones"),
        ({"milestones": (0.5,)}, "are of the schedule 'steps', not of 'cosine'"),
        ({"schedule": "steps", "milestones": (0.9, 0.5)}, "recipe.milestones must rise"),
        ({"schedule": "steps", "milestones": (0.5, 1.0)}, "recipe.milestones must rise"),
        ({"scales": (1.0, 0.5)}, "recipe.scales must be sizes above 0, smallest first"),
        ({"test_scales": ()}, "recipe.test_scales must be sizes above 0"),
    ],
)
def test_a_value_out_of_its_range_is_refused_however_it_comes(changes: dict[str, Any], message: str) -> None:
    ways: list[Callable[[], object]] = [
        lambda: check(replace(Recipe(), **changes)),
        lambda: resolve("quick", "classification", 900, changes),
    ]
    for way in ways:
        with pytest.raises(UserError, match=message):
            way()


def test_a_clip_of_zero_is_no_clip_and_allowed() -> None:
    assert resolve("quick", "classification", 900, {"clip": 0}).clip == 0
