"""Average precision: equal to pycocotools on the same files; and what each image came to."""

import contextlib
import copy
import importlib
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as tools
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from attnbench.record import METRICS

score_module: Any = importlib.import_module("attnbench.tasks._coco_score")
examples: Any = importlib.import_module("attnbench.tasks._examples")
CocoScore, Found, Truth = score_module.CocoScore, score_module.Found, examples.Truth

CATEGORIES = (2, 5, 17)  # ids with gaps
SIZE = (160, 200)
Image = tuple[Any, Any]  # truth and what was found


def box_mask(box: Any) -> Any:
    """The run lengths of a box, its corners rounded."""
    left, top, width, height = (round(side) for side in box)
    pixels = np.zeros(SIZE, dtype=np.uint8, order="F")
    pixels[top : top + height, left : left + width] = 1
    return tools.encode(pixels)


def drawn_images(seed: int, count: int, masks: bool) -> list[Image]:
    """Images of random objects; detections are objects shifted, or anywhere; some images have neither."""
    random = np.random.default_rng(seed)
    images, number = [], 0
    for image_id in random.permutation(50)[:count]:
        boxes = np.concatenate([random.integers(0, 80, (8, 2)), random.integers(1, 100, (8, 2))], axis=1)
        boxes[:, 3] = boxes[:, 3].clip(max=79)
        truths = []
        for box in boxes[: random.integers(0, 6)]:
            number += 1
            entry: dict[str, Any] = {
                "id": number,
                "image_id": int(image_id),
                "category_id": int(random.choice(CATEGORIES)),
            }
            entry |= {"bbox": box.tolist(), "area": float(box[2] * box[3] * random.uniform(0.3, 1))}
            entry["iscrowd"] = int(random.random() < 0.2)
            entry["segmentation"] = box_mask(box) if masks else []
            truths.append(entry)
        found = boxes[random.permutation(8)[: random.integers(0, 9)]].astype(np.float64)
        found += random.uniform(0, 6, found.shape) * (random.random((len(found), 1)) < 0.7)
        scores = np.round(random.uniform(0.05, 1, len(found)), 1)  # ties
        labels = random.integers(0, 3, len(found))
        for index, box in enumerate(found):  # most have the class of the object that they lie on
            near = [item for item in truths if np.abs(np.array(item["bbox"]) - box).max() < 7]
            if near and random.random() < 0.8:
                labels[index] = CATEGORIES.index(near[0]["category_id"])
        runs = tuple(map(box_mask, found)) if masks else None
        images.append((Truth(int(image_id), SIZE, tuple(truths)), Found(found, scores, labels, runs)))
    return images


def scored(images: list[Image], batch: int = 3) -> Any:
    score = CocoScore(CATEGORIES)
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        score.update([found for _, found in part], [{"truth": truth} for truth, _ in part])
    return score


def reference(images: list[Image], kind: str) -> Any:
    """Pycocotools, given whole files."""
    truth = COCO()
    truth.dataset = {
        "images": [{"id": item.image_id, "height": SIZE[0], "width": SIZE[1]} for item, _ in images],
        "annotations": copy.deepcopy([entry for item, _ in images for entry in item.annotations]),
        "categories": [{"id": category, "name": str(category)} for category in CATEGORIES],
    }
    results = []
    for item, found in images:
        for index, label in enumerate(found.labels):
            result = {"image_id": item.image_id, "category_id": CATEGORIES[label], "score": float(found.scores[index])}
            part = {"bbox": found.boxes[index].tolist()} if kind == "bbox" else {"segmentation": found.masks[index]}
            results.append(result | part)
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 7), st.booleans())
def test_average_precision_is_that_of_pycocotools(seed: int, count: int, masks: bool) -> None:
    images = drawn_images(seed, count, masks)
    if not any(len(found.labels) for _, found in images):  # pycocotools refuses an empty list
        return
    values = scored(images).compute()
    for kind, keys in (("bbox", score_module.BOX_KEYS), ("segm", score_module.MASK_KEYS if masks else ())):
        expected = dict(zip(keys, reference(images, kind), strict=False)) if keys else {}
        for name, value in expected.items():
            assert (name in values) == (value >= 0)
            assert values.get(name, -1) == pytest.approx(value, abs=1e-9)
    assert masks == any(name.startswith("mask") for name in values) or not any(t.annotations for t, _ in images)


def test_every_value_is_a_known_metric() -> None:
    names = scored(drawn_images(1, 6, masks=True)).compute()
    assert set(names) == {*score_module.BOX_KEYS, *score_module.MASK_KEYS}
    missing = {name for name in names if name not in METRICS}
    assert not missing
    assert all(METRICS[name].better == "higher" for name in names)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    scored(drawn_images(1, 4, masks=True)).compute()
    assert capfd.readouterr() == ("", "")


def test_the_truth_stays_as_it_was() -> None:
    images = drawn_images(1, 4, masks=True)
    before = copy.deepcopy([truth for truth, _ in images])
    scored(images).compute()
    assert [truth for truth, _ in images] == before


def one(
    boxes: list[list[float]], found: list[list[float]], scores: list[float], labels: list[int] | None = None
) -> Any:
    """One image, objects of category 2."""
    entries = tuple(
        {"id": index + 1, "image_id": 4, "category_id": 2, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for index, box in enumerate(boxes)
    )
    places = np.array(found, dtype=np.float64).reshape(-1, 4)
    classes = np.array(labels or [0] * len(found), dtype=np.int64)
    return Truth(4, SIZE, entries), Found(places, np.array(scores, dtype=np.float64), classes, None)


FIRST, SECOND = [10.0, 10.0, 40.0, 40.0], [100.0, 20.0, 50.0, 60.0]


def test_no_detection_at_all_is_an_average_precision_of_none() -> None:
    assert scored([one([FIRST], [], [])]).compute()["box_ap"] == 0.0


def test_what_the_images_have_no_object_for_has_no_value() -> None:
    assert set(scored([one([FIRST], [FIRST], [0.9])]).compute()) == {
        "box_ap",
        "box_ap50",
        "box_ap75",
        "box_ap_medium",
    }


def test_no_image_has_no_score() -> None:
    with pytest.raises(ValueError, match="no image has been scored"):
        CocoScore(CATEGORIES).compute()
    assert CocoScore(CATEGORIES).outcomes == []


@pytest.mark.parametrize(
    ("image", "outcome"),
    [
        (one([FIRST, SECOND], [FIRST, SECOND], [0.9, 0.3]), 1.0),
        (one([FIRST, SECOND], [FIRST], [0.9]), 0.5),
        (one([FIRST, SECOND], [SECOND, FIRST, FIRST], [0.9, 0.8, 0.7]), 1.0),  # a second find costs nothing after all
        (one([FIRST, SECOND], [FIRST, [0, 100, 9, 9], SECOND], [0.9, 0.8, 0.7]), (1 + 2 / 3) / 2),
        (one([FIRST, SECOND], [[0, 100, 9, 9], FIRST, SECOND], [0.9, 0.8, 0.7]), 2 / 3),  # the highest at that recall
        (one([FIRST], [FIRST, FIRST], [0.9, 0.8], [1, 0]), 0.5),  # found as another class first
        (one([FIRST], [], []), 0.0),
        (one([], [], []), 1.0),
        (one([], [FIRST, SECOND], [0.3, 0.75]), 0.25),
    ],
)
def test_an_images_outcome_is_its_own_average_precision(image: Image, outcome: float) -> None:
    assert scored([image]).outcomes == pytest.approx([outcome])


def test_outcomes_are_in_the_order_of_the_images_and_between_0_and_1() -> None:
    images = drawn_images(3, 12, masks=False)
    outcomes = scored(images).outcomes
    assert len(set(outcomes)) > 4
    assert outcomes == [scored([image]).outcomes[0] for image in images]
    assert min(outcomes) >= 0
    assert max(outcomes) <= 1


def test_a_detection_in_a_crowd_counts_neither_for_nor_against() -> None:
    truth, found = one([FIRST, SECOND], [SECOND, FIRST], [0.9, 0.5])
    crowd = {**truth.annotations[1], "iscrowd": 1}
    image = Truth(4, SIZE, (truth.annotations[0], crowd)), found
    assert scored([image]).outcomes == [1.0]
    assert scored(
        [(Truth(4, SIZE, (crowd,)), Found(found.boxes[:1], found.scores[:1], found.labels[:1], None))]
    ).outcomes == [1.0]
