"""A folder of images: what is read, how it becomes RGB, and what is refused in one line that names it."""

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attnbench.errors import UserError
from attnbench.recipe import Recipe

# By string: a type checker cannot see that tasks/ is installed as attnbench.tasks.
folder: Any = importlib.import_module("attnbench.tasks._folder")
Photographs: Any = importlib.import_module("attnbench.tasks._photographs").Photographs

RED = (255, 0, 0)


def put(path: Path, image: Image.Image | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or Image.new("RGB", (40, 30), RED)).save(path, **options)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("train/cat/1.png", "train/dog/1.png", "val/cat/1.png", "val/dog/1.png"):
        put(tmp_path / "data" / name)
    return tmp_path / "data"


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        folder.Folder(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_classes_are_those_of_train_sorted(tree: Path) -> None:
    put(tree / "train/ape/x.png")
    data = folder.Folder(tree)
    assert data.classes == ("ape", "cat", "dog")
    assert [data.image("val", index)[1] for index in range(data.count("val"))] == [1, 2]


def test_nested_files_and_upper_case_extensions_count(tree: Path) -> None:
    put(tree / "train/cat/deep/er/2.png")
    put(tree / "train/cat/3.JPG")
    put(tree / "train/cat/4.Tiff")
    assert folder.Folder(tree).count("train") == 5


def test_hidden_files_and_other_files_are_passed_over(tree: Path) -> None:
    for name in ("Thumbs.db", ".DS_Store", "._1.png", ".hidden/1.png", "notes.txt"):
        target = tree / "train/cat" / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(b"no image")
    (tree / "train/.cache").mkdir()
    (tree / "train/readme.txt").write_text("not a class")
    data = folder.Folder(tree)
    assert data.count("train") == 2
    assert data.classes == ("cat", "dog")


MODES = [
    ("L", 200, (200, 200, 200), "png"),
    ("1", 1, (255, 255, 255), "png"),
    ("I;16", 200 << 8, (200, 200, 200), "png"),
    ("I;16", 200 << 8, (200, 200, 200), "tif"),
    ("I;16B", 200 << 8, (200, 200, 200), "tif"),
    ("RGBA", (255, 0, 0, 0), (255, 255, 255), "png"),
    ("RGBA", (255, 0, 0, 255), RED, "webp"),
    ("LA", (0, 0), (255, 255, 255), "png"),
    ("LA", (100, 255), (100, 100, 100), "png"),
    ("CMYK", (0, 255, 255, 0), RED, "tif"),
    ("CMYK", (0, 255, 255, 0), (254, 0, 0), "jpg"),
    ("YCbCr", (76, 85, 255), (254, 0, 0), "jpg"),
    ("F", 120.0, (120, 120, 120), "tif"),
    ("RGB", RED, RED, "bmp"),
    ("RGB", RED, RED, "ppm"),
]


@pytest.mark.parametrize(("mode", "value", "expected", "extension"), MODES, ids=[f"{m[0]}-{m[3]}" for m in MODES])
def test_every_mode_becomes_rgb(mode: str, value: Any, expected: Any, extension: str, tmp_path: Path) -> None:
    path = put(tmp_path / f"a.{extension}", Image.new(mode, (8, 8), value))
    image = folder.load(path)
    assert image.mode == "RGB"
    assert np.abs(np.subtract(image.getpixel((4, 4)), expected)).max() <= 2


def test_half_transparency_lies_over_white(tmp_path: Path) -> None:
    path = put(tmp_path / "a.png", Image.new("RGBA", (4, 4), (255, 0, 0, 128)))
    assert np.abs(np.subtract(folder.load(path).getpixel((0, 0)), (255, 127, 127))).max() <= 1


@pytest.mark.parametrize("transparency", [0, bytes([0, 255])])
def test_a_palette_keeps_its_colours_and_its_transparency_lies_over_white(
    transparency: int | bytes, tmp_path: Path
) -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 0, 255, 255, 0, 0])
    image.putpixel((1, 1), 1)
    assert folder.load(put(tmp_path / "opaque.png", image)).getpixel((0, 0)) == (0, 0, 255)
    clear = folder.load(put(tmp_path / "clear.png", image, transparency=transparency))
    assert clear.getpixel((0, 0)) == (255, 255, 255)
    assert clear.getpixel((1, 1)) == RED


def test_a_transparent_colour_lies_over_white(tmp_path: Path) -> None:
    path = put(tmp_path / "a.png", Image.new("RGB", (4, 4), (9, 9, 9)), transparency=(9, 9, 9))
    assert folder.load(path).getpixel((0, 0)) == (255, 255, 255)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert folder.load(put(tmp_path / "a.jpg", Image.new("RGB", (40, 20), RED), exif=exif)).size == (20, 40)


def test_missing_path_and_a_file_are_refused(tmp_path: Path) -> None:
    assert "'" + str(tmp_path / "none") + "' does not exist; expected train/<class>/*" in refusal(tmp_path / "none")
    assert "is a file; expected train/<class>/*" in refusal(put(tmp_path / "a.png"))


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_missing_split_is_named(split: str, tree: Path) -> None:
    (tree / split).rename(tree / "other")
    assert f"{str(tree)!r} has no folder {split!r}" in refusal(tree)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_class_folders_is_refused(split: str, tree: Path) -> None:
    (tree / split).rename(tree / "other")
    put(tree / split / "1.png")
    assert f"{str(tree / split)!r} holds no class folder" in refusal(tree)


@pytest.mark.parametrize("name", ["train/empty", "val/dog"])
def test_an_empty_class_folder_is_named(name: str, tree: Path) -> None:
    (tree / name).mkdir(exist_ok=True)
    for file in (tree / name).iterdir():
        file.unlink()
    assert f"class folder {str(tree / name)!r} holds no image; known are .jpg" in refusal(tree)


def test_a_class_that_train_lacks_is_named(tree: Path) -> None:
    put(tree / "val/eel/1.png")
    assert "class 'eel'" in refusal(tree)


def test_a_class_that_val_lacks_keeps_the_labels_of_train(tree: Path) -> None:
    (tree / "val/cat/1.png").unlink()
    (tree / "val/cat").rmdir()
    assert folder.Folder(tree).image("val", 0)[1] == 1


def test_one_class_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "train/cat/1.png")
    put(tmp_path / "val/cat/1.png")
    assert "holds one class" in refusal(tmp_path)


def test_loops_of_links_end_and_linked_folders_count_once(tree: Path) -> None:
    put(tree.parent / "more/2.png")
    (tree / "train/cat/loop").symlink_to(tree / "train/cat", target_is_directory=True)
    (tree / "train/cat/more").symlink_to(tree.parent / "more", target_is_directory=True)
    (tree.parent / "more/back").symlink_to(tree / "train", target_is_directory=True)
    (tree / "train/dog/self").symlink_to(tree / "train/dog/self")
    data = folder.Folder(tree)
    assert data.count("train") >= 3
    assert data.classes == ("cat", "dog")


def test_a_pipe_named_like_an_image_is_refused(tree: Path) -> None:
    os.mkfifo(tree / "train" / "cat" / "pipe.png")
    assert "pipe.png' is no regular file" in refusal(tree)


def test_a_broken_link_is_named(tree: Path) -> None:
    (tree / "train/cat/9.png").symlink_to(tree / "nowhere.png")
    assert f"cannot read {str(tree / 'train/cat/9.png')!r}: No such file" in refusal(tree)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # PIL warns of a damaged TIFF before it gives up
@pytest.mark.parametrize("damage", ["text", "empty", "truncated", "header"])
@pytest.mark.parametrize("extension", ["png", "jpg", "tif", "bmp", "webp"])
def test_a_damaged_image_is_an_error_that_names_it(damage: str, extension: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = put(tmp_path / f"bad.{extension}", Image.fromarray(noise))
    whole = path.read_bytes()
    damaged = {"text": b"hello", "empty": b"", "truncated": whole[: len(whole) // 2], "header": whole[:20]}
    path.write_bytes(damaged[damage])
    with pytest.raises(UserError, match=f"cannot read '.*bad.{extension}': ") as caught:
        folder.load(path)
    assert "\n" not in str(caught.value)


def test_identity_follows_names_and_sizes_but_not_the_place(tree: Path) -> None:
    first = folder.Folder(tree).identity
    assert first.startswith("folder:")
    moved = tree.rename(tree.parent / "moved")
    assert folder.Folder(moved).identity == first
    put(moved / "train/cat/2.png")
    second = folder.Folder(moved).identity
    (moved / "train/cat/2.png").rename(moved / "train/dog/2.png")
    assert len({first, second, folder.Folder(moved).identity}) == 3


def stripes(tree: Path, split: str) -> None:
    """A picture (H, W) = (100, 300): red, green and blue thirds from left to right."""
    picture = np.zeros((100, 300, 3), dtype=np.uint8)
    for third in range(3):
        picture[:, 100 * third : 100 * third + 100, third] = 255
    put(tree / split / "cat/1.png", Image.fromarray(picture))


def pictures(tree: Path) -> Any:
    return Photographs(folder.Folder(tree))


def test_validation_shows_the_middle_and_covers_the_resolution(tree: Path) -> None:
    stripes(tree, "val")
    data = pictures(tree)
    square, _ = data.val_example(0, (64, 64))
    assert square.shape == (64, 64, 3)
    assert (square[:, 4:-4] == (0, 255, 0)).all()
    wide, _ = data.val_example(0, (32, 96))
    assert wide.shape == (32, 96, 3)
    assert (wide[16, 10], wide[16, 48], wide[16, 85]) == pytest.approx(np.eye(3) * 255, abs=1)


def test_training_crops_keep_their_share_and_follow_the_generator(tree: Path) -> None:
    stripes(tree, "train")
    data = pictures(tree)
    first, label = data.train_example(0, (48, 80), Recipe(), np.random.default_rng(1))
    again, _ = data.train_example(0, (48, 80), Recipe(), np.random.default_rng(1))
    other, _ = data.train_example(0, (48, 80), Recipe(), np.random.default_rng(2))
    assert first.shape == (48, 80, 3)
    assert label == 0
    assert (first == again).all()
    assert (first != other).any()


def test_training_crops_do_not_disturb_the_global_generator(tree: Path) -> None:
    data = pictures(tree)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    data.train_example(0, (32, 32), Recipe(), np.random.default_rng(0))
    assert torch.equal(torch.rand(4), expected)
