"""The embedded scenes: deterministic, drawn natively, balanced, and with a class that no figure decides alone."""

import hashlib
import importlib
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest

# By string: a type checker cannot see that tasks/ is installed as attnbench.tasks.
scene: Any = importlib.import_module("attnbench.tasks._scene")
shapes: Any = importlib.import_module("attnbench.tasks._shapes")

VAL = [shapes.draw("val", index) for index in range(shapes.Shapes().count("val"))]
TRAIN = [shapes.draw("train", index) for index in range(1800)]
KINDS = ["disc", "triangle", "square", "hexagon", "cross"]
AREAS = {"disc": np.pi, "triangle": 27**0.5 / 4, "square": 2.0, "hexagon": 27**0.5 / 2, "cross": 2.16}


def hues(item: Any) -> tuple[int, int]:
    first, second = (thing.hue for thing in item.deciding)
    return first, second


def figure(kind: str, radius: float = 0.3, angle: float = 0.4) -> Any:
    return scene.SceneObject(kind, (0.5, 0.5), radius, angle, (1.0, 0.0, 0.0), 0)


def halved(picture: Any) -> Any:
    height, width = picture.shape[0] // 2, picture.shape[1] // 2
    return picture.reshape(height, 2, width, 2, -1).astype(float).mean((1, 3))


def windows(scale: float, proportions: tuple[int, int]) -> list[tuple[Any, Any]]:
    random = np.random.default_rng(0)
    return [(item, shapes.training_window(item, proportions, scale, random)) for item in TRAIN[:600]]


def test_the_same_index_gives_the_same_bytes_whatever_was_drawn_before() -> None:
    first = scene.render(shapes.draw("val", 7), (96, 96)).tobytes()
    for size in (64, 224, 33):
        scene.render(shapes.draw("val", 7), (size, size))
        shapes.draw("train", size)
    assert scene.render(shapes.draw("val", 7), (96, 96)).tobytes() == first


def test_another_process_draws_the_same_bytes() -> None:
    digest = hashlib.sha256(scene.render(shapes.draw("train", 5), (80, 120)).tobytes()).hexdigest()
    code = (
        "import hashlib; from attnbench.tasks._scene import render; from attnbench.tasks._shapes import draw;"
        "print(hashlib.sha256(render(draw('train', 5), (80, 120)).tobytes()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == digest


def test_a_scene_is_that_of_version_one() -> None:
    first, second = VAL[1].deciding
    assert (VAL[1].label, first.kind, second.kind) == (2, "hexagon", "hexagon")
    centres = (0.33562731132512, 0.770398753908915, 0.3261499508134265, 0.22281540199411604)
    assert first.centre + second.centre == pytest.approx(centres, abs=1e-9)


def test_splits_and_indices_are_different_scenes() -> None:
    assert len({repr(item) for item in VAL + TRAIN}) == len(VAL) + len(TRAIN)


@pytest.mark.parametrize("resolution", [(64, 64), (96, 160), (224, 224)])
def test_a_picture_of_twice_the_resolution_averages_to_the_picture(resolution: tuple[int, int]) -> None:
    twice = (2 * resolution[0], 2 * resolution[1])
    for item in VAL[:20]:
        fine, coarse = halved(scene.render(item, twice)), scene.render(item, resolution)
        assert np.abs(fine - coarse).mean() < 0.6  # of 255: rounding alone makes about 0.3
        assert np.abs(fine - coarse).max() < 40  # at corners and where edges of two figures meet


@pytest.mark.parametrize("resolution", [(65, 47), (130, 94)])
def test_a_window_is_drawn_as_that_part_of_the_whole(resolution: tuple[int, int]) -> None:
    whole = scene.render(VAL[3], (2 * resolution[0], 2 * resolution[1]))
    part = scene.render(VAL[3], resolution, scene.Window(0.5, 0.5, 0.5))
    assert np.abs(part.astype(int) - whole[resolution[0] :, resolution[1] :]).max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_covers_the_area_of_the_figure(kind: str) -> None:
    *_, mask = scene.coverage(figure(kind), (401, 401))
    assert mask.sum() / (0.3 * 401) ** 2 == pytest.approx(AREAS[kind], rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_stays_within_its_box(kind: str) -> None:
    for angle in np.linspace(0, 3, 7):
        item = figure(kind, angle=float(angle))
        rows, columns, mask = scene.coverage(item, (200, 300))
        covered = np.zeros((200, 300))
        covered[rows, columns] = mask
        y, x = np.nonzero(covered)
        top, left, bottom, right = scene.box(item, (200, 300))
        assert y.min() >= top * 200 - 1
        assert y.max() <= bottom * 200 + 1
        assert x.min() >= left * 300 - 1
        assert x.max() <= right * 300 + 1


def test_edges_are_anti_aliased() -> None:
    *_, mask = scene.coverage(figure("disc"), (100, 100))
    assert 0.02 < ((mask > 0.05) & (mask < 0.95)).mean() < 0.2


def test_a_figure_outside_the_window_covers_nothing() -> None:
    item = replace(figure("square", radius=0.05), centre=(0.1, 0.9))
    assert scene.coverage(item, (64, 64), scene.Window(0.5, 0.0, 0.5))[2].sum() == 0


def test_validation_has_every_class_and_every_ordered_pair_equally_often() -> None:
    assert set(Counter(item.label for item in VAL).values()) == {len(VAL) // 3}
    assert set(Counter(map(hues, VAL)).values()) == {len(VAL) // 9}


def test_training_has_every_class_equally_often_and_two_thirds_of_one_hue() -> None:
    assert set(Counter(item.label for item in TRAIN).values()) == {len(TRAIN) // 3}
    pairs = Counter(map(hues, TRAIN))
    assert sum(pairs[hue, hue] for hue in range(3)) == 2 * len(TRAIN) // 3
    assert len({pairs[pair] for pair in pairs if pair[0] != pair[1]}) == 1
    assert len(pairs) == 9
    assert shapes.Shapes().count("train") % 18 == 0


def test_the_label_is_the_common_hue_or_the_third() -> None:
    for item in VAL + TRAIN:
        first, second = hues(item)
        assert item.label == (first if first == second else 3 - first - second)


@pytest.mark.parametrize("place", [0, 1])
def test_one_figure_alone_says_nothing_of_the_class(place: int) -> None:
    joint = Counter((hues(item)[place], item.label) for item in VAL)
    assert set(joint.values()) == {len(VAL) // 9}
    assert len(joint) == 9


def test_summed_scores_of_figures_are_no_better_than_constant() -> None:
    """Cross-entropy is convex in additive scores, so a zero gradient at zero is their optimum."""
    gradient = np.zeros((3, 3))  # of hue, class
    for item in VAL:
        for hue in hues(item):
            gradient[hue] += 1 / 3 - np.eye(3)[item.label]
    assert np.abs(gradient).max() < 1e-9


def test_place_size_kind_and_ground_do_not_tell_the_class() -> None:
    features = np.array(
        [
            [value for thing in item.deciding for value in (*thing.centre, thing.radius, float(thing.kind == "disc"))]
            + [*item.background.colour, len(item.objects)]
            for item in VAL
        ]
    )
    labels = np.array([item.label for item in VAL])
    spread = features.std(0) / (len(VAL) / 3) ** 0.5
    for label in range(3):
        assert (np.abs(features[labels == label].mean(0) - features.mean(0)) < 4 * spread).all()


def test_deciding_figures_lie_in_different_halves_whole_and_apart() -> None:
    for item in VAL + TRAIN:
        first, second = item.deciding
        distance = np.hypot(*np.subtract(first.centre, second.centre))
        assert distance - first.radius - second.radius >= shapes.GAP - 1e-9
        assert any((a - 0.5) * (b - 0.5) < 0 for a, b in zip(first.centre, second.centre, strict=True))
        assert all(thing.radius <= value <= 1 - thing.radius for thing in item.deciding for value in thing.centre)


def test_deciding_figures_are_painted_over_the_others() -> None:
    for item in VAL:
        assert [thing.hue is None for thing in item.objects] == sorted(
            (thing.hue is None for thing in item.objects), reverse=True
        )


@pytest.mark.parametrize("proportions", [(224, 224), (96, 160), (160, 96)])
def test_every_training_window_shows_the_deciding_figures(proportions: tuple[int, int]) -> None:
    for item, window in windows(0.05, proportions):
        for thing in item.deciding:
            seen = scene.coverage(thing, proportions, window)[2].sum()
            area = AREAS[thing.kind] * (thing.radius * min(proportions) / window.side) ** 2
            assert seen > 0.3 * area


def test_training_windows_lie_within_the_scene_and_keep_their_least_area() -> None:
    for scale in (0.2, 0.5, 1.0):
        for _, window in windows(scale, (64, 64)):
            assert window.side**2 >= scale - 1e-9
            assert min(window.top, window.left) >= -1e-9
            assert max(window.top, window.left) + window.side <= 1 + 1e-9


def test_training_shows_figures_at_sizes_more_than_twofold_apart() -> None:
    sizes = [thing.radius / window.side for item, window in windows(0.2, (64, 64)) for thing in item.deciding]
    assert max(sizes) / min(sizes) > 2.0


def test_hues_stay_a_sixth_of_the_wheel_apart() -> None:
    for first, second in combinations(range(3), 2):
        colours = [
            [thing.colour for item in VAL for thing in item.deciding if thing.hue == hue] for hue in (first, second)
        ]
        assert {int(np.argmax(colour)) for colour in colours[0]} == {first}
        assert {int(np.argmax(colour)) for colour in colours[1]} == {second}


def test_drawing_is_fast() -> None:
    start = time.perf_counter()
    for index in range(20):
        scene.render(shapes.draw("val", index), (224, 224))
    assert (time.perf_counter() - start) / 20 < 0.05  # s; 0.0015 on an idle core
