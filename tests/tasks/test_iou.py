"""The score of segmentation: counts against loops over pixels."""

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attnbench.errors import UserError

# By string: a type checker cannot see that tasks/ is installed as attnbench.tasks.
iou: Any = importlib.import_module("attnbench.tasks._iou")


def truth(*labels: Tensor) -> Any:
    return iou.Truth(labels, (), (0, 0), ())


def maps(*rows: list[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int16)


def scored(classes: int, predictions: list[Tensor], labels: list[Tensor]) -> Any:
    score = iou.MeanIou([f"c{index}" for index in range(classes)])
    score.update(predictions, truth(*labels))
    return score


def by_loops(classes: int, predictions: list[Tensor], labels: list[Tensor]) -> tuple[list[float | None], float]:
    """Return IoU by class and pixel accuracy, a pixel at a time."""
    right, union, pixels, good = [0] * classes, [0] * classes, 0, 0
    for predicted, true in zip(predictions, labels, strict=True):
        for said, is_ in zip(predicted.flatten().tolist(), true.flatten().tolist(), strict=True):
            if is_ == -1:
                continue
            pixels += 1
            good += said == is_
            for label in range(classes):
                right[label] += said == label and is_ == label
                union[label] += said == label or is_ == label
    return [r / u if u else None for r, u in zip(right, union, strict=True)], good / pixels if pixels else 0.0


@st.composite
def images(draw: Any) -> tuple[int, list[Tensor], list[Tensor]]:
    classes, count = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    predictions, labels = [], []
    for _ in range(count):
        size = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
        noise = np.random.default_rng(draw(st.integers(0, 2**32)))
        low = draw(st.sampled_from([-1, 0]))
        predictions.append(torch.from_numpy(noise.integers(low, classes, size, dtype=np.int16)))
        labels.append(torch.from_numpy(noise.integers(-1, draw(st.integers(0, classes)), size, dtype=np.int16)))
    return classes, predictions, labels


@given(images())
def test_scores_are_those_of_loops_over_pixels(drawn: tuple[int, list[Tensor], list[Tensor]]) -> None:
    classes, predictions, labels = drawn
    score = scored(classes, predictions, labels)
    ious, accuracy = by_loops(classes, predictions, labels)
    assert list(score.by_class["class_iou"].values()) == [iou for iou in ious if iou is not None]
    if all((true == -1).all() for true in labels):
        with pytest.raises(UserError, match="ignored"):
            score.compute()
        return
    defined = [value for value in ious if value is not None]
    assert score.compute()["miou"] == pytest.approx(sum(defined) / len(defined), rel=1e-15)
    assert score.compute()["pixel_accuracy"] == accuracy


@given(images())
def test_an_outcome_is_the_mean_over_the_classes_of_that_image(drawn: tuple[int, list[Tensor], list[Tensor]]) -> None:
    classes, predictions, labels = drawn
    score = scored(classes, predictions, labels)
    for outcome, predicted, true in zip(score.outcomes, predictions, labels, strict=True):
        present = sorted(set(true[true != -1].tolist()))
        ious = by_loops(classes, [predicted], [true])[0]
        expected = [value for label in present if (value := ious[label]) is not None]
        assert outcome == pytest.approx(sum(expected) / len(expected) if expected else 1.0, rel=1e-15)


@given(images())
def test_batches_add_up_to_what_one_batch_gives(drawn: tuple[int, list[Tensor], list[Tensor]]) -> None:
    classes, predictions, labels = drawn
    together = scored(classes, predictions, labels)
    apart = iou.MeanIou(together.classes)
    for predicted, true in zip(predictions, labels, strict=True):
        apart.update([predicted], truth(true))
    assert apart.by_class == together.by_class
    assert apart.outcomes == together.outcomes


def test_a_class_that_nothing_shows_is_left_out_of_the_mean() -> None:
    score = scored(3, [maps([0, 0, 1, 1])], [maps([0, 0, 1, 0])])
    assert score.by_class == {"class_iou": {"c0": 2 / 3, "c1": 1 / 2}}
    assert score.compute() == {"miou": (2 / 3 + 1 / 2) / 2, "pixel_accuracy": 3 / 4}


def test_a_class_only_predicted_counts_as_zero() -> None:
    assert scored(2, [maps([0, 1])], [maps([0, 0])]).compute()["miou"] == 1 / 4


def test_what_is_predicted_where_labels_are_ignored_never_counts() -> None:
    labels = maps([0, 1, -1, -1])
    scores = [scored(3, [maps([0, 1, *said])], [labels]).compute() for said in ([0, 0], [2, 2], [-1, 1])]
    assert scores == [{"miou": 1.0, "pixel_accuracy": 1.0}] * 3


def test_a_pixel_of_no_class_is_wrong() -> None:
    assert scored(2, [maps([-1, 1])], [maps([0, 1])]).compute() == {"miou": 1 / 2, "pixel_accuracy": 1 / 2}


def test_counts_beyond_32_bits_are_exact() -> None:
    score = scored(2, [maps([0])], [maps([0])])
    score.right += np.array([2**40, 0])
    score.true += np.array([2**40, 0])
    score.predicted += np.array([2**40 + 2, 0])
    assert score.by_class["class_iou"]["c0"] == (2**40 + 1) / (2**40 + 3)


def test_three_thousand_classes_fit() -> None:
    labels = torch.arange(3000, dtype=torch.int16).reshape(50, 60)
    assert scored(3000, [labels], [labels]).compute() == {"miou": 1.0, "pixel_accuracy": 1.0}


def test_sizes_that_differ_and_nothing_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="labels of"):
        scored(2, [maps([0, 0])], [maps([0])])
    with pytest.raises(ValueError, match="no image"):
        iou.MeanIou(["a"]).compute()
