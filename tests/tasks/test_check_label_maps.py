"""The check of label maps: every fault that is put in is told once, at its place, and nothing else is."""

import importlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attnbench.errors import UserError

# By string: a type checker cannot see that tasks/ is installed as attnbench.tasks.
maps: Any = importlib.import_module("attnbench.tasks._check_label_maps")

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "segmentation"


def put(path: Path, pixels: Any, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(pixels, dtype=np.uint8))
    (image.convert(mode) if mode else image).save(path)


def photo(value: int) -> Any:
    return np.full((4, 6, 3), value, dtype=np.uint8)


def labels(*values: int) -> Any:
    """Return a map of 24 pixels that begins with ``values``; the rest is the last."""
    return np.array([*values, *[values[-1]] * (24 - len(values))], dtype=np.uint8).reshape(4, 6)


@pytest.fixture
def ade(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for number, split in enumerate(("training", "training", "validation")):
        put(root / f"images/{split}/{number}.png", photo(number))
        put(root / f"annotations/{split}/{number}.png", labels(0, 0, 1, 2))
    (root / "classes.txt").write_text("sky\nsea\n")
    return root


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for number in range(3):
        put(root / f"JPEGImages/{number}.jpg", photo(60 * number))
        put(root / f"SegmentationClass/{number}.png", labels(255, 0, 1))
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/train.txt").write_text("0\n1\n")
    (root / "ImageSets/Segmentation/val.txt").write_text("2\n")
    return root


def told(root: Path) -> list[tuple[str, str, str]]:
    return [(problem.severity, problem.kind, problem.where) for problem in maps.check(str(root)).problems]


def test_sound_data_are_counted_by_split_and_class(ade: Path) -> None:
    report = maps.check(str(ade))
    assert not report.problems
    assert report.counts == {
        "training": {"images with label maps": 2, "pixels": 48, "ignored pixels": 4 / 48},
        "validation": {"images with label maps": 1, "pixels": 24, "ignored pixels": 2 / 24},
    }
    assert report.classes == {"training": {"1 sky": 2, "2 sea": 42}, "validation": {"1 sky": 1, "2 sea": 21}}


def test_vocs_layout_is_read_with_255_ignored(voc: Path) -> None:
    report = maps.check(str(voc))
    assert not report.problems
    assert report.classes == {"train": {"0": 2, "1": 44}, "val": {"0": 1, "1": 22}}
    assert report.counts["val"]["ignored pixels"] == 1 / 24


def test_missing_partners_are_named_both_ways(ade: Path) -> None:
    (ade / "annotations/training/0.png").rename(ade / "annotations/training/x.png")
    assert told(ade) == [
        ("error", "image without label map", "images/training/0.png"),
        ("error", "label map without image", "annotations/training/x.png"),
    ]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_a_map_in_colours_is_called_that(mode: str, ade: Path) -> None:
    put(ade / "annotations/training/0.png", labels(1), mode)
    assert told(ade) == [("error", "label map in colours", "annotations/training/0.png")]


def test_a_palette_is_no_colour_and_16_bits_are_labels(ade: Path) -> None:
    image = Image.fromarray(labels(0, 1, 2))
    image.putpalette([255, 0, 0] * 256)
    image.save(ade / "annotations/training/0.png")
    Image.fromarray(labels(0, 1, 2).astype(np.uint16)).save(ade / "annotations/training/1.png")
    report = maps.check(str(ade))
    assert not report.problems
    assert report.classes["training"] == {"1 sky": 2, "2 sea": 44}


def test_labels_out_of_range_are_named_with_the_range(ade: Path) -> None:
    put(ade / "annotations/validation/2.png", labels(3, 255, 1, 2))
    report = maps.check(str(ade))
    assert [(p.kind, p.where) for p in report.problems] == [("label out of range", "annotations/validation/2.png")]
    assert report.problems[0].what == "3, 255; expected 1 to 2, or 0 for ignored pixels"


def test_sizes_that_differ_and_broken_files_are_named(ade: Path) -> None:
    put(ade / "annotations/training/0.png", np.full((6, 4), 1))
    path = ade / "images/training/1.png"
    path.write_bytes(path.read_bytes()[:50])
    (ade / "annotations/validation/2.png").write_bytes(b"no image")
    assert told(ade) == [
        ("error", "label map of another size", "annotations/training/0.png"),
        ("error", "image that cannot be read", "images/training/1.png"),
        ("error", "label map that cannot be read", "annotations/validation/2.png"),
    ]


def test_classes_that_a_split_lacks_are_named(ade: Path) -> None:
    put(ade / "annotations/validation/2.png", labels(0, 1))
    assert told(ade) == [("warning", "class absent from validation", "2 sea")]
    (ade / "classes.txt").write_text("sky\nsea\nsun\n")
    assert ("warning", "class absent from training", "3 sun") in told(ade)


def test_a_map_of_ignored_pixels_only_is_a_warning(ade: Path) -> None:
    put(ade / "annotations/training/0.png", labels(0))
    assert told(ade) == [("warning", "label map with nothing but ignored pixels", "annotations/training/0.png")]


def test_without_names_255_is_suspicious_where_0_is_ignored(ade: Path) -> None:
    (ade / "classes.txt").unlink()
    put(ade / "annotations/training/0.png", labels(255, 1, 2))
    assert ("warning", "label 255", "annotations/training/0.png") in told(ade)


def test_an_image_in_both_splits_is_a_leak(ade: Path) -> None:
    shutil.copy(ade / "images/training/0.png", ade / "images/validation/2.png")
    assert told(ade) == [("warning", "image in training and validation", "images/validation/2.png")]


def test_vocs_lists_are_looked_up_and_never_followed(voc: Path) -> None:
    (voc / "ImageSets/Segmentation/val.txt").write_text("2\n../JPEGImages/0\n/etc/passwd\n2\n")
    listing = "ImageSets/Segmentation/val.txt"
    assert told(voc) == [
        *[("error", f"missing {what}", f"{listing}, line {n}") for n in (2, 3) for what in ("image", "label map")],
        ("warning", "listed twice", listing),
    ]


def test_other_files_and_two_files_of_one_stem_are_told(ade: Path) -> None:
    put(ade / "images/training/0.bmp", photo(9))
    (ade / "images/training/notes.txt").write_text("")
    put(ade / "annotations/training/0.jpg", labels(1))
    assert sorted(told(ade)) == [
        ("error", "two files of one stem", "images/training/0.png"),
        ("warning", "file that is no image", "images/training/notes.txt"),
        ("warning", "label map that is no PNG", "annotations/training/0.jpg"),
    ]


def test_numbered_names_and_ade20ks_own_list_are_read(ade: Path) -> None:
    (ade / "classes.txt").write_text("1 sky\n2 sea\n")
    assert [*maps.check(str(ade)).classes["training"]] == ["1 sky", "2 sea"]
    (ade / "classes.txt").unlink()
    (ade / "objectInfo150.txt").write_text(
        "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.1\t1\t1\t1\tsky\n2\t0\t1\t1\t1\tsea\n"
    )
    assert [*maps.check(str(ade)).classes["training"]] == ["1 sky", "2 sea"]


def test_missing_folders_and_other_layouts(ade: Path, tmp_path: Path) -> None:
    shutil.rmtree(ade / "images/validation")
    shutil.rmtree(ade / "annotations/validation")
    assert [kind for _, kind, _ in told(ade)] == ["missing folder", "missing folder"]
    with pytest.raises(UserError, match="no known layout"):
        maps.check(str(tmp_path))


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data are not here")
def test_the_real_data_are_sound_and_have_the_shares_that_their_readme_tells() -> None:
    report = maps.check(str(REAL))
    assert not report.problems
    total = sum(found["pixels"] for found in report.counts.values())
    shares = [sum(found[name] for found in report.classes.values()) / total for name in report.classes["training"]]
    assert [round(100 * share, 1) for share in shares] == [84.9, 10.9, 2.5]
    assert [found["images with label maps"] for found in report.counts.values()] == [531, 133]
