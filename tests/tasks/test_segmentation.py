"""The segmentation task: batches that depend on their arguments alone, an exact loss, predictions by hand."""

import importlib
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from attnbench.backbone import Backbone, build_model
from attnbench.errors import UserError
from attnbench.recipe import Recipe
from attnbench.task_contract import Batch, Loading

# By string: a type checker cannot see that tasks/ is installed as attnbench.tasks.
loading_of_tasks: Any = importlib.import_module("attnbench.tasks._loading")
augmentation: Any = importlib.import_module("attnbench.tasks._augmentation")
segmentation: Any = importlib.import_module("attnbench.tasks.segmentation")
Segmentation: Any = segmentation.Segmentation

# Two workers are asked for on purpose, however few cores there are.
workers_on_one_core = pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")
SIZES = ((50, 70), (64, 64), (40, 90), (64, 64), (97, 33))
JITTERED = Recipe(scales=(0.5, 2.0), color_jitter=0.4)
HEADS = ("upernet", "semantic_fpn")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make 10 training and 5 validation images of noise, whose label tells how bright a pixel is."""
    path, noise = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for folder, repeats in (("training", 2), ("validation", 1)):
        for kind in ("images", "annotations"):
            (path / kind / folder).mkdir(parents=True)
        for index, (rows, columns) in enumerate(SIZES * repeats):
            grey = np.kron(noise.integers(0, 256, (7, 7), dtype=np.uint8), np.ones((14, 14), np.uint8))
            pixels = np.repeat(grey[:rows, :columns, None], 3, axis=2)
            labels = pixels[..., 0] // 64 * (noise.random(pixels.shape[:2]) > 0.1)
            Image.fromarray(pixels).save(path / "images" / folder / f"{index}.png")
            Image.fromarray(labels.astype(np.uint8)).save(path / "annotations" / folder / f"{index}.png")
    return path


@pytest.fixture(scope="module")
def task(data: Path) -> Any:
    return Segmentation(str(data))


def model(name: str, classes: int = 3, size: int = 64) -> Backbone:
    torch.manual_seed(0)
    return build_model(
        "identity", resolution=(size, size), head=lambda channels: Segmentation.head(channels, classes, name)
    )


def train(task: Any, recipe: Recipe = JITTERED, **loading: Any) -> list[Batch]:
    return list(task.batches("train", (48, 64), Loading(**{"batch_size": 4, "samples": 24, **loading}), recipe))


def equal(first: list[Batch], second: list[Batch]) -> bool:
    def tensors(batch: Batch) -> list[Tensor]:
        targets = batch.targets
        return [batch.images, *((targets,) if isinstance(targets, Tensor) else (*targets.labels, *targets.rescaled))]

    pairs = [pair for a, b in zip(first, second, strict=True) for pair in zip(tensors(a), tensors(b), strict=True)]
    return all(torch.equal(a, b) for a, b in pairs)


def test_training_batches_are_full_and_their_labels_whole(task: Any) -> None:
    batches = train(task, samples=23)
    assert len(batches) == 5
    for batch in batches:
        assert batch.images.shape == (4, 3, 48, 64)
        assert batch.images.dtype == torch.float32
        assert batch.targets.shape == (4, 48, 64)
        assert batch.targets.dtype == torch.int64
        assert set(batch.targets.unique().tolist()) <= {-1, 0, 1, 2}


def test_batches_depend_on_the_seed_alone(task: Any) -> None:
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    before = [random.random(), float(np.random.rand()), float(torch.rand(()))]
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    first = train(task)
    assert before == [random.random(), float(np.random.rand()), float(torch.rand(()))]
    assert equal(first, train(task))
    assert not equal(first, train(task, seed=1))
    assert not equal(first[:1], first[3:4])  # a later epoch


@workers_on_one_core
def test_the_number_of_workers_changes_nothing(task: Any) -> None:
    assert equal(train(task), train(task, workers=2))
    recipe = Recipe(test_scales=(1.0, 0.5))
    one, two = (list(task.batches("val", (32, 32), Loading(2, workers=count), recipe)) for count in (0, 2))
    assert equal(one, two)


def test_processes_and_resumption_cut_one_sequence(task: Any) -> None:
    once = train(task, batch_size=8)
    for rank in (0, 1):
        part = train(task, batch_size=4, rank=rank, ranks=2)
        parts = [Batch(b.images[4 * rank :][:4], b.targets[4 * rank :][:4]) for b in once]
        assert equal(part, parts)
        assert equal(train(task, batch_size=4, rank=rank, ranks=2, skip=2), parts[2:])


def test_fewer_samples_than_one_batch_are_refused(task: Any) -> None:
    with pytest.raises(UserError, match="7 training samples are fewer than one batch of 8"):
        train(task, samples=7, ranks=2)


def test_validation_goes_once_through_in_order_at_each_images_size(task: Any) -> None:
    batches = list(task.batches("val", (32, 32), Loading(2), Recipe()))
    assert [len(batch.images) for batch in batches] == [2, 2, 1]
    labels = [item for batch in batches for item in batch.targets.labels]
    assert [tuple(item.shape) for item in labels] == list(SIZES)
    assert all(
        torch.equal(found, torch.from_numpy(task.source.example("val", index, (32, 32), 1.0)[1]))
        for index, found in enumerate(labels)
    )
    assert batches[0].targets.sizes == (((32, 44), (32, 32)),)
    assert batches[0].images.shape == (2, 3, 32, 44)
    assert not batches[0].images[1, :, :, 32:].any()


def test_a_broken_file_ends_a_pass_in_one_line(data: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(data, tmp_path / "copy")
    (copy / "classes.txt").write_text("a\nb\nc")
    (copy / "images/validation/3.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"3\.png") as caught:
        list(Segmentation(str(copy)).batches("val", (32, 32), Loading(4), Recipe()))
    assert "\n" not in str(caught.value)


class Ramp:
    """One picture, whose red and green tell where a pixel is; so does its label."""

    classes = ("a", "b")
    identity = "ramp"

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns

    def count(self, *_: str) -> int:
        return 1

    def example(self, *_: Any) -> tuple[Any, Any]:
        picture = np.zeros((self.rows, self.columns, 3), dtype=np.uint8)
        picture[..., 0] = np.round(255 * (np.arange(self.rows)[:, None] + 0.5) / self.rows)
        picture[..., 1] = np.round(255 * (np.arange(self.columns) + 0.5) / self.columns)
        return picture, np.arange(self.rows * self.columns, dtype=np.int16).reshape(self.rows, self.columns)


def ramped(source: Ramp, resolution: tuple[int, int], recipe: Recipe, seed: int) -> tuple[Tensor, Tensor]:
    view, labels = segmentation._Training(source, resolution, recipe, seed)(loading_of_tasks.Draw(0, 0))
    return view, labels.long()


@settings(deadline=None)
@given(*[st.integers(1, 80)] * 4, st.integers(0, 99), st.sampled_from([0.0, 1.0]))
def test_colours_and_labels_stay_together_through_every_step(
    rows: int, columns: int, high: int, wide: int, seed: int, flip: float
) -> None:
    view, labels = ramped(Ramp(rows, columns), (high, wide), Recipe(scales=(0.5, 2.0), flip=flip), seed)
    assert view.shape == (3, high, wide)
    assert labels.shape == (high, wide)
    inside = labels >= 0
    assert not view[:, ~inside].any()
    colours = (view * torch.from_numpy(augmentation.STD)[:, None, None]).add_(
        torch.from_numpy(augmentation.MEAN)[:, None, None]
    )
    smallest = 0.5 * max(high / rows, wide / columns)  # what a pixel of the image is at least resized to
    for channel, own, place in ((0, rows, labels // columns), (1, columns, labels % columns)):
        allowed = 1 / own + 0.5 / max(round(smallest * own), 1) + 1.01 / 255
        assert (colours[channel] - (place + 0.5) / own)[inside].abs().max() <= allowed


@given(st.integers(0, 99))
def test_a_mirrored_crop_is_the_crop_mirrored(seed: int) -> None:
    plain, mirrored = (ramped(Ramp(60, 50), (32, 32), Recipe(flip=flip), seed) for flip in (0.0, 1.0))
    assert torch.equal(plain[0], mirrored[0].flip(2))
    assert torch.equal(plain[1], mirrored[1].flip(1))


def test_half_of_the_images_are_mirrored() -> None:
    mirrored = sum(
        bool((found := ramped(Ramp(40, 40), (32, 32), Recipe(), seed)[1])[0, 0] > found[0, 1]) for seed in range(400)
    )
    assert abs(mirrored - 200) < 50  # five standard deviations


def batch_of(images: int, rows: int = 64, columns: int = 64, classes: int = 3, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, classes, (images, rows, columns), generator=generator)
    return Batch(torch.randn(images, 3, rows, columns, generator=generator), labels)


@pytest.mark.parametrize("name", HEADS)
def test_the_loss_of_a_batch_is_the_mean_of_its_halves(task: Any, name: str) -> None:
    net, batch = model(name).eval(), batch_of(4)
    batch.targets[0] = -1  # unequal numbers of ignored pixels
    halves = [task.loss(net, Batch(batch.images[part], batch.targets[part]), Recipe()) for part in ([0, 1], [2, 3])]
    torch.testing.assert_close(task.loss(net, batch, Recipe()), torch.stack(halves).mean(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (40, 72)])
def test_the_loss_is_cross_entropy_over_all_pixels(task: Any, name: str, rows: int, columns: int) -> None:
    net, batch = model(name).eval(), batch_of(2, rows, columns)
    bottom, right = -rows % 32, -columns % 32
    maps = net.stages(F.pad(batch.images, (0, right, 0, bottom)))
    expected = 0.0
    for logits, weight in zip(cast(Any, net.head).train_logits(maps), (1.0, 0.4), strict=True):
        if logits is None:
            continue
        pixels = F.interpolate(logits.double(), size=(rows + bottom, columns + right), mode="bilinear")
        scores = pixels.log_softmax(1)[:, :, :rows, :columns]
        counted = batch.targets >= 0
        right_ones = scores.gather(1, batch.targets.clamp(0)[:, None])[:, 0]
        expected += weight * -right_ones[counted].sum().item() / batch.targets.numel()
    assert task.loss(net, batch, Recipe()).item() == pytest.approx(expected, rel=1e-5)


def test_an_ignored_pixel_has_no_part_in_loss_and_gradient() -> None:
    labels = torch.tensor([[[0, -1], [1, -1]]])
    logits = torch.randn(1, 2, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = segmentation._cross_entropy(logits, labels, (2, 2))
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad[..., 1].any()
    assert logits.grad[..., 0].all()
    changed = logits.detach().clone()
    changed[..., 1] = 100
    assert torch.equal(segmentation._cross_entropy(changed, labels, (2, 2)), loss)


@pytest.mark.parametrize("name", HEADS)
def test_a_batch_that_is_all_ignored_teaches_nothing(task: Any, name: str) -> None:
    net, batch = model(name), batch_of(2)
    loss = task.loss(net, Batch(batch.images, torch.full_like(batch.targets, -1)), Recipe())
    loss.backward()
    assert loss == 0
    assert not any(item.grad.any() for item in net.parameters() if item.grad is not None)


@pytest.mark.parametrize("name", HEADS)
def test_the_loss_reaches_every_parameter(task: Any, name: str) -> None:
    net = model(name)
    task.loss(net, batch_of(4), Recipe()).backward()
    assert [key for key, item in net.head.named_parameters() if item.grad is None or not item.grad.any()] == []


@pytest.mark.parametrize("name", HEADS)
def test_two_images_are_learnt_by_heart(task: Any, name: str) -> None:
    net, recipe = model(name), Recipe(flip=0.0)
    batch = Batch(*(torch.cat([part, part]) for part in _blocks()))
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    for _ in range(20):
        loss = task.loss(net, batch, recipe)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    sizes = (((64, 64),) * 4,)
    truth = importlib.import_module("attnbench.tasks._iou").Truth(
        tuple(batch.targets.to(torch.int16)), sizes, (64, 64), ()
    )
    score = task.score()
    with torch.no_grad():
        score.update(task.predict(net.eval(), Batch(batch.images, truth), recipe), truth)
    assert score.compute()["miou"] > 0.85


def _blocks() -> tuple[Tensor, Tensor]:
    """Return two images of coloured 16 x 16 blocks, and the blocks' classes."""
    labels = torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(0))
    labels = labels.repeat_interleave(16, 1).repeat_interleave(16, 2)
    return 2 * F.one_hot(labels, 3).permute(0, 3, 1, 2).float(), labels


def decided(name: str) -> Backbone:
    """Return a model in float64 that, untrained, takes pixels for different classes."""
    net = model(name).double().eval()
    with torch.no_grad():
        logits = net(torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)).double())
        [*cast(Any, net.head).classifier.modules()][-1].bias -= logits.mean((0, 2, 3))
    return net


def doubled(batch: Batch) -> Batch:
    targets = batch.targets._replace(rescaled=tuple(item.double() for item in batch.targets.rescaled))
    return Batch(batch.images.double(), targets)


def predicted(task: Any, net: Backbone, size: int, recipe: Recipe) -> list[Tensor]:
    batches: Iterator[Batch] = task.batches("val", (32, 32), Loading(size), recipe)
    with torch.no_grad():
        return [item for batch in batches for item in task.predict(net, doubled(batch), recipe)]


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(test_scales=(0.75, 1.5), test_flip=True), Recipe(slide=True)])
def test_a_prediction_has_its_images_size_and_depends_on_no_other_image(task: Any, recipe: Recipe) -> None:
    net = decided("upernet")
    together, apart = (predicted(task, net, size, recipe) for size in (5, 1))
    assert [tuple(item.shape) for item in together] == list(SIZES)
    assert all(torch.equal(a, b) for a, b in zip(together, apart, strict=True))
    assert torch.cat([item.flatten() for item in together]).unique().tolist() == [0, 1, 2]


def test_scales_and_mirror_images_are_averaged_as_probabilities(task: Any, data: Path) -> None:
    net = decided("semantic_fpn")
    image = Image.open(data / "images/validation/1.png")
    mean = np.array([0.485, 0.456, 0.406]) * 255
    total = torch.zeros(3, 64, 64, dtype=torch.float64)
    for side in (32, 96):
        pixels = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), dtype=np.float64)
        view = torch.from_numpy(((pixels - mean) / (255 * np.array([0.229, 0.224, 0.225]))).transpose(2, 0, 1).copy())
        for flipped in (False, True):
            with torch.no_grad():
                logits = net((view.flip(2) if flipped else view)[None])
            pixels_of = F.interpolate(logits, size=(64, 64), mode="bilinear")[0].softmax(0)
            total += pixels_of.flip(2) if flipped else pixels_of
    found = predicted(task, net, 5, Recipe(test_scales=(1.0, 3.0), test_flip=True))[1]
    lead = total.sort(0).values.diff(dim=0)[-1]
    assert torch.equal(found.long()[lead > 1e-4], total.argmax(0)[lead > 1e-4])
    assert (lead > 1e-4).float().mean() > 0.9


def test_flipping_at_test_makes_predictions_of_mirrored_images_mirrored(task: Any) -> None:
    net, recipe = decided("upernet"), Recipe(test_flip=True)
    batch = doubled(next(task.batches("val", (32, 32), Loading(5), recipe)))
    truth = batch.targets._replace(labels=batch.targets.labels[1:2], sizes=((batch.targets.sizes[0][1],),))
    image = batch.images[1:2, :, :32, :32]
    with torch.no_grad():
        plain, mirrored = (task.predict(net, Batch(view, truth), recipe)[0] for view in (image, image.flip(3)))
    assert len(plain.unique()) > 1
    assert (plain == mirrored.flip(1)).float().mean() > 0.999  # ties of rounding aside


def test_a_window_as_large_as_the_image_changes_nothing(task: Any) -> None:
    net = decided("semantic_fpn")
    recipe = Recipe()
    batch = doubled(next(task.batches("val", (32, 32), Loading(5), recipe)))
    batch = replace(batch, targets=batch.targets._replace(window=(96, 96)))
    with torch.no_grad():
        whole, slid = (task.predict(net, batch, replace(recipe, slide=slide)) for slide in (False, True))
    same = torch.cat([(a == b).flatten() for a, b in zip(whole, slid, strict=True)])
    assert len(torch.cat([item.flatten() for item in whole]).unique()) == 3
    assert same.float().mean() > 0.98  # windows go to labels by way of pixels: borders between classes move


def test_the_embedded_scenes_need_no_data() -> None:
    task = Segmentation(None)
    batch = next(task.batches("train", (48, 64), Loading(2), JITTERED))
    assert (batch.images.shape, batch.targets.shape) == ((2, 3, 48, 64), (2, 48, 64))
    truth = next(task.batches("val", (48, 64), Loading(2), Recipe(test_scales=(1.0, 1.5)))).targets
    assert [tuple(labels.shape) for labels in truth.labels] == [(48, 64)] * 2
    assert truth.sizes == (((48, 64),) * 2, ((72, 96),) * 2)


@pytest.mark.parametrize("name", HEADS)
def test_a_pass_through_model_loss_and_score_needs_no_more_than_the_contract(task: Any, name: str) -> None:
    net, recipe = model(name), Recipe(samples=8, batch_size=4)
    for batch in task.batches("train", (64, 64), Loading(4, samples=8), recipe):
        task.loss(net, batch, recipe).backward()
    score = task.score()
    for batch in task.batches("val", (64, 64), Loading(2), recipe):
        moved = batch.to(torch.device("cpu"))
        with torch.no_grad():
            score.update(task.predict(net.eval(), moved, recipe), moved.targets)
    assert score.compute().keys() == {"miou", "pixel_accuracy"}
    assert Segmentation.headline in score.compute()
    assert len(score.outcomes) == len(SIZES)
    assert all(0 <= outcome <= 1 for outcome in score.outcomes)
    assert score.by_class["class_iou"].keys() <= {"class 1", "class 2", "class 3"}
    assert score.by_class["class_iou"]
