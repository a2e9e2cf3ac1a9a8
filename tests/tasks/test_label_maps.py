"""Folders of images with label maps: what is read, and what is refused in one line that names it."""

import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attnbench.errors import UserError

# By string: a type checker cannot see that tasks/ is installed as attnbench.tasks.
label_maps: Any = importlib.import_module("attnbench.tasks._label_maps")
LabelMaps: Any = label_maps.LabelMaps

REAL = Path(__file__).parents[3] / "shared" / "data" / "segmentation"
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason="the real data are not here")


def put(path: Path, pixels: Any, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels, dtype=np.uint8))
    image.save(path, **options)
    return path


def labels(*values: int) -> list[list[int]]:
    return [list(values)] * 3


def ade20k(path: Path) -> Path:
    for folder in ("training", "validation"):
        for stem, values in (("a", (0, 1, 2, 3)), ("b", (1, 1, 3, 3))):
            put(path / "images" / folder / f"{stem}.jpg", Image.new("RGB", (4, 3), "red"))
            put(path / "annotations" / folder / f"{stem}.png", labels(*values))
    return path


def pascal(path: Path) -> Path:
    (path / "ImageSets/Segmentation").mkdir(parents=True)
    for split, stem in (("train", "2007_1"), ("val", "2007_2")):
        put(path / "JPEGImages" / f"{stem}.jpg", Image.new("RGB", (4, 3), "red"))
        put(path / "SegmentationClass" / f"{stem}.png", labels(0, 1, 2, 255))
        (path / "ImageSets/Segmentation" / f"{split}.txt").write_text(f"{stem}\n")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        LabelMaps(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def unread(path: Path, split: str = "train", index: int = 0) -> str:
    data = LabelMaps(path)
    with pytest.raises(UserError) as caught:
        data.example(split, index, (32, 32), 1.0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def read(path: Path, split: str = "train", index: int = 0) -> tuple[Any, Any]:
    found: tuple[Any, Any] = LabelMaps(path).example(split, index, (32, 32), 1.0)
    return found


@pytest.fixture(params=[ade20k, pascal])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    make: Callable[[Path], Path] = request.param
    return make(tmp_path / "data")


def test_ade20k_counts_classes_from_one_and_ignores_zero(tmp_path: Path) -> None:
    data = LabelMaps(ade20k(tmp_path))
    assert data.classes == ("class 1", "class 2", "class 3")
    assert [data.count(split) for split in ("train", "val")] == [2, 2]
    picture, found = data.example("train", 0, (32, 32), 1.0)
    assert picture.shape == (3, 4, 3)
    assert found.tolist() == labels(-1, 0, 1, 2)


def test_voc_counts_classes_from_zero_and_ignores_255(tmp_path: Path) -> None:
    data = LabelMaps(pascal(tmp_path))
    assert (len(data.classes), data.classes[0], data.classes[-1]) == (21, "background", "tvmonitor")
    assert data.example("val", 0, (32, 32), 1.0)[1].tolist() == labels(0, 1, 2, -1)
    put(tmp_path / "SegmentationClass/2007_2.png", labels(0, 21, 30, 255))
    assert LabelMaps(tmp_path).classes[-1] == "class 30"


def test_the_largest_label_of_either_split_counts(tmp_path: Path) -> None:
    put(ade20k(tmp_path) / "annotations/validation/b.png", labels(0, 7, 1, 1))
    assert len(LabelMaps(tmp_path).classes) == 7


@pytest.mark.parametrize(
    "text", ["sky\nsea, lake\nrock", "\ufeffsky\r\nsea, lake\r\nrock\r\n\r\n", "1 sky\n2\tsea, lake\n3: rock\n"]
)
def test_classes_are_the_lines_of_a_file_without_their_numbers(tmp_path: Path, text: str) -> None:
    (ade20k(tmp_path) / "classes.txt").write_bytes(text.encode())
    assert LabelMaps(tmp_path).classes == ("sky", "sea, lake", "rock")


def test_a_name_numbered_zero_is_that_of_what_ade20k_ignores(tmp_path: Path) -> None:
    (ade20k(tmp_path) / "classes.txt").write_text("0 other\n1 sky\n2 sea\n3 rock\n")
    assert LabelMaps(tmp_path).classes == ("sky", "sea", "rock")


def test_a_name_numbered_zero_is_vocs_first_class(tmp_path: Path) -> None:
    (pascal(tmp_path) / "labels.txt").write_text("0 other\n1 sky\n2 sea\n")
    assert LabelMaps(tmp_path).classes == ("other", "sky", "sea")


def test_ade20ks_own_table_names_its_classes(tmp_path: Path) -> None:
    rows = ["Idx\tRatio\tTrain\tVal\tStuff\tName", "1\t.2\t9\t9\t1\twall", "2\t.1\t9\t9\t1\tbuilding, edifice"]
    (ade20k(tmp_path) / "objectInfo150.txt").write_text("\n".join([*rows, "3\t.1\t9\t9\t1\tdoor"]))
    assert LabelMaps(tmp_path).classes == ("wall", "building, edifice", "door")


def test_a_name_that_comes_twice_gets_its_label(tmp_path: Path) -> None:
    (ade20k(tmp_path) / "classes.txt").write_text("door\nwall\ndoor")
    assert LabelMaps(tmp_path).classes == ("door (1)", "wall", "door (3)")


@pytest.mark.parametrize("text", ["", "\n\n", "sky\n\nsea\nrock"])
def test_a_file_of_classes_with_gaps_is_refused(tmp_path: Path, text: str) -> None:
    (ade20k(tmp_path) / "classes.txt").write_text(text)
    assert "classes.txt" in refusal(tmp_path)


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (ade20k(tmp_path) / "classes.txt").write_bytes(b"\xff\xfe\xff")
    assert "classes.txt" in refusal(tmp_path)


def test_labels_beyond_the_named_classes_are_refused(tree: Path) -> None:
    (tree / "classes.txt").write_text("sky\nsea")
    message = unread(tree)
    assert "a.png" in message or "2007_1.png" in message
    assert "known are" in message


@pytest.mark.parametrize("mode", ["L", "P"])
def test_palette_and_grey_label_maps_hold_the_same_numbers(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(np.array(labels(3, 2, 1, 0), dtype=np.uint8))
    if mode == "P":
        image = Image.frombytes("P", image.size, image.tobytes())
        image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    put(ade20k(tmp_path) / "annotations/training/a.png", image)
    assert read(tmp_path)[1].tolist() == labels(2, 1, 0, -1)


def test_16_bits_hold_thousands_of_classes(tmp_path: Path) -> None:
    values = np.array(labels(0, 1, 255, 3000), dtype=np.uint16)
    put(ade20k(tmp_path) / "annotations/training/a.png", Image.fromarray(values))
    assert len(LabelMaps(tmp_path).classes) == 3000
    assert read(tmp_path)[1].tolist() == labels(-1, 0, 254, 2999)


def test_more_classes_than_15_bits_are_refused(tmp_path: Path) -> None:
    values = np.array(labels(0, 1, 255, 2**16 - 1), dtype=np.uint16)
    put(ade20k(tmp_path) / "annotations/training/a.png", Image.fromarray(values))
    assert "65535 classes" in refusal(tmp_path)


def test_a_colour_label_map_is_refused(tree: Path) -> None:
    for file in (*tree.glob("annotations/*/a.png"), *tree.glob("SegmentationClass/*.png")):
        put(file, Image.new("RGB", (4, 3)))
    (tree / "classes.txt").write_text("sky\nsea\nrock")
    assert "mode RGB" in unread(tree)
    (tree / "classes.txt").unlink()
    assert "mode RGB" in refusal(tree)


def test_a_grey_image_is_three_equal_channels(tree: Path) -> None:
    for file in (*tree.glob("images/*/*.jpg"), *tree.glob("JPEGImages/*.jpg")):
        put(file, Image.new("L", (4, 3), 77))
    assert np.abs(read(tree)[0].astype(int) - 77).max() <= 1
    assert read(tree)[0].shape == (3, 4, 3)


def test_orientation_is_not_applied_as_label_maps_have_none(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees
    put(ade20k(tmp_path) / "images/training/a.jpg", Image.new("RGB", (4, 3)), exif=exif)
    picture, found = read(tmp_path)
    assert picture.shape[:2] == found.shape == (3, 4)


@pytest.mark.parametrize(("scale", "size"), [(1.0, (100, 80)), (1.9, (200, 160)), (4.1, (400, 320))])
def test_a_jpeg_is_read_no_smaller_than_what_covers_the_scaled_resolution(
    tmp_path: Path, scale: float, size: tuple[int, int]
) -> None:
    put(ade20k(tmp_path) / "images/training/a.jpg", Image.new("RGB", (320, 400)))
    put(tmp_path / "annotations/training/a.png", np.ones((400, 320)))
    picture, found = LabelMaps(tmp_path).example("train", 0, (64, 80), scale)
    assert picture.shape[:2] == size
    assert found.shape == (400, 320)


def test_a_missing_partner_is_named(tmp_path: Path) -> None:
    ade20k(tmp_path)
    shutil.move(tmp_path / "annotations/training/b.png", tmp_path / "annotations/training/c.png")
    assert "b.jpg" in refusal(tmp_path)
    put(tmp_path / "annotations/training/b.png", labels(1, 1, 1, 1))
    assert "c.png" in refusal(tmp_path)


def test_a_listed_name_without_image_or_label_map_is_named(tmp_path: Path) -> None:
    listing = pascal(tmp_path) / "ImageSets/Segmentation/train.txt"
    listing.write_text("2007_1\n2008_9\n")
    assert "2008_9" in refusal(tmp_path)
    put(tmp_path / "JPEGImages/2008_9.jpg", Image.new("RGB", (4, 3)))
    assert "2008_9.png" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "..", "sub/../2007_1"])
def test_a_listed_name_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    put(tmp_path / "outside.jpg", Image.new("RGB", (4, 3)))
    put(tmp_path / "outside.png", labels(0, 0, 0, 0))
    listing = pascal(tmp_path / "data") / "ImageSets/Segmentation/train.txt"
    listing.write_text(f"{name}\n")
    assert "no image of" in refusal(tmp_path / "data")


def test_sizes_that_differ_name_both_files(tree: Path) -> None:
    for file in (*tree.glob("images/*/a.jpg"), *tree.glob("JPEGImages/*.jpg")):
        put(file, Image.new("RGB", (3, 4)))
    message = unread(tree)
    assert ".jpg" in message
    assert ".png" in message
    assert "3 x 4 and 4 x 3" in message


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_broken_image_is_named(tree: Path, content: bytes | None) -> None:
    for file in (*tree.glob("images/*/a.jpg"), *tree.glob("JPEGImages/*.jpg")):
        file.write_bytes(file.read_bytes()[:-200] if content is None else content)
    assert ".jpg" in unread(tree)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_broken_label_map_is_named(tree: Path, content: bytes | None) -> None:
    (tree / "classes.txt").write_text("sky\nsea\nrock")
    for file in (*tree.glob("annotations/*/a.png"), *tree.glob("SegmentationClass/*.png")):
        file.write_bytes(file.read_bytes()[:45] if content is None else content)
    assert ".png" in unread(tree)
    (tree / "classes.txt").unlink()
    assert ".png" in refusal(tree)


def test_two_images_of_one_stem_are_refused(tree: Path) -> None:
    file = next(iter((*tree.glob("images/*/a.jpg"), *tree.glob("JPEGImages/*.jpg"))))
    put(file.with_suffix(".png"), Image.new("RGB", (4, 3)))
    assert "one stem" in refusal(tree)


def test_a_path_of_no_known_layout_says_what_is_known(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing", put(tmp_path / "file.png", labels(1))):
        message = refusal(path)
        assert "ADE20K" in message
        assert "Pascal VOC" in message


@pytest.mark.parametrize(
    "gone", ["images/validation", "annotations/training", "ImageSets/Segmentation/val.txt", "JPEGImages"]
)
def test_a_missing_part_of_a_layout_is_named(tmp_path: Path, gone: str) -> None:
    path = (ade20k if gone.startswith(("images", "annotations")) else pascal)(tmp_path)
    if (path / gone).is_dir():
        shutil.rmtree(path / gone)
    else:
        (path / gone).unlink()
    assert gone.split("/")[-1] in refusal(path)


def test_an_empty_folder_or_list_is_refused(tmp_path: Path) -> None:
    for file in (ade20k(tmp_path / "a") / "images/training").iterdir():
        file.unlink()
    assert "holds no image" in refusal(tmp_path / "a")
    (pascal(tmp_path / "b") / "ImageSets/Segmentation/val.txt").write_text("\n")
    assert "lists no image" in refusal(tmp_path / "b")


def test_one_class_is_refused(tmp_path: Path) -> None:
    (ade20k(tmp_path) / "classes.txt").write_text("sky")
    assert "1 classes" in refusal(tmp_path)


def test_identity_is_of_layout_names_sizes_splits_and_classes(tree: Path, tmp_path: Path) -> None:
    first = LabelMaps(tree).identity
    copy = shutil.copytree(tree, tmp_path / "copy")
    assert LabelMaps(copy).identity == first
    assert first.split(":")[0] in ("ade20k", "voc")
    assert len(first.split(":")[1]) == 16
    (copy / "classes.txt").write_text("sky\nsea\nrock")
    assert LabelMaps(copy).identity != first
    (copy / "classes.txt").unlink()
    file = next(iter((*copy.glob("images/*/a.jpg"), *copy.glob("JPEGImages/*.jpg"))))
    file.write_bytes(file.read_bytes() + b"\0")
    assert LabelMaps(copy).identity != first


@needs_real_data
def test_the_real_data_read_as_their_description_says() -> None:
    data = LabelMaps(REAL)
    assert data.classes == ("background", "nucleus", "nucleus boundary")
    assert [data.count(split) for split in ("train", "val")] == [531, 133]
    shares = np.zeros(4)
    for index in range(data.count("val")):
        found = data.example("val", index, (32, 32), 1.0)[1]
        shares += np.bincount(found.ravel() + 1, minlength=4) / found.size / data.count("val")
    assert shares == pytest.approx([0.017, 0.849, 0.109, 0.025], abs=0.03)
