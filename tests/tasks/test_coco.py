"""Data of COCO's format: what is read, what is refused, and how broken files are named."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask
from pycocotools.coco import COCO

from attnbench.errors import UserError

Coco: Any = importlib.import_module("attnbench.tasks._coco").Coco
file_module: Any = importlib.import_module("attnbench.tasks._coco_file")
run_lengths: Any = importlib.import_module("attnbench.tasks._run_lengths")

REAL = Path(__file__).parents[3] / "shared" / "data" / "detection"
SQUARE = [[4, 4, 14, 4, 14, 14, 4, 14]]
Content = dict[str, Any]


def annotation(number: int, image: int, box: list[float], category: int = 3, **more: Any) -> Content:
    area = box[2] * box[3]
    return {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": 0} | more


def content(split: str) -> Content:
    """Three images: two objects; a crowd and a box without width; nothing."""
    images = [{"id": number, "file_name": f"{split}{number}.png", "width": 40, "height": 30} for number in (7, 5, 9)]
    boxes = [
        annotation(11, 7, [4, 4, 10, 10], 9, segmentation=SQUARE),
        annotation(12, 7, [20, 5, 8, 6], 3, segmentation=SQUARE),
        annotation(13, 5, [0, 0, 30, 20], 3, segmentation=SQUARE, iscrowd=1),
        annotation(14, 5, [3, 3, 0, 5], 9, segmentation=SQUARE),
    ]
    return {"images": images, "annotations": boxes, "categories": [{"id": 9, "name": "b"}, {"id": 3, "name": "a"}]}


def write(path: Path, train: Content, val: Content, ending: str = "", images: str = "images/{}") -> Path:
    (path / "annotations").mkdir(parents=True)
    for split, data in (("train", train), ("val", val)):
        folder = path / images.format(f"{split}{ending}")
        folder.mkdir(parents=True)
        (path / "annotations" / f"instances_{split}{ending}.json").write_text(json.dumps(data))
        for entry in content(split)["images"]:
            pixels = np.random.default_rng(entry["id"]).integers(0, 256, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / entry["file_name"])
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path, content("train"), content("val"))


def test_labels_follow_the_ascending_ids_of_the_categories(data: Path) -> None:
    source = Coco(data, False)
    assert source.classes == ("a", "b")
    assert source.category_ids == (3, 9)
    assert source.example("train", 0, (30, 40)).labels.tolist() == [1, 0]


def test_boxes_are_corners_in_pixels_of_the_image(data: Path) -> None:
    example = Coco(data, False).example("train", 0, (30, 40))
    assert example.boxes.tolist() == [[4, 4, 14, 14], [20, 5, 28, 11]]
    assert example.size == (30, 40)
    assert example.masks is None


def test_training_leaves_out_images_without_an_object_and_validation_keeps_them(data: Path) -> None:
    source = Coco(data, False)
    assert source.count("train") == 1  # neither a crowd nor a box without width is learnt from
    truths = [source.example("val", index, (30, 40)).truth for index in range(source.count("val"))]
    assert [truth.image_id for truth in truths] == [7, 5, 9]
    assert [[item["id"] for item in truth.annotations] for truth in truths] == [[11, 12], [13, 14], []]


@pytest.mark.parametrize(
    ("ending", "images"),
    [("", "images/{}"), ("2017", "images/{}"), ("2017", "{}"), ("_small", "images/{}"), ("", "{}")],
)
def test_images_lie_where_the_name_of_the_annotations_says(tmp_path: Path, ending: str, images: str) -> None:
    assert Coco(write(tmp_path, content("train"), content("val"), ending, images), False).count("val") == 3


def test_a_folder_without_the_ending_will_do(tmp_path: Path) -> None:
    write(tmp_path, content("train"), content("val"), "2017")
    for split in ("train", "val"):
        (tmp_path / "images" / f"{split}2017").rename(tmp_path / "images" / split)
    assert Coco(tmp_path, False).count("val") == 3


def test_the_identity_changes_with_annotations_and_with_images_and_with_nothing_else(data: Path) -> None:
    first = Coco(data, False).identity
    assert first.startswith("coco:")
    assert len(first) == len("coco:") + 16
    assert Coco(data, True).identity == first
    file = data / "annotations" / "instances_val.json"
    before = file.read_text()
    file.write_text(before.replace("[4, 4, 10, 10]", "[4, 4, 10, 11]"))
    assert Coco(data, False).identity != first
    file.write_text(before)
    assert Coco(data, False).identity == first
    Image.new("RGB", (40, 30)).save(data / "images" / "train" / "train9.png")
    assert Coco(data, False).identity != first


def test_the_orientation_of_a_camera_is_not_applied(data: Path) -> None:
    pixels = np.zeros((30, 40, 3), dtype=np.uint8)
    pixels[:, :10] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    Image.fromarray(pixels).save(data / "images" / "train" / "train7.png", exif=exif)
    assert np.array_equal(Coco(data, False).example("train", 0, (30, 40)).picture, pixels)


@pytest.mark.parametrize("mode", ["L", "I;16", "P", "RGBA", "1", "LA"])
def test_every_kind_of_image_becomes_rgb(data: Path, mode: str) -> None:
    pixels = np.full((30, 40), 40_000, dtype=np.uint16) if mode == "I;16" else None
    image = Image.fromarray(pixels) if pixels is not None else Image.new(mode, (40, 30), 1 if mode == "1" else None)
    image.save(data / "images" / "train" / "train7.png")
    picture = Coco(data, False).example("train", 0, (30, 40)).picture
    assert picture.shape == (30, 40, 3)
    assert picture.dtype == np.uint8
    assert mode != "I;16" or (picture == 40_000 >> 8).all()


def test_an_image_of_another_size_than_annotated_is_named(data: Path) -> None:
    Image.new("RGB", (30, 40)).save(data / "images" / "train" / "train7.png")
    with pytest.raises(UserError, match=r"train7.png' is 30 x 40 pixels, and annotated as one of 40 x 30$"):
        Coco(data, False).example("train", 0, (30, 40))


def test_an_image_that_cannot_be_decoded_is_named(data: Path) -> None:
    file = data / "images" / "train" / "train7.png"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(UserError, match=r"train7\.png"):
        Coco(data, False).example("train", 0, (30, 40))


@pytest.mark.parametrize("canvas", [(256, 256), (300, 400), (301, 400), (600, 800), (1200, 1600)])
@pytest.mark.parametrize("factor", [1.0, 1.7])
def test_a_reduced_jpeg_is_no_smaller_than_it_is_shown(tmp_path: Path, canvas: tuple[int, int], factor: float) -> None:
    data = content("train")
    data["images"][0] |= {"file_name": "large.jpg", "width": 1603, "height": 1201}
    write(tmp_path, data, content("val"))
    ramp = np.linspace(0, 255, 1603, dtype=np.uint8)[None, :, None].repeat(1201, 0).repeat(3, 2)
    Image.fromarray(ramp).save(tmp_path / "images" / "train" / "large.jpg", quality=95)
    example = Coco(tmp_path, False).example("train", 0, canvas, factor)
    least = factor * min(canvas[0] / 1201, canvas[1] / 1603)
    assert example.picture.shape[0] >= min(1201, int(least * 1201))
    assert example.picture.shape[1] >= min(1603, int(least * 1603))
    assert (example.picture.shape[1] <= 802) == (least <= 0.5)
    assert example.size == (1201, 1603)
    assert example.boxes.tolist()[0] == [4, 4, 14, 14]


# What is wrong, as a change of the training file; and words of the error.
BROKEN: dict[str, tuple[Callable[[Content], Any], str]] = {
    "no images": (lambda data: data.pop("images"), "no list 'images'"),
    "empty images": (lambda data: data.update(images=[]), "empty list 'images'"),
    "no annotations": (lambda data: data.pop("annotations"), "no list 'annotations'"),
    "no categories": (lambda data: data.pop("categories"), "no list 'categories'"),
    "empty categories": (lambda data: data.update(categories=[]), "empty list 'categories'"),
    "annotations of another type": (lambda data: data.update(annotations={"a": 1}), "no list 'annotations'"),
    "entry of another type": (lambda data: data["annotations"].append(5), r"annotations\[4\] is no object"),
    "unknown image": (lambda data: data["annotations"][1].update(image_id=99), r"\(id 12\).*'image_id'.*99"),
    "unknown category": (lambda data: data["annotations"][1].update(category_id=4), r"\(id 12\).*'category_id'.*4"),
    "unhashable image": (lambda data: data["annotations"][1].update(image_id=[7]), r"\(id 12\).*'image_id'"),
    "repeated annotation": (lambda data: data["annotations"][1].update(id=11), r"annotations\[1\] repeats the id 11"),
    "repeated image": (lambda data: data["images"][1].update(id=7), r"images\[1\] repeats the id 7"),
    "repeated category": (lambda data: data["categories"][1].update(id=9), r"categories\[1\] repeats the id 9"),
    "no id": (lambda data: data["annotations"][2].pop("id"), r"annotations\[2\] needs a whole number 'id'"),
    "no box": (lambda data: data["annotations"][0].pop("bbox"), r"\(id 11\) needs a 'bbox'"),
    "short box": (lambda data: data["annotations"][0].update(bbox=[1, 2, 3]), r"\(id 11\) needs a 'bbox'"),
    "words in a box": (lambda data: data["annotations"][0].update(bbox=[1, 2, 3, "4"]), r"\(id 11\) needs a 'bbox'"),
    "NaN in a box": (lambda data: data["annotations"][0].update(bbox=[1, 2, 3, np.nan]), r"\(id 11\) needs a 'bbox'"),
    "infinite box": (lambda data: data["annotations"][0].update(bbox=[1, 2, np.inf, 4]), r"\(id 11\) needs a 'bbox'"),
    "huge box": (lambda data: data["annotations"][0].update(bbox=[1, 2, 10**400, 4]), r"\(id 11\) needs a 'bbox'"),
    "negative box": (lambda data: data["annotations"][0].update(bbox=[1, 2, -3, 4]), r"\(id 11\).*negative"),
    "no area": (lambda data: data["annotations"][0].pop("area"), r"\(id 11\) needs an 'area'"),
    "odd crowd": (lambda data: data["annotations"][0].update(iscrowd="no"), r"\(id 11\) needs an 'iscrowd'"),
    "no width": (lambda data: data["images"][0].pop("width"), r"\(id 7\) needs a 'width'"),
    "zero height": (lambda data: data["images"][0].update(height=0), r"\(id 7\) needs a 'height'"),
    "no file name": (lambda data: data["images"][0].pop("file_name"), r"\(id 7\) needs a text 'file_name'"),
    "no name": (lambda data: data["categories"][0].pop("name"), r"\(id 9\) needs a text 'name'"),
    "nothing to learn": (lambda data: data.update(annotations=data["annotations"][2:3]), "has no object"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_broken_entry_is_named_in_one_line(tmp_path: Path, kind: str, split: str) -> None:
    both = {name: content(name) for name in ("train", "val")}
    change, words = BROKEN[kind]
    change(both[split])
    with pytest.raises(UserError, match=words) as caught:
        Coco(write(tmp_path, both["train"], both["val"]), False)
    assert f"instances_{split}.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 60) | st.floats() | st.sampled_from(["", "7", "~~", "o", "01"]),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.sampled_from(["id", "size", "counts"]), inner),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(ANYTHING, st.integers(0, 10**6), st.booleans())
def test_whatever_stands_in_a_file_is_read_or_refused(value: Any, seed: int, masks: bool) -> None:
    random, data = np.random.default_rng(seed), content("train")
    place: Any = data
    while True:  # go down to anywhere, and put the value there
        key = list(place)[random.integers(len(place))] if isinstance(place, dict) else int(random.integers(len(place)))
        if not isinstance(place[key], dict | list) or random.random() < 0.2:
            break
        place = place[key]
    place[key] = value
    try:
        parsed = file_module.parse(Path("a.json"), json.dumps(data).encode(), masks)
    except UserError as error:
        assert "\n" not in str(error)
        assert "a.json" in str(error)
        return
    for entry in parsed.images:  # what is accepted does not trouble COCO's C code
        for item in entry.annotations if masks else ():
            pixels = run_lengths.decoded(item["segmentation"], entry.size)
            assert pixels.shape == entry.size
            assert pixels.max() <= 1


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../train7.png", "a/../../b.png", "..\\b.png", "C:\\b.png", "", ".", "a\0b.png", "\udc80.png"],
)
def test_a_file_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    data = content("train")
    data["images"][0]["file_name"] = name
    with pytest.raises(UserError, match=r"\(id 7\) has a 'file_name' that is no path inside"):
        Coco(write(tmp_path, data, content("val")), False)


@pytest.mark.parametrize("text", [b"", b"[", b'{"images": [', b"\xff\xfe\x00", b"[1]", b"[" * 100_000, b"null"])
def test_a_file_that_is_no_json_object_is_named(data: Path, text: bytes) -> None:
    (data / "annotations" / "instances_val.json").write_bytes(text)
    with pytest.raises(UserError, match=r"instances_val.json") as caught:
        Coco(data, False)
    assert "\n" not in str(caught.value)


def test_a_missing_image_is_named_when_the_data_are_opened(data: Path) -> None:
    (data / "images" / "val" / "val9.png").unlink()
    with pytest.raises(UserError, match=r"image 9 of the val annotations is missing: .*val9.png"):
        Coco(data, False)


def test_validation_must_have_the_categories_of_training(tmp_path: Path) -> None:
    val = content("val")
    val["categories"][0]["name"] = "c"
    with pytest.raises(UserError, match="has other categories than"):
        Coco(write(tmp_path, content("train"), val), False)


def test_a_folder_without_annotations_is_told_what_is_expected(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=r"instances_train\*.json"):
            Coco(path, False)


def test_two_files_of_one_split_are_refused(data: Path) -> None:
    (data / "annotations" / "instances_val2.json").write_text("{}")
    with pytest.raises(
        UserError, match=r"needs one instances_val\*.json, and has instances_val.json, instances_val2.json"
    ):
        Coco(data, False)


def test_no_folder_of_images_is_told_where_they_may_lie(data: Path) -> None:
    (data / "images").rename(data / "pictures")
    with pytest.raises(UserError, match=r"expected one of images/train, train$"):
        Coco(data, False)


def runs(compressed: bool) -> Content:
    """Return an L-shaped mask in COCO's run lengths."""
    shape = np.zeros((30, 40), dtype=np.uint8, order="F")
    shape[5:20, 3:6] = shape[17:20, 3:33] = 1
    encoded = mask.encode(shape)
    if compressed:
        return {"size": [30, 40], "counts": encoded["counts"].decode()}
    flat = np.flatnonzero(np.diff(np.concatenate([[0], shape.flatten(order="F"), [0]]).astype(int)))
    return {"size": [30, 40], "counts": np.diff(np.concatenate([[0], flat, [1200]])).tolist()}


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools' own decoder
@pytest.mark.parametrize("compressed", [True, False])
def test_masks_are_what_cocos_tools_make_of_polygons_and_run_lengths(tmp_path: Path, compressed: bool) -> None:
    data = content("train")
    data["annotations"][0]["segmentation"] = [[2.5, 3, 20, 4.25, 9, 25], [30, 20, 38, 20, 38, 29, 30, 29]]
    data["annotations"][1]["segmentation"] = runs(compressed)
    write(tmp_path, data, content("val"))
    tools = COCO()
    tools.dataset = data
    tools.createIndex()
    masks = Coco(tmp_path, True).example("train", 0, (30, 40)).masks
    assert masks.sum() > 100
    for index, number in enumerate((11, 12)):
        assert np.array_equal(masks[index], tools.annToMask(tools.anns[number]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=30))
def test_compressed_run_lengths_are_read_as_cocos_tools_wrote_them(lengths: list[int]) -> None:
    lengths = [length + 1 for length in lengths]  # runs of none are written together with their neighbours
    flat = np.repeat(np.arange(len(lengths)) % 2, lengths).astype(np.uint8)
    text = mask.encode(np.asfortranarray(flat[:, None]))["counts"].decode()
    assert file_module._decoded(text) == lengths


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ([], "has no mask, and mask_rcnn needs one of each object: use faster_rcnn or retinanet"),
        (None, "has no mask"),
        ([[1, 2, 3, 4]], "polygon"),
        ([[1, 2, 3, 4, 5, 6, 7]], "polygon"),
        ([[1, 2, 3, 4, 5, "6"]], "polygon"),
        ([[1, 2, 3, 4, 5, np.nan]], "polygon"),
        ([[1, 2, 3, 4, 5, 1e8]], "polygon"),
        ({"size": [30, 41], "counts": [1200]}, "of size"),
        ({"counts": [1200]}, "of size"),
        ({"size": [30, 40], "counts": [1201]}, "do not add up to the 1200 pixels"),
        ({"size": [30, 40], "counts": [1300, -100]}, "do not add up"),
        ({"size": [30, 40], "counts": "~~~~"}, "do not add up"),
        ({"size": [30, 40], "counts": "ooooooooo1"}, "do not add up"),
        ({"size": [30, 40]}, "do not add up"),
    ],
)
def test_a_broken_mask_is_named_where_masks_are_asked_for(tmp_path: Path, broken: Any, words: str) -> None:
    data = content("train")
    data["annotations"][1]["segmentation"] = broken
    write(tmp_path, data, content("val"))
    assert Coco(tmp_path, False).count("train") == 1
    with pytest.raises(UserError, match=rf"instances_train.json.*\(id 12\).*{words}"):
        Coco(tmp_path, True)


@pytest.mark.skipif(not REAL.is_dir(), reason="the data set is not there")
def test_real_data_are_read_whole() -> None:
    source = Coco(REAL, False)
    assert (source.count("train"), source.count("val")) == (292, 72)
    assert source.classes == ("RBC", "WBC", "Platelets")
    assert sum(len(source.example("val", index, (480, 640)).truth.annotations) for index in range(72)) == 945
