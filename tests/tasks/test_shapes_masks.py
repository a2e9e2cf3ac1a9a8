"""Masks, boxes and label maps of the embedded scenes against the picture itself and against pixel loops."""

import importlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

shapes: Any = importlib.import_module("attnbench.tasks._shapes")
scenes: Any = importlib.import_module("attnbench.tasks._scene")
masks: Any = importlib.import_module("attnbench.tasks._shapes_masks")

RESOLUTIONS = [(64, 64), (48, 96)]


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_a_pixel_of_a_mask_has_the_colour_of_its_figure(resolution: tuple[int, int]) -> None:
    for index in range(40):
        scene = shapes.draw("val", index)
        picture = scenes.render(scene, resolution) / 255
        for item in scene.deciding:
            (shown,) = [figure.mask for figure in masks.figures(type(scene)(0, scene.background, (item,)), resolution)]
            inner = shown & np.roll(shown, 1, 0) & np.roll(shown, -1, 0) & np.roll(shown, 1, 1) & np.roll(shown, -1, 1)
            assert np.abs(picture[inner] - item.colour).max() < 2 / 255


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_masks_do_not_overlap_and_what_lies_above_wins(resolution: tuple[int, int]) -> None:
    hidden = 0
    for index in range(180):
        scene = shapes.draw("val", index)
        found = masks.figures(scene, resolution)
        assert sum(figure.mask.astype(int) for figure in found).max() <= 1
        last = masks.figures(type(scene)(0, scene.background, scene.objects[-1:]), resolution)[0]
        assert np.array_equal(found[-1].mask, last.mask)
        alone = [masks.figures(type(scene)(0, scene.background, (item,)), resolution)[0] for item in scene.objects]
        hidden += sum(figure.mask.sum() for figure in alone) > sum(figure.mask.sum() for figure in found)
    assert hidden > 10  # else nothing was tried


def test_label_maps_name_the_kind_of_every_mask() -> None:
    for index in range(60):
        scene = shapes.draw("train", index)
        labels = masks.label_map(scene, (40, 56))
        found = masks.figures(scene, (40, 56))
        for figure in found:
            assert set(labels[figure.mask]) == {1 + masks.KINDS.index(figure.kind)}
        assert (labels == 0).sum() == labels.size - sum(figure.mask.sum() for figure in found)


def test_a_box_is_as_tight_as_its_mask() -> None:
    for index in range(60):
        for figure in masks.figures(shapes.draw("train", index), (50, 70)):
            left, top, right, bottom = figure.box
            outside = figure.mask.copy()
            outside[top:bottom, left:right] = False
            assert not outside.any()
            inside = figure.mask[top:bottom, left:right]
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))


@given(arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7))))
def test_run_lengths_are_those_of_coco(mask: Any) -> None:
    lengths = masks.run_lengths(mask)
    assert all(length > 0 for length in lengths[1:])
    flat = [number % 2 == 1 for number, length in enumerate(lengths) for _ in range(length)]
    assert flat == [bool(mask[row, column]) for column in range(mask.shape[1]) for row in range(mask.shape[0])]
