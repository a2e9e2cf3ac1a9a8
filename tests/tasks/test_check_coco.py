"""The check of COCO data: every fault that is put in is told once, at its place, and nothing else is."""

import copy
import importlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from attnbench.errors import UserError

# By string: a type checker cannot see that tasks/ is installed as attnbench.tasks.
coco: Any = importlib.import_module("attnbench.tasks._check_coco")
mask: Any = importlib.import_module("pycocotools.mask")
segmentation: Any = importlib.import_module("attnbench.tasks._check_segmentation")

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "detection"
SIZE = (40, 30)  # width, height


class Data:
    """A sound data set in a folder, whose annotations a test may spoil."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.train, self.val = self._split("train", 1, 3), self._split("val", 11, 2)

    def _split(self, split: str, first: int, count: int) -> Any:
        (self.root / "images" / split).mkdir(parents=True)
        numbers = range(first, first + count)
        for number in numbers:
            Image.new("RGB", SIZE, (number, 0, 0)).save(self.root / "images" / split / f"{number}.png")
        return {
            "images": [{"id": n, "file_name": f"{n}.png", "width": SIZE[0], "height": SIZE[1]} for n in numbers],
            "annotations": [
                {"id": n, "image_id": n, "category_id": 1 + n % 2, "bbox": [1, 2, 10, 10], "iscrowd": 0}
                for n in numbers
            ],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        }

    def check(self) -> Any:
        (self.root / "annotations").mkdir(exist_ok=True)
        for split in ("train", "val"):
            (self.root / f"annotations/instances_{split}.json").write_text(json.dumps(getattr(self, split)))
        return coco.check(str(self.root))


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path / "data")


def told(report: Any) -> list[tuple[str, str, str]]:
    return [(problem.severity, problem.kind, problem.where) for problem in report.problems]


def test_sound_data_have_no_problem_and_are_counted(data: Data) -> None:
    data.train["annotations"].append({"id": 90, "image_id": 1, "category_id": 2, "bbox": [0, 0, 40, 30], "iscrowd": 1})
    data.val["annotations"].pop()
    report = data.check()
    assert not report.problems
    common = {"classes": 2}
    assert report.counts == {
        "train": common | {"images": 3, "boxes": 3, "images without boxes": 0, "crowds": 1},
        "val": common | {"images": 2, "boxes": 1, "images without boxes": 1, "crowds": 0},
    }
    assert report.classes == {"train": {"cat": 1, "dog": 2}, "val": {"cat": 0, "dog": 1}}


BOXES = [
    ([35, 2, 10, 10], "warning", "box beyond its image's border"),
    ([-2, 2, 10, 10], "warning", "box beyond its image's border"),
    ([40, 2, 10, 10], "error", "box outside its image"),
    ([-10, 2, 10, 10], "error", "box outside its image"),
    ([1, -11, 10, 10], "error", "box outside its image"),
    ([1, 2, 0, 10], "warning", "box without area"),
    ([1, 2, 10, -1], "error", "box of negative size"),
    ([1, 2, float("nan"), 1], "error", "number that is not finite"),
    ([1, 2, float("inf"), 1], "error", "number that is not finite"),
    ([10**400, 2, 1, 1], "error", "number that is not finite"),
    ([1, 2, 3], "error", "malformed box"),
    (["1", 2, 3, 4], "error", "malformed box"),
    ([True, 2, 3, 4], "error", "malformed box"),
    (None, "error", "malformed box"),
]


@pytest.mark.parametrize(("box", "severity", "kind"), BOXES, ids=range(len(BOXES)))
def test_a_wrong_box_is_told_once(box: Any, severity: str, kind: str, data: Data) -> None:
    data.train["annotations"][1]["bbox"] = box
    assert told(data.check()) == [(severity, kind, "annotations/instances_train.json, annotation 2")]


@pytest.mark.parametrize("box", [[-1, -1, 42, 32], [0.5, 0.5, 40.4, 30.4]])
def test_a_pixel_beyond_the_border_is_rounding(box: list[float], data: Data) -> None:
    data.train["annotations"][1]["bbox"] = box
    assert not data.check().problems


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("image_id", 77, "unknown image"),
        ("image_id", [1], "unknown image"),
        ("category_id", 77, "unknown category"),
        ("category_id", {}, "unknown category"),
        ("iscrowd", 2, "malformed entry"),
        ("segmentation", [[1, 2, 3, 4, 5]], "malformed segmentation"),
        ("segmentation", [[1, 2, 3, 4]], "malformed segmentation"),
        ("segmentation", [[1, 2, 3, 4, 5, float("nan")]], "malformed segmentation"),
        ("segmentation", [["a"] * 6], "malformed segmentation"),
        ("segmentation", 3, "malformed segmentation"),
        ("segmentation", {"size": [40, 30], "counts": [1200]}, "malformed segmentation"),
        ("segmentation", {"size": [30, 40], "counts": [1199]}, "malformed segmentation"),
        ("segmentation", {"size": [30, 40], "counts": [-1, 1201]}, "malformed segmentation"),
        ("segmentation", {"size": [30, 40], "counts": "~~~"}, "malformed segmentation"),
        ("segmentation", {"counts": [1200]}, "malformed segmentation"),
        ("segmentation", {"size": [10**4000, 10**4000], "counts": [1]}, "malformed segmentation"),
        ("segmentation", {"size": [30, 40], "counts": [10**4299] * 10}, "malformed segmentation"),
    ],
)
def test_a_wrong_annotation_is_told_once(key: str, value: Any, kind: str, data: Data) -> None:
    data.train["annotations"][0][key] = value
    assert told(data.check()) == [("error", kind, "annotations/instances_train.json, annotation 1")]


@pytest.mark.parametrize("value", [[], None, [[1, 2, 3, 4, 5, 6]], {"size": [30, 40], "counts": [0, 1200]}])
def test_a_sound_segmentation_is_none_of_the_problems(value: Any, data: Data) -> None:
    data.train["annotations"][1]["segmentation"] = value
    assert not data.check().problems


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_compressed_run_lengths_are_unpacked_as_cocos_tools_pack_them(h: int, w: int, seed: int, share: float) -> None:
    pixels = np.asfortranarray((np.random.default_rng(seed).random((h, w)) < share).astype(np.uint8))
    packed = mask.encode(pixels)["counts"].decode()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], pixels.ravel("F")]))).tolist()
    assert segmentation.unpacked(packed) == np.diff([0, *edges, h * w]).tolist()
    assert not segmentation.malformed({"size": [h, w], "counts": packed}, (w, h))
    assert segmentation.malformed({"size": [h, w + 1], "counts": packed}, None)


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("file_name", "/etc/passwd", "unsafe file name"),
        ("file_name", "../val/11.png", "unsafe file name"),
        ("file_name", "a/../../x.png", "unsafe file name"),
        ("file_name", "C:\\x.png", "unsafe file name"),
        ("file_name", "..\\x.png", "unsafe file name"),
        ("file_name", "a\0b", "unsafe file name"),
        ("file_name", "", "malformed entry"),
        ("file_name", "nowhere.png", "missing image"),
        ("file_name", "x" * 5000, "missing image"),
        ("file_name", "1.png", "image listed twice"),
        ("width", "40", "malformed entry"),
        ("height", 0, "malformed entry"),
        ("height", 10**12, "malformed entry"),
    ],
)
def test_a_wrong_image_entry_is_told_once(key: str, value: Any, kind: str, data: Data) -> None:
    data.train["images"][1][key] = value
    assert told(data.check()) == [("error", kind, "annotations/instances_train.json, image 2")]


def test_files_that_are_no_images_or_of_another_size_are_named(data: Data) -> None:
    folder = data.root / "images/train"
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:60])
    Image.new("RGB", (30, 40), (5, 5, 5)).save(folder / "2.png")
    (folder / "3.png").write_bytes(b"")
    assert told(data.check()) == [
        ("error", "image that cannot be read", "images/train/1.png"),
        ("error", "image that cannot be read", "images/train/3.png"),
        ("error", "image of another size", "images/train/2.png"),
    ]


def test_a_pipe_among_the_images_is_not_waited_for(data: Data) -> None:
    place = data.root / "images/train/1.png"
    place.unlink()
    os.mkfifo(place)
    assert told(data.check()) == [("error", "missing image", "annotations/instances_train.json, image 1")]


def test_an_image_in_both_splits_is_a_leak_whatever_its_name(data: Data) -> None:
    shutil.copy(data.root / "images/train/2.png", data.root / "images/val/11.png")
    report = data.check()
    assert told(report) == [("warning", "image in training and validation", "images/val/11.png")]
    assert "images/train/2.png" in report.problems[0].what


def test_duplicate_ids_are_told_in_every_list(data: Data) -> None:
    for key in ("images", "annotations", "categories"):
        data.train[key].append(data.train[key][0])
    assert [kind for _, kind, _ in told(data.check())] == ["duplicate id"] * 3


def test_categories_that_differ_are_told_one_by_one(data: Data) -> None:
    data.val["categories"] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "eel"}, {"id": 3, "name": "fox"}]
    found = told(data.check())
    assert ("error", "category that differs", "category 2") in found
    assert ("error", "category that differs", "category 3") in found
    assert ("warning", "class in validation only", "eel") in found


def test_broken_json_is_told_with_its_position_and_the_other_file_is_still_checked(data: Data) -> None:
    data.val["annotations"][0]["bbox"] = [1, 2, 3]
    data.check()
    (data.root / "annotations/instances_train.json").write_text('{"images": [\n  1,,]}')
    report = coco.check(str(data.root))
    assert ("error", "malformed box", "annotations/instances_val.json, annotation 11") in told(report)
    broken = next(problem for problem in report.problems if problem.kind == "broken JSON")
    assert broken.what.startswith("line 2, column 5")


@pytest.mark.parametrize("content", [b"[]", b"\xff\xfe\xff", b"[" * 100_000, b'{"images": 3}', b"{}", b"9" * 10_000])
def test_a_hostile_annotation_file_is_a_problem_and_no_crash(content: bytes, data: Data) -> None:
    data.check()
    (data.root / "annotations/instances_train.json").write_bytes(content)
    report = coco.check(str(data.root))
    assert report.counts["train"]["images"] == 0
    assert report.counts["val"]["images"] == 2
    assert (report.errors > 0) == (content != b"{}")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "size", "counts"]), inner),
    max_leaves=6,
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_whatever_stands_anywhere_in_a_file_is_no_crash(data: Data, draw: Any) -> None:
    spoilt = copy.deepcopy(data.train)
    place: Any = spoilt
    keys = st.sampled_from([*place, "segmentation"])
    key = draw.draw(keys)
    while isinstance(place, dict | list) and place and draw.draw(st.booleans()):
        inner = place.get(key) if isinstance(place, dict) else place[key]
        if not isinstance(inner, dict | list) or not inner:
            break
        place = inner
        key = draw.draw(
            st.sampled_from([*place, "segmentation"]) if isinstance(place, dict) else st.integers(0, len(place) - 1)
        )
    place[key] = draw.draw(ANYTHING)
    whole, data.train = data.train, spoilt
    try:
        report = data.check()
    finally:
        data.train = whole
    json.dumps(report.to_json(), allow_nan=False)


@pytest.mark.parametrize("folder", ["images/train2017", "train2017", "images/train"])
def test_coco_names_of_files_and_folders_are_known(folder: str, data: Data) -> None:
    data.check()
    annotations = data.root / "annotations"
    (annotations / "instances_train.json").rename(annotations / "instances_train2017.json")
    (data.root / "images/train").rename(data.root / folder)
    report = coco.check(str(data.root))
    assert not report.problems
    assert report.counts["train"]["images"] == 3


def test_missing_and_doubled_files_are_told(data: Data) -> None:
    data.check()
    annotations = data.root / "annotations"
    shutil.copy(annotations / "instances_train.json", annotations / "instances_train2017.json")
    shutil.rmtree(data.root / "images/val")
    kinds = [kind for _, kind, _ in told(coco.check(str(data.root)))]
    assert kinds == ["several annotation files", "missing folder"]
    (annotations / "instances_val.json").unlink()
    assert "missing annotation file" in [kind for _, kind, _ in told(coco.check(str(data.root)))]


def test_a_place_without_such_data_is_a_user_error(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "nowhere", "does not exist"), (tmp_path, "no annotations of COCO's format")):
        with pytest.raises(UserError, match=said):
            coco.check(str(path))
    with pytest.raises(UserError):
        coco.check("a\0b")


def test_every_file_is_looked_at_once_and_told_to_the_watcher(data: Data) -> None:
    data.check()
    steps: list[tuple[int, int]] = []
    coco.check(str(data.root), lambda done, total: steps.append((done, total)))
    assert steps == [(n, 5) for n in range(1, 6)]


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data are not here")
def test_the_real_data_are_sound_and_counted_as_their_annotations_count() -> None:
    report = coco.check(str(REAL))
    assert not report.problems
    for split in ("train", "val"):
        content = json.loads((REAL / f"annotations/instances_{split}.json").read_bytes())
        assert report.counts[split]["images"] == len(content["images"])
        assert sum(report.classes[split].values()) == len(content["annotations"])
