"""Mechanisms compared image by image."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from attnbench.record import Record
from attnbench.report.paired import Compared, compare, holm, mcnemar, student_test
from attnbench.report.races import races
from attnbench.report.rows import named

Trained = Callable[..., list[Record]]
Outcomes = list[list[float]]


def of(records: list[Record]) -> Compared:
    (race,) = races(named(records), "accuracy")
    return compare(race)


def split(right: int, wrong: int) -> list[float]:
    return [1.0] * right + [0.0] * wrong


@pytest.mark.parametrize("count", range(9))
def test_mcnemars_test_is_the_share_of_all_flips_at_least_as_uneven(count: int) -> None:
    for better in range(count + 1):
        flips = [abs(sum(flip)) >= abs(2 * better - count) for flip in product((-1, 1), repeat=count)]
        assert mcnemar(better, count - better) == pytest.approx(sum(flips) / len(flips))


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=6), st.floats(0.001, 0.5))
def test_holms_correction_rejects_what_his_steps_reject(p: list[float], level: float) -> None:
    rejected = [False] * len(p)
    for step, index in enumerate(sorted(range(len(p)), key=lambda index: p[index])):
        if p[index] * (len(p) - step) >= level:
            break
        rejected[index] = True
    assert [corrected < level for corrected in holm(p)] == rejected
    assert all(corrected >= own for corrected, own in zip(holm(p), p, strict=True))


def test_students_test_is_scipys_and_without_scatter_that_of_signs() -> None:
    values = np.array([0.1, -0.2, 0.4, 0.3])
    t = values.mean() / (values.std(ddof=1) / 2)
    assert student_test(values) == pytest.approx(2 * stats.t.sf(t, 3))
    assert student_test(np.zeros(4)) == 1
    assert student_test(np.full(4, -0.5)) == 2 / 2**4  # all of one sign, or all of the other


def test_one_seed_of_right_and_wrong_is_compared_by_mcnemar_with_the_counts(trained: Trained) -> None:
    outcomes = {"focal": [split(10, 10)], "swin": [split(1, 0) + split(2, 7) + split(9, 1)]}
    (pair,) = of(trained(outcomes=outcomes)).pairs
    assert (pair.entrant.mechanism, pair.reference.mechanism, pair.images) == ("swin", "focal", 20)
    assert (pair.better_images, pair.worse_images, pair.test) == (9, 7, "McNemar")
    assert pair.seeds.mean == pytest.approx(0.1)
    assert pair.p_images == pair.p == mcnemar(9, 7)
    assert (pair.p_seeds, pair.seeds.interval, pair.verdict) == (None, None, "tie")
    assert pair.low < 0 < pair.high


@pytest.mark.parametrize(("right", "verdict"), [(60, "better"), (0, "worse"), (30, "tie")])
def test_a_difference_that_no_other_images_would_turn_is_told(trained: Trained, right: int, verdict: str) -> None:
    outcomes = {"focal": [split(30, 30)], "swin": [split(right, 60 - right)]}
    assert [pair.verdict for pair in of(trained(outcomes=outcomes)).pairs] == [verdict]


def test_seeds_are_averaged_image_by_image_before_images_are_drawn(trained: Trained) -> None:
    focal, swin = [[0.0, 0.0, 1.0], [0.0, 1.0, 1.0]], [[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    (pair,) = of(trained(outcomes={"focal": focal, "swin": swin})).pairs
    assert pair.seeds.values == pytest.approx((1 / 3, -1 / 3))
    assert (pair.better_images, pair.worse_images) == (1, 2)  # means 1, -1/2, -1/2
    assert pair.p_images == pytest.approx(stats.ttest_rel(np.mean(swin, axis=0), np.mean(focal, axis=0)).pvalue)


def test_seeds_that_contradict_each_other_are_a_tie_whatever_the_images(trained: Trained) -> None:
    focal = [split(200, 200)] * 3
    swin = [split(200 + more, 200 - more) for more in (120, 5, -20)]
    (pair,) = of(trained(outcomes={"focal": focal, "swin": swin})).pairs
    assert pair.p_images < 0.001 < 0.05 < (pair.p_seeds or 0)
    assert (pair.verdict, pair.p) == ("tie", pair.p_seeds)


def test_seeds_that_agree_are_told(trained: Trained) -> None:
    focal = [split(200, 200)] * 3
    swin = [split(200 + more, 200 - more) for more in (60, 65, 70)]
    (pair,) = of(trained(outcomes={"focal": focal, "swin": swin})).pairs
    assert pair.verdict == "better"
    assert pair.p_seeds == pytest.approx(stats.ttest_1samp([60, 65, 70], 0).pvalue)


def test_only_seeds_that_both_have_are_compared(trained: Trained) -> None:
    outcomes = {"focal": [split(5, 5), split(6, 4)], "swin": [split(6, 4), split(7, 3), split(0, 10)]}
    (pair,) = of(trained(outcomes=outcomes)).pairs
    assert pair.seeds.values == pytest.approx((0.1, 0.1))


def test_many_comparisons_are_corrected(trained: Trained) -> None:
    outcomes = {"focal": [split(10, 10)], **{name: [split(16, 4)] for name in "abc"}}
    found = of(trained(outcomes=outcomes)).pairs
    assert mcnemar(6, 0) < 0.05
    assert {pair.p for pair in found} == {3 * mcnemar(6, 0)}
    assert {pair.verdict for pair in found} == {"tie"}


def test_what_cannot_be_paired_is_left_out_with_the_reason(trained: Trained) -> None:
    found = of(trained(outcomes={"focal": [split(5, 5)], "short": [split(4, 5)], "none": [[]]}))
    assert {one.entrant.mechanism: one.why for one in found.left_out} == {
        "short": "another number of images",
        "none": "no outcomes per image",
    }
    assert found.pairs == ()


def test_records_without_outcomes_are_not_spoken_of(trained: Trained) -> None:
    found = of(trained(outcomes={"focal": [[]], "swin": [[]]}))
    assert (found.pairs, found.left_out) == ((), ())


def test_outcomes_that_do_not_average_to_the_headline_are_marked(trained: Trained) -> None:
    outcomes = {"focal": [split(5, 5)], "swin": [split(6, 4)]}
    (pair,) = of(trained(outcomes=outcomes, metric="box_ap", value=0.3)).pairs
    assert (pair.metric, pair.averages) == ("box_ap", False)
    (pair,) = of(trained(outcomes=outcomes)).pairs
    assert (pair.metric, pair.averages) == ("top1", True)


BITS = st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0])), min_size=2, max_size=30)


@given(BITS)
def test_swapping_the_two_negates_the_difference_and_keeps_p(values: list[tuple[float, float]]) -> None:
    one, other = (list(own) for own in zip(*values, strict=True))
    (forth,), (back,) = (of(_made(a, b)).pairs for a, b in ((one, other), (other, one)))
    assert forth.seeds.mean == pytest.approx(-back.seeds.mean, abs=1e-12)
    assert forth.p == pytest.approx(back.p)
    assert forth.better_images == back.worse_images
    assert forth.low <= forth.seeds.mean + 1e-12
    assert forth.seeds.mean <= forth.high + 1e-12


def test_equal_mechanisms_are_told_apart_one_time_in_twenty_at_most() -> None:
    generator = np.random.default_rng(0)
    difficulty = generator.random((400, 60))
    told = covered = 0
    for images in difficulty:
        one, other = ((generator.random(60) < images).astype(float).tolist() for _ in range(2))
        (pair,) = of(_made(one, other)).pairs
        told += pair.verdict != "tie"
        covered += pair.low <= 0 <= pair.high
    assert told / 400 <= 0.05
    assert 0.91 <= covered / 400 <= 0.98


def _made(one: list[float], other: list[float]) -> list[Record]:
    from attnbench.record import Cell, Measurement

    shared: dict[str, Any] = {"size": "nano", "resolution": (32, 32), "device": "cpu", "precision": "fp32"}
    shared |= {"threads": 1, "num_classes": 2, "task": "t", "seed": 0, "recipe": {}, "data": "d"}
    return [
        Record(
            Cell("accuracy", name, **shared),
            "ok",
            (Measurement("top1", sum(own) / len(own), "1", samples=tuple(own), kind="per image"),),
            {},
            "2025",
        )
        for name, own in (("a", one), ("b", other))
    ]
