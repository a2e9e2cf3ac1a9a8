"""From a configuration to cells: which, in what order, under which key, and what is refused before anything runs."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.config import RunConfig, Timing
from attnbench.errors import UserError
from attnbench.plan import plan, training_of
from attnbench.record import Cell
from attnbench.validation import parse_resolution


def configured(**values: Any) -> RunConfig:
    return RunConfig(**{"mechanisms": ["focal", "swin"], "resolutions": ["64", "96"], "device": "cpu", **values})


@given(st.integers(32, 9999), st.integers(32, 9999))
def test_every_way_to_write_a_resolution_means_the_same(height: int, width: int) -> None:
    assert parse_resolution(f"{height}x{width}") == (height, width)
    assert parse_resolution((height, width)) == (height, width)
    assert parse_resolution(str(height)) == parse_resolution(height) == (height, height)


@pytest.mark.parametrize(
    "text", ["0", "-224", "31", "64x31", "x", "224x", "2 24", "224.0", "1e3", "", "224x224x3", "²²⁴", None]
)
def test_what_is_no_resolution_is_refused(text: object) -> None:
    with pytest.raises(UserError, match="resolution"):
        parse_resolution(text)


def test_a_run_has_one_cell_per_probe_mechanism_and_resolution() -> None:
    cells = plan(configured()).cells
    per_resolution = Counter(cell.probe for cell in cells)
    expected = {
        "macs": 4,
        "latency": 4,
        "training_step": 4,
        "memory_inference": 4,
        "memory_training": 4,
        "training": 2,
        "accuracy": 4,
    }
    assert per_resolution == expected
    assert len({cell.key for cell in cells}) == len(cells)


def test_planning_twice_gives_the_same_keys_in_the_same_order() -> None:
    assert [cell.key for cell in plan(configured()).cells] == [cell.key for cell in plan(configured()).cells]


def test_trainings_come_before_their_scores() -> None:
    cells = plan(configured(seeds=2)).cells
    places = {cell.key: place for place, cell in enumerate(cells)}
    for cell in cells:
        if cell.probe == "accuracy":
            assert places[training_of(cell).key] < places[cell.key]


@pytest.mark.parametrize(
    ("train_resolution", "expected"),
    [
        (None, {(64, 64): (64, 64), (96, 96): (64, 64)}),
        ("96", {(64, 64): (96, 96), (96, 96): (96, 96)}),
        ("80x48", {(64, 64): (80, 48), (96, 96): (80, 48)}),
        ("each", {(64, 64): (64, 64), (96, 96): (96, 96)}),
    ],
)
def test_where_a_model_trains(train_resolution: str | None, expected: dict[Any, Any]) -> None:
    cells = plan(configured(train_resolution=train_resolution)).cells
    found = {cell.resolution: cell.train_resolution for cell in cells if cell.probe == "accuracy"}
    assert found == expected
    trained = {cell.resolution for cell in cells if cell.probe == "training"}
    assert trained == set(expected.values())


def test_costs_do_not_depend_on_seeds_and_trainings_not_on_the_cost_batch() -> None:
    few, many = plan(configured()).cells, plan(configured(seeds=3)).cells
    costs = ("macs", "latency", "memory_inference", "memory_training")
    assert [cell for cell in few if cell.probe in costs] == [cell for cell in many if cell.probe in costs]
    larger = plan(configured(batch_size=8)).cells
    learnt = ("training", "accuracy")
    assert [cell for cell in few if cell.probe in learnt] == [cell for cell in larger if cell.probe in learnt]


def test_only_what_decides_a_number_changes_its_key() -> None:
    base = plan(configured())
    for change in ({"timeout": 5.0}, {"workers": 2}, {"out": "x"}):
        assert [cell.key for cell in plan(configured(**change)).cells] == [cell.key for cell in base.cells]
    for change in ({"threads": 1}, {"size": "tiny"}, {"precision": "bf16"}):
        assert not {cell.key for cell in plan(configured(**change)).cells} & {cell.key for cell in base.cells}


def test_a_field_that_is_not_set_does_not_enter_the_key() -> None:
    cell = plan(configured()).cells[0]
    assert replace(cell, seed=None).key == cell.key
    assert set(cell.to_json()) == {
        "probe",
        "mechanism",
        "size",
        "resolution",
        "device",
        "precision",
        "threads",
        "num_classes",
        "task",
    }
    assert Cell.from_json(cell.to_json()) == cell


def test_settings_reach_the_cells_of_their_mechanism_only() -> None:
    cells = plan(configured(settings={"swin": {"window": 4}})).cells
    assert {str(cell.settings) for cell in cells if cell.mechanism == "swin"} == {"{'window': 4}"}
    assert {str(cell.settings) for cell in cells if cell.mechanism == "focal"} == {"{}"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mechanisms": ["swn"]}, "did you mean 'swin'"),
        ({"mechanisms": []}, "at least one"),
        ({"resolutions": []}, "resolutions: at least one is needed"),
        ({"resolutions": "64"}, "resolutions must be a list"),
        ({"mechanisms": "swin"}, "mechanisms must be list"),
        ({"measure": "cost"}, "measure must be list"),
        ({"seeds": "2"}, "seeds must be int, not '2'"),
        ({"seeds": None}, "seeds must be int"),
        ({"seeds": True}, "seeds must be int"),
        ({"seeds": 10**10}, "at most 10000"),
        ({"threads": 10**8}, "at most 1024"),
        ({"num_classes": 10**12}, "at most 1000000"),
        ({"device": None}, "device must be str"),
        ({"batch_size": 1.5}, "batch_size must be int"),
        ({"out": 5}, "out must be str"),
        ({"out": ""}, "out is an empty path"),
        ({"data": ""}, "data is an empty path"),
        ({"settings": {"swin": 5}}, "settings of 'swin' must be a mapping"),
        ({"recipe": 3}, "recipe must be dict"),
        ({"recipe": {"samples": 10**20}}, "at most 1000000000000"),
        ({"recipe": {"scale": "x"}}, "recipe.scale must be float"),
        ({"recipe": {"name": "quik"}}, "did you mean 'quick'"),
        ({"recipe": {"name": "coco_1x"}}, "recipe 'coco_1x' is for detection, not for classification"),
        ({"recipe": {"sample": 3}}, "did you mean 'recipe.samples'"),
        ({"recipe": {"steps": 3, "epochs": 1.0}}, "say the same"),
        ({"processes": 3}, "recipe.batch_size (16) does not divide into 3 processes"),
        ({"processes": 0}, "processes must be at least 1"),
        ({"checkpoint": 0.0}, "checkpoint must be a positive number"),
        ({"tasks": ["detection", "segmentation"], "data": "x"}, "--data is for one task"),
        ({"heads": ["upernet"]}, "unknown head of classification 'upernet'"),
        ({"tasks": ["detection"], "heads": ["retinanet", "mask_rcnn"]}, "are both of detection"),
        ({"tasks": ["detection"], "models": ["timm:resnet18"]}, "needs the maps of four stages"),
        ({"mechanisms": ["swin", "swin"]}, "given twice"),
        ({"resolutions": ["64", "64x64"]}, "64x64 is given twice"),
        ({"size": "tny"}, "did you mean 'tiny'"),
        ({"tasks": ["clasification"]}, "did you mean 'classification'"),
        ({"precision": "fp8"}, "precision"),
        ({"measure": ["costs"]}, "did you mean 'cost'"),
        ({"device": "cuda:99"}, "cuda:99"),
        ({"device": "tpu"}, "auto, cpu, cuda"),
        ({"reference": "pvt"}, "not among the mechanisms"),
        ({"settings": {"swin": {"windw": 7}}}, "did you mean 'window'"),
        ({"settings": {"pvt": {"sr_ratio": 1}}}, "not among the mechanisms"),
        ({"train_resolution": "16"}, "under 32"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"workers": -1}, "workers must be 0 or more"),
        ({"recipe": {"samples": 3}}, "must cover one batch"),
        ({"recipe": {"scale": 0.0}}, "recipe.scale"),
        ({"recipe": {"learning_rate": float("nan")}}, "positive"),
        ({"timing": Timing(min_rounds=9, max_rounds=3)}, "below"),
        ({"timeout": 0.0}, "positive"),
        ({"data": "/no/such/folder"}, "/no/such/folder"),
    ],
)
def test_a_value_that_cannot_be_run_is_refused_before_anything_is_written(
    values: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(message)):
        plan(configured(**values))
    assert list(tmp_path.iterdir()) == []


def test_a_training_of_few_epochs_on_own_data_is_noted_with_the_steps_that_would_do(tmp_path: Path) -> None:
    from PIL import Image

    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(4):
                Image.new("RGB", (8, 8)).save(tmp_path / split / name / f"{index}.png")
    short = plan(configured(data=str(tmp_path), recipe={"samples": 32, "batch_size": 16}))
    assert [*short.notes] == [
        "recipe.samples=32 are 4.0 epochs of 8 images: enough to see it run, not to compare; --steps 6 are 12 epochs"
    ]
    assert plan(configured(data=str(tmp_path), recipe={"samples": 96, "batch_size": 16})).notes == ()
    assert plan(configured(data=str(tmp_path), measure=["cost"], recipe={"samples": 32})).notes == ()
    assert plan(configured()).notes == ()
