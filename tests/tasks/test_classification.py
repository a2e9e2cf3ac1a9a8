"""The classification task: batches that depend on their arguments alone, clean errors, an exact score."""

import importlib
import multiprocessing
import pickle
import random
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from attnbench.errors import UserError
from attnbench.recipe import Recipe
from attnbench.record import METRICS
from attnbench.task_contract import Batch, Loading

# By string: a type checker cannot see that tasks/ is installed as attnbench.tasks.
Classification: Any = importlib.import_module("attnbench.tasks.classification").Classification

# Two workers are asked for on purpose, however few cores there are.
workers_on_one_core = pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")
REAL = Path(__file__).parents[3] / "shared" / "data" / "classification"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0)
    for split, count in (("train", 7), ("val", 5)):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = noise.integers(0, 256, (50, 70, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{index}.png")
    return tmp_path


@pytest.fixture(params=["shapes", "folder"])
def task(request: pytest.FixtureRequest, data: Path) -> Any:
    return Classification(None if request.param == "shapes" else str(data))


def same(first: Iterator[Any], second: Iterator[Any]) -> bool:
    pairs = list(zip(list(first), list(second), strict=True))
    return all(torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets) for a, b in pairs)


def batches(
    task: Any, split: str, resolution: tuple[int, int], batch_size: int, seed: int = 0, **more: Any
) -> Iterator[Batch]:
    """``more`` may hold fields of Loading and of Recipe."""
    fields = {name: more.pop(name) for name in list(more) if name in Loading.__dataclass_fields__}
    found: Iterator[Batch] = task.batches(split, resolution, Loading(batch_size, seed, **fields), Recipe(**more))
    return found


def train(task: Any, seed: int = 0, samples: int | None = 20, workers: int = 0, **more: Any) -> Iterator[Batch]:
    return batches(task, "train", (32, 32), 4, seed, samples=samples, workers=workers, **more)


def test_the_headline_is_a_known_metric(task: Any) -> None:
    assert METRICS[task.headline].better == "higher"


def test_data_have_an_identity_and_a_number_of_classes(data: Path) -> None:
    assert (Classification(None).identity, Classification(None).num_classes) == ("shapes.v1", 3)
    assert Classification(str(data)).identity.startswith("folder:")
    assert Classification(str(data)).num_classes == 2


def test_the_same_arguments_give_the_same_batches(task: Any) -> None:
    assert same(train(task), train(task))
    assert not same(train(task), train(task, seed=1))


@workers_on_one_core
def test_workers_change_nothing(task: Any) -> None:
    assert same(train(task), train(task, workers=2))
    val = [islice(batches(task, "val", (32, 48), 4, 0, workers=workers), 4) for workers in (0, 2)]
    assert same(*val)


@workers_on_one_core
def test_no_worker_outlives_its_batches(task: Any) -> None:
    batches = train(task, workers=2)
    next(batches)
    assert multiprocessing.active_children()
    del batches
    assert not multiprocessing.active_children()


@workers_on_one_core
def test_no_generator_of_the_caller_is_touched(task: Any) -> None:
    def states() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), random.getstate(), pickle.dumps(np.random.get_state())

    before = states()
    for workers in (0, 2):
        list(train(task, workers=workers))
        next(batches(task, "val", (32, 32), 4, 0, workers=workers))
    assert states() == before


def test_the_callers_seed_does_not_matter(task: Any) -> None:
    torch.manual_seed(1)
    first = list(train(task))
    torch.manual_seed(2)
    assert same(iter(first), train(task))


def test_training_batches_are_full_and_as_many_as_the_samples_allow(task: Any) -> None:
    sizes = [len(batch.targets) for batch in train(task, samples=23)]
    assert sizes == [4] * 5


def test_an_epoch_shows_every_image_once_and_the_next_in_another_order(data: Path) -> None:
    task = Classification(str(data))
    shown = [batch.targets.tolist() for batch in batches(task, "train", (32, 32), 14, 0, samples=28, scale=1.0)]
    assert [sorted(labels) for labels in shown] == [[0] * 7 + [1] * 7] * 2
    assert shown[0] != shown[1]


def test_an_image_is_cropped_otherwise_in_the_next_epoch(data: Path) -> None:
    task = Classification(str(data))
    first, second = batches(task, "train", (32, 32), 14, 0, samples=28, scale=0.2)
    images = {image.numpy().tobytes() for batch in (first, second) for image in batch.images}
    assert len(images) == 28


def test_fewer_samples_than_a_batch_are_refused(task: Any) -> None:
    with pytest.raises(UserError, match="3 training samples are fewer than one batch of 4"):
        train(task, samples=3)


def test_validation_goes_once_through_in_order(data: Path) -> None:
    found = list(batches(Classification(str(data)), "val", (32, 32), 4, 0))
    assert [batch.targets.tolist() for batch in found] == [[0, 0, 0, 0], [0, 1, 1, 1], [1, 1]]


def test_validation_does_not_depend_on_the_seed(task: Any) -> None:
    first, second = (islice(batches(task, "val", (32, 32), 4, seed), 3) for seed in (0, 9))
    assert same(first, second)


def test_the_embedded_validation_holds_180_scenes() -> None:
    assert sum(len(batch.targets) for batch in batches(Classification(None), "val", (32, 32), 64, 0)) == 180


def test_images_are_normalised_and_of_any_proportions(task: Any) -> None:
    batch = next(batches(task, "val", (32, 80), 2, 0))
    assert batch.images.shape == (2, 3, 32, 80)
    assert batch.images.dtype == torch.float32
    assert batch.images.is_contiguous()
    assert batch.targets.dtype == torch.int64


def test_white_is_normalised_by_imagenets_mean_and_deviation(data: Path) -> None:
    Image.new("RGB", (50, 50), "white").save(data / "val/a/0.png")
    pixel = next(batches(Classification(str(data)), "val", (32, 32), 1, 0)).images[0, :, 5, 5]
    expected = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert pixel.tolist() == pytest.approx(expected, abs=1e-5)


@workers_on_one_core
@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_named_in_one_line_whoever_reads_it(workers: int, data: Path) -> None:
    bad = data / "val/b/2.png"
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(UserError) as caught:
        list(batches(Classification(str(data)), "val", (32, 32), 4, 0, workers=workers))
    assert str(caught.value).startswith(f"cannot read {str(bad)!r}: ")
    assert "\n" not in str(caught.value)


def test_a_pickled_task_gives_the_same_batches(task: Any) -> None:
    assert same(train(task), train(pickle.loads(pickle.dumps(task))))


def test_the_loss_is_smoothed_cross_entropy_in_float32(task: Any) -> None:
    logits, targets = torch.randn(5, 3, dtype=torch.bfloat16), torch.tensor([0, 1, 2, 1, 0])
    expected = F.cross_entropy(logits.float(), targets, label_smoothing=0.1)
    assert torch.equal(task.loss(torch.nn.Identity(), Batch(logits, targets), Recipe(label_smoothing=0.1)), expected)


def test_top1_is_exact_and_keeps_each_outcome(task: Any) -> None:
    score = task.score()
    score.update(torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    score.update(torch.tensor([[0.0, 3.0]]), torch.tensor([1]))
    assert score.outcomes == [1, 0, 1]
    assert score.compute() == {"top1": 2 / 3}


def test_top5_counts_images_whose_class_is_among_the_five_highest(task: Any) -> None:
    score = task.score()
    score.update(torch.arange(12.0).expand(3, 12), torch.tensor([11, 7, 6]))
    score.update(torch.full((1, 12), float("nan")), torch.tensor([0]))
    assert score.compute() == {"top1": 1 / 4, "top5": 2 / 4}


@pytest.mark.parametrize("ranks", [1, 2])
def test_processes_and_resumed_trainings_see_what_one_would(ranks: int, task: Any) -> None:
    whole = list(train(task, samples=48, scale=0.5))  # batches of 4
    for rank in range(ranks):
        more: dict[str, Any] = {"samples": 48, "scale": 0.5, "rank": rank, "ranks": ranks}
        part = list(batches(task, "train", (32, 32), 4 // ranks, **more))
        assert len(part) == len(whole)
        own = slice(rank * 4 // ranks, (rank + 1) * 4 // ranks)
        assert all(torch.equal(a.images, b.images[own]) for a, b in zip(part, whole, strict=True))
        assert same(iter(part[5:]), batches(task, "train", (32, 32), 4 // ranks, skip=5, **more))


def test_repeated_augmentation_shows_an_image_several_times_in_an_epoch(data: Path) -> None:
    task = Classification(str(data))  # 14 images
    shown = list(batches(task, "train", (32, 32), 14, samples=28, repeats=3, scale=0.3))
    for batch in shown:
        assert len({image.numpy().tobytes() for image in batch.images}) == 14  # each time cropped otherwise
    whole = list(batches(task, "train", (32, 32), 14, samples=28, repeats=3, scale=1.0, flip=0.0))
    counts = [Counter(image.mean().item() for image in batch.images) for batch in whole]
    assert sorted(counts[0].values()) == [2, 3, 3, 3, 3]
    assert counts[0].keys() != counts[1].keys()


AUGMENTATIONS: list[dict[str, Any]] = [
    {"rand_augment": "rand-m9-mstd0.5-inc1"},
    {"color_jitter": 0.4},
    {"erasing": 1.0},
    {"mixup": 0.8},
    {"cutmix": 1.0},
    {"mixup": 0.8, "cutmix": 1.0, "erasing": 0.25, "rand_augment": "rand-m9-mstd0.5-inc1", "repeats": 3},
]


@workers_on_one_core
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_augmentations_change_images_follow_the_seed_and_resume(augmentation: dict[str, Any], task: Any) -> None:
    plain, found = list(train(task)), list(train(task, **augmentation))
    assert not any(torch.equal(a.images, b.images) for a, b in zip(plain, found, strict=True))
    assert same(iter(found), train(task, **augmentation, workers=2))
    assert same(iter(found[3:]), train(task, **augmentation, skip=3))
    assert not same(iter(found), train(task, seed=1, **augmentation))
    if "mixup" in augmentation or "cutmix" in augmentation:
        targets = torch.cat([batch.targets for batch in found])
        assert targets.shape == (20, task.num_classes)
        assert torch.allclose(targets.sum(1), torch.ones(20))


def test_the_loss_of_mixed_labels_is_their_cross_entropy_and_is_smoothed_once(task: Any) -> None:
    logits, targets = torch.randn(4, 3), torch.rand(4, 3).softmax(1)
    found = task.loss(torch.nn.Identity(), Batch(logits, targets), Recipe(label_smoothing=0.1))
    assert torch.allclose(found, -(targets * logits.log_softmax(1)).sum(1).mean())


def test_augmentations_that_cannot_be_are_refused(task: Any) -> None:
    with pytest.raises(UserError, match="no word of timm"):
        list(train(task, rand_augment="m9-mstd0.5"))
    with pytest.raises(UserError, match="mix pairs: a batch of 3"):
        batches(task, "train", (32, 32), 3, mixup=0.5)


def test_logits_that_are_no_numbers_are_wrong(task: Any) -> None:
    score = task.score()
    score.update(torch.full((2, 3), float("nan")), torch.tensor([0, 1]))
    assert score.compute() == {"top1": 0.0}


def test_an_empty_score_has_no_value(task: Any) -> None:
    with pytest.raises(ValueError, match="no image"):
        task.score().compute()


def test_the_head_maps_the_last_stage_to_logits(task: Any) -> None:
    maps = [torch.randn(2, 8 // 2**stage, 8 // 2**stage, 8 * 2**stage) for stage in range(4)]
    assert task.head((8, 16, 32, 64), 5)(maps).shape == (2, 5)


@pytest.mark.skipif(not REAL.is_dir(), reason="no photographs beside this checkout")
def test_real_photographs_are_read() -> None:
    task = Classification(str(REAL))
    assert (task.num_classes, task.source.count("train"), task.source.count("val")) == (20, 994, 400)
    assert next(batches(task, "val", (64, 96), 8, 0)).images.shape == (8, 3, 64, 96)
