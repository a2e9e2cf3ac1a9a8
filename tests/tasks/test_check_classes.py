"""The check of folders of classes: every fault that is put in is told once, at its place, and nothing else is."""

import importlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from attnbench.errors import UserError

# By string: a type checker cannot see that tasks/ is installed as attnbench.tasks.
classes: Any = importlib.import_module("attnbench.tasks._check_classes")

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "classification"


def put(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (value, 0, 0)).save(path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    names = [f"train/{name}/{n}.png" for name in ("cat", "dog") for n in range(3)] + ["val/cat/0.png", "val/dog/0.png"]
    for value, name in enumerate(names):
        put(tmp_path / "data" / name, value)
    return tmp_path / "data"


def told(root: Path) -> list[tuple[str, str, str]]:
    return [(problem.severity, problem.kind, problem.where) for problem in classes.check(str(root)).problems]


def test_sound_data_are_counted_by_split_and_class(tree: Path) -> None:
    put(tree / "train/cat/deep/er.JPG", 99)
    report = classes.check(str(tree))
    assert not report.problems
    assert report.counts == {"train": {"images": 7, "classes": 2}, "val": {"images": 2, "classes": 2}}
    assert report.classes == {"train": {"cat": 4, "dog": 3}, "val": {"cat": 1, "dog": 1}}


def test_every_broken_image_is_named_and_not_only_the_first(tree: Path) -> None:
    path = tree / "train/cat/0.png"
    path.write_bytes(path.read_bytes()[:45])
    (tree / "train/dog/1.png").write_bytes(b"no image")
    (tree / "val/dog/0.png").write_bytes(b"")
    assert told(tree) == [
        ("error", "image that cannot be read", f"{name}.png") for name in ("train/cat/0", "train/dog/1", "val/dog/0")
    ]


def test_files_that_are_not_read_are_told_and_hidden_ones_are_not(tree: Path) -> None:
    for name in ("train/readme.txt", "train/cat/notes.txt", "train/.DS_Store", "train/cat/.hidden.png"):
        (tree / name).write_bytes(b"text")
    assert told(tree) == [
        ("warning", "file outside class folders", "train/readme.txt"),
        ("warning", "file that is no image", "train/cat/notes.txt"),
    ]


def test_classes_that_differ_are_told(tree: Path) -> None:
    put(tree / "val/eel/0.png", 50)
    put(tree / "train/fox/0.png", 51)
    (tree / "train/gnu").mkdir()
    (tree / "val/gnu").mkdir()
    assert told(tree) == [
        ("error", "class folder without images", "train/gnu"),
        ("error", "class folder without images", "val/gnu"),
        ("error", "class in validation only", "eel"),
        ("warning", "class without validation images", "fox"),
    ]


def test_one_class_is_too_few(tree: Path) -> None:
    for split in ("train", "val"):
        shutil.rmtree(tree / split / "dog")
    assert told(tree) == [("error", "too few classes", "train")]


def test_copies_between_splits_and_classes_are_told(tree: Path) -> None:
    shutil.copy(tree / "train/cat/1.png", tree / "val/cat/0.png")
    shutil.copy(tree / "train/cat/2.png", tree / "train/dog/2.png")
    assert told(tree) == [
        ("warning", "image in training and validation", "val/cat/0.png"),
        ("warning", "image in two classes", "train/dog/2.png"),
    ]


def test_a_missing_split_is_told_and_a_missing_folder_is_a_user_error(tree: Path, tmp_path: Path) -> None:
    shutil.rmtree(tree / "val")
    assert told(tree) == [("error", "missing folder", "val")]
    for path in (tmp_path / "nowhere", tmp_path, tree / "train/cat/0.png"):
        with pytest.raises(UserError, match="expected train/<class>/"):
            classes.check(str(path))


def test_a_picture_of_too_many_pixels_is_named(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # PIL refuses twice as many
    assert {kind for _, kind, _ in told(tree)} == {"image that cannot be read"}


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data are not here")
def test_the_real_data_have_the_numbers_that_their_readme_tells() -> None:
    report = classes.check(str(REAL))
    assert not report.problems
    assert report.counts == {"train": {"images": 994, "classes": 20}, "val": {"images": 400, "classes": 20}}
