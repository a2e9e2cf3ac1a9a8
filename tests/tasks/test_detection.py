"""The detection task: batches, the three heads, and detections in pixels of the original image."""

import importlib
import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from attnbench.backbone import build_model
from attnbench.errors import UserError
from attnbench.recipe import Recipe
from attnbench.task_contract import Batch, Loading

detection: Any = importlib.import_module("attnbench.tasks.detection")
Detection = detection.Detection
HEADS = Detection.heads
SIDE = 96  # pixels of the canvas

# Two workers are asked for on purpose, however few cores there are.
workers_on_one_core = pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")
# Widths and heights of the images, one of them upright.
SIZES = ((120, 90), (90, 120), (200, 100), (96, 96), (64, 64), (50, 40))


def objects(random: np.random.Generator, width: int, height: int) -> list[list[int]]:
    """One or two boxes (left, top, width, height), each in a half of its own."""
    boxes = []
    for half in range(random.integers(1, 3)):
        wide, high = int(random.integers(width // 4, width // 2)), int(random.integers(height // 3, height // 2))
        boxes.append([half * (width // 2), int(random.integers(height - high)), wide, high])
    return boxes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey images of red and green boxes with masks; the last of each split holds nothing."""
    path = tmp_path_factory.mktemp("coco")
    (path / "annotations").mkdir()
    for split in ("train", "val"):
        (path / "images" / split).mkdir(parents=True)
        images: list[Any] = []
        annotations: list[Any] = []
        random = np.random.default_rng(split == "val")
        for index, (width, height) in enumerate(SIZES):
            pixels = np.full((height, width, 3), 90, dtype=np.uint8)
            for left, top, wide, high in objects(random, width, height) if index < len(SIZES) - 1 else ():
                kind = int(random.integers(2))
                pixels[top : top + high, left : left + wide, kind] = 250
                ring = [left, top, left + wide, top, left + wide, top + high, left, top + high]
                entry: dict[str, Any] = {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": (4, 9)[kind],
                    "iscrowd": 0,
                }
                entry |= {"bbox": [left, top, wide, high], "area": wide * high, "segmentation": [ring]}
                annotations.append(entry)
            Image.fromarray(pixels).save(path / "images" / split / f"{index}.png")
            images.append({"id": index, "file_name": f"{index}.png", "width": width, "height": height})
        content = {"images": images, "annotations": annotations}
        content["categories"] = [{"id": 4, "name": "red"}, {"id": 9, "name": "green"}]
        (path / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return path


def build(head: str | None, size: str = "nano", classes: int = 2) -> Any:
    torch.manual_seed(0)
    side = (SIDE, SIDE)
    return build_model("identity", size, resolution=side, head=lambda channels: Detection.head(channels, classes, head))


def training(data: Path, head: str, count: int = 2, recipe: Recipe | None = None, **loading: Any) -> Batch:
    task = Detection(str(data), head)
    batches = task.batches("train", (SIDE, SIDE), Loading(count, samples=count, **loading), recipe or Recipe())
    batch: Batch = next(iter(batches))
    return batch


def same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def test_heads_that_are_not_known_are_refused(data: Path) -> None:
    with pytest.raises(UserError, match="unknown head of detection 'retina'; did you mean 'retinanet'"):
        Detection(str(data), "retina")
    with pytest.raises(UserError, match="unknown head"):
        Detection.head((32, 64, 128, 256), 2, "yolo")


def test_without_masks_mask_rcnn_names_the_heads_that_need_none(data: Path, tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images").symlink_to(data / "images")
    for file in (data / "annotations").iterdir():
        content = json.loads(file.read_text())
        for entry in content["annotations"]:
            entry["segmentation"] = []
        (tmp_path / "annotations" / file.name).write_text(json.dumps(content))
    assert Detection(str(tmp_path)).num_classes == 2
    assert Detection(str(tmp_path), "faster_rcnn").train_images == len(SIZES) - 1
    with pytest.raises(UserError, match="use faster_rcnn or retinanet"):
        Detection(str(tmp_path), "mask_rcnn")


def test_a_batch_is_padded_at_the_bottom_and_right_to_its_largest_image(data: Path) -> None:
    batches = list(Detection(str(data)).batches("val", (SIDE, SIDE), Loading(2), Recipe()))
    assert [target["size"] for batch in batches for target in batch.targets] == [
        (72, 96),  # 120 x 90 pixels
        (96, 72),
        (48, 96),
        (96, 96),
        (96, 96),
        (77, 96),
    ]
    assert [tuple(batch.images.shape) for batch in batches] == [(2, 3, 96, 96)] * 3
    small = next(iter(Detection(str(data)).batches("val", (60, 80), Loading(1), Recipe())))
    assert tuple(small.images.shape) == (1, 3, 64, 96)
    assert small.images.dtype == torch.float32
    assert not small.images[0, :, 60:].any()
    assert not small.images[0, :, :, 80:].any()
    assert small.images[0, :, :60, :80].all()


def test_pixels_are_normalised_by_imagenets_mean_and_deviation(data: Path) -> None:
    batch = next(iter(Detection(str(data)).batches("val", (SIDE, SIDE), Loading(len(SIZES)), Recipe())))
    empty = batch.images[-1, :, :77, :96]  # 90 everywhere
    expected = (90 / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(empty, expected[:, None, None].expand(3, 77, 96))


@workers_on_one_core
@pytest.mark.parametrize("split", ["train", "val"])
def test_workers_change_nothing(data: Path, split: str) -> None:
    task, recipe = Detection(str(data), "mask_rcnn"), Recipe(scales=(0.7, 1.4))
    passes = [
        list(task.batches(split, (SIDE, SIDE), Loading(2, seed=3, samples=8, workers=workers), recipe))
        for workers in (0, 2)
    ]
    assert same([b.images for b in passes[0]], [b.images for b in passes[1]])
    assert same([b.targets for b in passes[0]], [b.targets for b in passes[1]])


def test_another_seed_is_another_training_and_no_generator_is_touched(data: Path) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
    first, again = (training(data, "retinanet", 4, Recipe(scales=(0.5, 1.5))) for _ in range(2))
    other = training(data, "retinanet", 4, Recipe(scales=(0.5, 1.5)), seed=1)
    assert same(first.images, again.images)
    assert not same(first.images, other.images)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]


@pytest.mark.parametrize("head", HEADS)
def test_every_parameter_of_a_head_learns(data: Path, head: str) -> None:
    task, model = Detection(str(data), head), build(head).train()
    batch = training(data, head, 4)
    loss = task.loss(model, batch, Recipe())
    assert loss.dtype == torch.float32
    assert loss.ndim == 0
    loss.backward()
    assert [name for name, item in model.named_parameters() if item.grad is None or not item.grad.any()] == []


@pytest.mark.parametrize("head", HEADS)
def test_images_without_objects_are_learnt_from_as_background(data: Path, head: str) -> None:
    task, model = Detection(str(data), head), build(head).train()
    batch = training(data, head)
    for target in batch.targets:
        target.update({name: target[name][:0] for name in ("boxes", "labels", "masks") if name in target})
    loss = task.loss(model, batch, Recipe())
    loss.backward()
    assert torch.isfinite(loss)
    assert all(item.grad is None or item.grad.isfinite().all() for item in model.parameters())


@pytest.mark.parametrize("head", HEADS)
def test_the_loss_of_a_batch_is_the_mean_of_those_of_its_images(data: Path, head: str) -> None:
    task, model = Detection(str(data), head), build(head).train()
    batch = training(data, head, 2)

    def loss(images: Tensor, targets: list[Any]) -> float:
        # Regions are sampled; with every one of them taken, nothing is left to chance.
        for sampler in [item.fg_bg_sampler for item in model.modules() if hasattr(item, "fg_bg_sampler")]:
            sampler.batch_size_per_image, sampler.positive_fraction = 10**6, 0.5
        return float(task.loss(model, Batch(images, targets), Recipe()).detach())

    whole = loss(batch.images, batch.targets)
    parts = [loss(batch.images[index : index + 1], [batch.targets[index]]) for index in range(2)]
    assert whole == pytest.approx(sum(parts) / 2, rel=1e-4)
    assert abs(parts[0] - parts[1]) > 1e-3


@pytest.mark.parametrize(("head", "steps", "bound"), [("retinanet", 25, 0.2), ("mask_rcnn", 10, 0.4)])
def test_a_head_learns_two_images_by_heart(data: Path, head: str, steps: int, bound: float) -> None:
    task, model = Detection(str(data), head), build(head).train()
    batch = training(data, head, 2)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(steps):
        loss = task.loss(model, batch, Recipe())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < bound * losses[0]


@pytest.mark.parametrize("head", HEADS)
def test_detections_lie_in_the_original_image_and_are_at_most_a_hundred(data: Path, head: str) -> None:
    task, model = Detection(str(data), head), build(head).eval()
    for item in model.modules():  # without a threshold, everything is a detection
        item.score_thresh = 0.0
    score = task.score()
    for batch in task.batches("val", (SIDE, SIDE), Loading(4), Recipe()):
        with torch.no_grad():
            found = task.predict(model, batch, Recipe())
        score.update(found, batch.targets)
        for one, target in zip(found, batch.targets, strict=True):
            height, width = target["truth"].size
            assert 1 <= len(one.scores) <= 100
            assert (one.boxes[:, :2] >= 0).all()
            assert ((one.boxes[:, :2] + one.boxes[:, 2:]) <= np.array([width, height]) + 1e-9).all()
            assert set(one.labels) <= {0, 1}
            assert (one.masks is None) == (head != "mask_rcnn")
            assert all(mask["size"] == [height, width] for mask in one.masks or ())
    values = score.compute()
    assert "box_ap" in values
    assert ("mask_ap" in values) == (head == "mask_rcnn")
    assert len(score.outcomes) == len(SIZES)


@pytest.mark.parametrize("head", HEADS)
def test_nothing_is_detected_in_the_padding_and_the_batchs_other_images_change_nothing(data: Path, head: str) -> None:
    """Padding itself is not without effect: convolutions and attention read it, as they do in the papers' models."""
    task, model = Detection(str(data), head), build(head).eval()
    for item in model.modules():
        item.score_thresh = 0.0
    batch = next(iter(task.batches("val", (SIDE, SIDE), Loading(3), Recipe())))  # lying, upright, lying
    sizes = [target["size"] for target in batch.targets]
    with torch.no_grad():
        together = model.head.detections(model.stages(batch.images), sizes)
        for index, (height, width) in enumerate(sizes):
            alone = model.head.detections(model.stages(batch.images[index : index + 1]), [(height, width)])[0]
            assert (together[index]["boxes"] <= torch.tensor([width, height] * 2)).all()
            # Boxes of scores that are nearly equal may change places by rounding; their scores hardly change.
            torch.testing.assert_close(alone["scores"][:5], together[index]["scores"][:5], rtol=1e-3, atol=1e-5)


class Oracle(nn.Module):
    """A model whose head finds each object where validation shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = self
        self.answers: list[dict[str, Tensor]] = []

    def stages(self, images: Tensor) -> list[Tensor]:
        return [images]

    def detections(self, _maps: list[Tensor], _sizes: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
        return self.answers


def answers(batch: Batch, category_ids: tuple[int, ...]) -> list[dict[str, Tensor]]:
    """What a perfect head would find, in pixels of the batch; masks fill their boxes."""
    found = []
    for target in batch.targets:
        truth, size = target["truth"], target["size"]
        boxes = torch.tensor([item["bbox"] for item in truth.annotations], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes *= torch.tensor([size[1] / truth.size[1], size[0] / truth.size[0]] * 2, dtype=torch.float64)
        labels = [category_ids.index(item["category_id"]) for item in truth.annotations]
        answer = {"boxes": boxes.float(), "labels": torch.tensor(labels, dtype=torch.int64)}
        found.append({**answer, "scores": torch.full((len(boxes),), 0.9), "masks": torch.ones(len(boxes), 1, 28, 28)})
    return found


@pytest.mark.parametrize("embedded", [False, True])
@pytest.mark.parametrize("canvas", [(SIDE, SIDE), (200, 333), (50, 40)])
def test_objects_that_are_found_where_they_are_shown_make_an_average_precision_of_one(
    data: Path, embedded: bool, canvas: tuple[int, int]
) -> None:
    task, model = Detection(None if embedded else str(data), "mask_rcnn"), Oracle()
    score = task.score()
    for batch in islice(task.batches("val", canvas, Loading(4), Recipe()), 2):
        model.answers = answers(batch, task.source.category_ids)
        score.update(task.predict(model, batch, Recipe()), batch.targets)
    values = score.compute()
    assert values["box_ap"] == pytest.approx(1, abs=1e-9)
    assert score.outcomes == pytest.approx([1.0] * len(score.outcomes))
    if not embedded:  # whose objects are boxes; pasting rounds corners to whole pixels
        assert values["mask_ap75"] == pytest.approx(1, abs=1e-9)
        assert values["mask_ap"] > 0.8


def test_the_embedded_scenes_can_be_learnt_by_every_head() -> None:
    for head in HEADS:
        task, model = Detection(None, head), build(head, classes=5).train()
        batch = next(iter(task.batches("train", (64, 64), Loading(2, samples=2), Recipe(scales=(0.8, 1.25)))))
        loss = task.loss(model, batch, Recipe())
        loss.backward()
        assert torch.isfinite(loss)
        assert len(batch.targets[0]["boxes"])


def test_a_model_of_nan_finds_nothing(data: Path) -> None:
    for head in HEADS:
        task, model = Detection(str(data), head), build(head).eval()
        with torch.no_grad():
            for item in model.head.parameters():
                item.fill_(float("nan"))
            batch = next(iter(task.batches("val", (SIDE, SIDE), Loading(2), Recipe())))
            found = task.predict(model, batch, Recipe())
        assert [len(one.scores) for one in found] == [0, 0]


@pytest.mark.parametrize("head", HEADS)
def test_losses_are_in_float32_under_autocast(data: Path, head: str) -> None:
    task, model = Detection(str(data), head), build(head).train()
    batch = training(data, head, 1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = task.loss(model, batch, Recipe())
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        val = next(iter(task.batches("val", (SIDE, SIDE), Loading(1), Recipe())))
        found = task.predict(model.eval(), val, Recipe())
    assert all(one.boxes.dtype == np.float64 for one in found)
