"""Exponents and crossings against closed forms, and how often their intervals hold the truth."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from math import log, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnbench.config import Timing
from attnbench.measure.statistics import median_interval
from attnbench.record import Cell, Measurement, Record
from attnbench.report import crossover
from attnbench.report.bootstrap import TAILS, block_medians, student
from attnbench.report.growth import Exponent, Growth, growth
from attnbench.report.growth_text import section
from attnbench.report.ratios import could_turn, draws, nodes
from attnbench.report.series import series
from attnbench.store import load

SIDES = (64, 128, 256)
ROUNDS = 12
Cost = Callable[[int], float]  # of the number of pixels


def cell(mechanism: str, side: int, **more: Any) -> Cell:
    shared: dict[str, Any] = {"size": "nano", "device": "cpu", "precision": "fp32", "threads": 2, "num_classes": 3}
    return Cell(**{"probe": "macs", "mechanism": mechanism, "resolution": (side, side), **shared, **more})


def counted(mechanism: str, cost: Cost, sides: Sequence[int] = SIDES) -> list[Record]:
    return [
        Record(cell(mechanism, side), "ok", (Measurement("macs", cost(side * side), "MAC"),), {}, "2025")
        for side in sides
    ]


def timed(
    costs: Mapping[str, Cost],
    sides: Sequence[int] = SIDES,
    noise: float = 0.02,
    seed: int = 0,
    floor: float | None = 0.005,
    load: float = 0.0,
) -> list[Record]:
    """Rounds of two visits: each mechanism's own noise per round, and a load that a whole round shares."""
    generator = np.random.default_rng(seed)
    made = []
    for side in sides:
        shared = generator.normal(0, load, ROUNDS)
        for name, cost in costs.items():
            seconds = cost(side * side) * np.exp(shared + generator.normal(0, noise, ROUNDS))
            numbers = tuple(number for number in range(ROUNDS) for _ in range(2))
            item = Measurement(
                "latency", float(np.median(seconds)), "s", samples=tuple(np.repeat(seconds, 2)), rounds=numbers
            )
            promised = () if floor is None else (Measurement("noise_floor", floor, "1"),)
            one = cell(name, side, probe="latency", reference="a", timing=asdict(Timing()), batch_size=1)
            made.append(Record(one, "ok", (item, *promised), {}, f"at {side}"))
    return made


def exponents(records: Sequence[Record]) -> dict[str, Exponent]:
    return {f"{one.series.metric} {one.series.mechanism}": one for one in growth(records).exponents}


def only(found: Growth) -> Any:
    (pair,) = found.pairs
    return pair


# Exponents


@pytest.mark.parametrize("power", [0.5, 1.0, 1.37, 2.0])
def test_the_exponent_of_a_power_is_recovered_and_its_misfit_is_nothing(power: float) -> None:
    found = exponents(counted("a", lambda pixels: 3e5 * pixels**power))["macs a"]
    assert found.fit.value == pytest.approx(power, abs=1e-12)
    assert found.last.value == pytest.approx(power, abs=1e-12)
    assert found.basis == "misfit"
    assert found.fit.low == pytest.approx(power, abs=1e-6)
    assert found.fit.high == pytest.approx(power, abs=1e-6)


def test_a_sum_of_powers_shows_its_curvature_and_its_larger_power_at_the_large_end() -> None:
    found = exponents(counted("a", lambda pixels: 1e4 * pixels + pixels**2, (64, 128, 256, 512)))["macs a"]
    assert 1 < found.fit.value < found.last.value < 2
    assert found.fit.low is not None
    assert found.fit.high is not None
    assert found.fit.high - found.fit.low > 0.3


def test_students_interval_of_the_fit_is_that_of_scipys_regression() -> None:
    from scipy.stats import linregress

    sides = (64, 96, 128, 256)
    found = exponents(counted("a", lambda pixels: 1e4 * pixels + pixels**2, sides))["macs a"].fit
    x = [log(side * side) for side in sides]
    known = linregress(x, [log(1e4 * side**2 + side**4) for side in sides])
    half = student(2) * known.stderr
    assert (found.value, found.low, found.high) == pytest.approx((known.slope, known.slope - half, known.slope + half))


def test_two_counts_make_an_exponent_without_an_interval() -> None:
    found = exponents(counted("a", lambda pixels: 5.0 * pixels, (64, 128)))["macs a"]
    assert (found.basis, found.fit.low, found.fit.high) == ("two points", None, None)


def test_two_times_have_the_interval_of_their_rounds() -> None:
    found = exponents(timed({"a": lambda pixels: 1e-6 * pixels}, (64, 256)))["latency a"]
    assert found.basis == "two points"
    assert found.fit.low is not None
    assert found.fit.high is not None
    assert found.fit.low < found.fit.value < found.fit.high < found.fit.low + 0.05


def test_the_wider_of_misfit_and_rounds_is_shown_and_named() -> None:
    curved = exponents(timed({"a": lambda pixels: 1e-6 * pixels + 1e-10 * pixels**2}, noise=1e-4))["latency a"]
    assert curved.basis == "misfit"

    def scattered(record: Record) -> Record:  # about a median that the power fits
        latency, *others = record.measurements
        logs = np.repeat(np.linspace(-0.3, 0.3, ROUNDS), 2)
        return replace(record, measurements=(replace(latency, samples=tuple(latency.value * np.exp(logs))), *others))

    flat = timed({"a": lambda pixels: 1e-6 * pixels}, noise=0)
    noisy = exponents([scattered(record) for record in flat])["latency a"]
    assert noisy.basis == "rounds"
    assert noisy.fit.low is not None
    assert noisy.fit.low < 0.9


def test_one_resolution_makes_no_series_and_failures_are_left_out() -> None:
    records = counted("a", lambda pixels: 5.0 * pixels)
    assert growth(records[:1]) == Growth((), ())
    failed = [records[0], *(replace(record, status="failed", measurements=()) for record in records[1:])]
    assert growth(failed) == Growth((), ())


def test_series_never_mix_settings() -> None:
    records = [
        replace(record, cell=replace(record.cell, **field))
        for field in ({"threads": 1}, {"threads": 2}, {"precision": "bf16"}, {"size": "tiny"})
        for record in counted("a", lambda pixels: 5.0 * pixels) + counted("b", lambda pixels: 6.0 * pixels)
    ]
    found = growth(records)
    assert len(found.exponents) == 8
    assert len(found.pairs) == 4
    assert all(pair.first.setting == pair.second.setting for pair in found.pairs)


def test_ratios_to_the_anchor_take_a_change_of_load_between_resolutions_out() -> None:
    records = timed({"a": lambda pixels: 1e-6 * pixels}, (64, 256))
    loads = {64: 1.0, 256: 1.5}

    def anchored(record: Record) -> Record:
        side = record.cell.resolution[0]
        latency, floor = record.measurements
        slowed = replace(latency, samples=tuple(loads[side] * each for each in latency.samples))
        ratio = 1e-3 * side * side
        return replace(
            record, measurements=(slowed, floor, Measurement("anchor_ratio", ratio, "1", 0.98 * ratio, ratio / 0.98))
        )

    found = exponents([anchored(record) for record in records])["latency a"].fit
    assert found.value == pytest.approx(1, abs=1e-12)
    half = sqrt(2) * log(1 / 0.98) / log(16)  # two independent ends, over the distance between them
    assert found.low == pytest.approx(1 - half, abs=0.1 * half)
    # One resolution without an anchor: none is anchored.
    mixed = exponents([anchored(records[0]), records[1]])["latency a"].fit
    assert mixed.value == pytest.approx(1, abs=0.02)


def test_draws_have_the_interval_that_the_statistics_of_rounds_give() -> None:
    seconds = np.exp(np.random.default_rng(1).normal(0, 0.1, 24))
    draws = block_medians(list(np.log(seconds)), seed=0)
    known = median_interval(list(seconds))
    assert draws is not None
    assert known.low is not None
    assert known.high is not None
    assert np.quantile(draws, TAILS) == pytest.approx([log(known.low), log(known.high)], rel=0.05)
    assert block_medians([1.0, 2.0], seed=0) is None
    # Three launches that differ more than their rounds do: few blocks, and an interval that is that much wider.
    launched = list(np.repeat([0.0, 0.1, -0.1], 8) + np.random.default_rng(2).normal(0, 0.001, 24))
    blind, aware = (block_medians(launched, 0, launches) for launches in (1, 3))
    assert blind is not None
    assert aware is not None
    assert np.ptp(np.quantile(aware, TAILS)) > 1.5 * np.ptp(np.quantile(blind, TAILS))


def test_launches_that_a_record_tells_of_make_the_blocks() -> None:
    def launched(record: Record) -> Record:
        item, *others = record.measurements
        shifts = np.exp(np.repeat([0.0, 0.1, -0.1], 2 * ROUNDS // 3))
        samples = tuple(np.array(item.samples) * shifts)
        return replace(
            record, measurements=(replace(item, samples=samples), *others), environment={"launches": [0, 4, 8]}
        )

    def width(records: list[Record]) -> float:
        fit = exponents(records)["latency a"].fit
        assert fit.low is not None
        assert fit.high is not None
        return fit.high - fit.low

    aware = [launched(record) for record in timed({"a": linear}, (64, 256), noise=0.001)]
    blind = [replace(record, environment={}) for record in aware]
    assert width(aware) > 1.2 * width(blind)


def test_the_interval_of_rounds_holds_the_true_exponent_as_often_as_it_says() -> None:
    held = 0
    for seed in range(100):
        fit = exponents(timed({"a": lambda pixels: 1e-6 * pixels**1.5}, (64, 256), 0.05, seed))["latency a"].fit
        assert fit.low is not None
        assert fit.high is not None
        held += fit.low <= 1.5 <= fit.high
    assert held >= 92


# Crossings


def linear(pixels: int) -> float:
    return 1e-6 * pixels


def quadratic(pixels: int) -> float:
    return 1e-6 * pixels**2 / 100**2  # as much as the linear one at 100 x 100


def test_two_counts_cross_where_their_powers_are_equal() -> None:
    pair = only(growth(counted("a", linear) + counted("b", quadratic)))
    (crossing,) = pair.crossings
    assert crossing.side == pytest.approx(100)  # powers are straight lines on logarithms: interpolation is exact
    assert (crossing.below, crossing.above) == ("b", "a")
    assert (crossing.low, crossing.high, crossing.share, crossing.certain) == (None, None, None, True)
    assert pair.sides == SIDES


def test_nothing_is_said_beyond_the_measured_resolutions() -> None:
    pair = only(growth(counted("a", linear, (128, 256)) + counted("b", quadratic, (128, 256))))
    assert pair.crossings == ()
    assert pair.cheaper == "a"
    assert pair.sides == (128, 256)


def test_costs_can_cross_twice_and_equal_costs_do_not() -> None:
    costs = {64 * 64: 2.0, 128 * 128: 0.5, 256 * 256: 2.0}
    pair = only(growth(counted("a", lambda _: 1.0) + counted("b", costs.__getitem__)))
    assert [(round(one.side, 3), one.below) for one in pair.crossings] == [(90.510, "a"), (181.019, "b")]
    same = only(growth(counted("a", linear) + counted("b", linear)))
    assert (same.crossings, same.cheaper, same.certain) == ((), None, True)


def test_costs_equal_at_a_measured_resolution_cross_there() -> None:
    costs = {64 * 64: 2.0, 128 * 128: 1.0, 256 * 256: 0.5}
    pair = only(growth(counted("a", lambda _: 1.0) + counted("b", costs.__getitem__)))
    assert [one.side for one in pair.crossings] == pytest.approx([128])


def test_times_of_the_same_rounds_are_paired_so_that_a_shared_load_does_not_widen_the_crossing() -> None:
    records = timed({"a": linear, "b": quadratic}, load=0.5, noise=0.01)
    (paired,) = only(growth(records)).crossings
    apart = [replace(r, started="later") if r.cell.mechanism == "b" else r for r in records]
    other = only(growth(apart))
    assert paired.certain
    assert paired.low < 100 < paired.high < paired.low + 3
    assert only(growth(records)).together
    assert not other.together
    assert all(one.high is None or one.low is None or one.high - one.low > 20 for one in other.crossings)


def test_a_crossing_near_the_edge_or_within_the_noise_is_uncertain() -> None:
    def nearly(pixels: int) -> float:
        return linear(pixels) * (1 + 0.01 * (pixels / 66**2 - 1))  # meets the linear one at 66

    costs = {"a": linear, "b": nearly}
    (edge,) = only(growth(timed(costs, noise=0.01, seed=1))).crossings
    assert edge.share < 0.95
    assert not edge.certain
    (hidden,) = only(growth(timed({"a": linear, "b": quadratic}, floor=5.0))).crossings
    assert hidden.share == 1
    assert not hidden.certain
    (unknown,) = only(growth(timed({"a": linear, "b": quadratic}, floor=None))).crossings
    assert not unknown.certain


def test_a_crossing_back_needs_an_order_of_its_own_that_leaves_the_noise_floor() -> None:
    ratios = {64 * 64: 2.0, 128 * 128: 0.99, 256 * 256: 1.01, 512 * 512: 2.0}
    costs = {"a": linear, "b": lambda pixels: linear(pixels) * ratios[pixels]}
    records = timed(costs, (64, 128, 256, 512), noise=1e-5, floor=0.02)
    assert [(one.share, one.certain) for one in only(growth(records)).crossings] == [(1, False), (1, False)]
    quiet = timed(costs, (64, 128, 256, 512), noise=1e-5, floor=0.001)
    assert [one.certain for one in only(growth(quiet)).crossings] == [True, True]


def test_an_order_that_noise_could_turn_round_is_uncertain_too() -> None:
    close = only(growth(timed({"a": linear, "b": lambda pixels: 1.02 * linear(pixels)}, noise=0.001, floor=0.03)))
    apart = only(growth(timed({"a": linear, "b": lambda pixels: 1.2 * linear(pixels)}, noise=0.001, floor=0.03)))
    assert (close.cheaper, close.certain) == ("a", False)
    assert (apart.cheaper, apart.certain) == ("a", True)


def test_the_order_of_the_two_mechanisms_moves_neither_crossing_nor_interval() -> None:
    records = timed({"a": linear, "b": quadratic}, noise=0.05)
    (one,) = only(growth(records)).crossings
    (other,) = only(growth(sorted(records, key=lambda record: record.cell.mechanism, reverse=True))).crossings
    assert one.side == pytest.approx(other.side)
    assert (one.low, one.high) == pytest.approx((other.low, other.high))
    assert (one.below, one.above, one.share, one.certain) == (other.below, other.above, other.share, other.certain)


def test_the_interval_of_a_crossing_holds_the_truth_as_often_as_it_says() -> None:
    held = 0
    for seed in range(60):
        (crossing,) = only(growth(timed({"a": linear, "b": quadratic}, (64, 256), 0.05, seed))).crossings
        assert crossing.low is not None
        assert crossing.high is not None
        held += crossing.low <= 100 <= crossing.high
    assert held >= 55


# Bounds of the work


@pytest.mark.parametrize("launches", [1, 4])
def test_a_ratio_that_could_not_turn_does_not_in_any_draw(launches: int) -> None:
    firm = 0
    for seed in range(60):
        records = timed({"a": linear, "b": lambda pixels: 1.03 * linear(pixels)}, (64, 256), 0.02, seed)
        launched = [replace(one, environment={"launches": list(range(launches))}) for one in records]
        for node in nodes(*series(launched)):
            if not could_turn(node):
                firm += 1
                assert (draws(node) * node.ratio > 0).all()
    assert 5 < firm < 115


def test_of_many_mechanisms_only_pairs_with_the_reference_are_compared_and_of_more_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ["b", "a", "c", "d", "e"]  # the reference of times is a
    records = timed({name: lambda pixels: 1e-6 * pixels for name in names}, (64, 256))
    assert (len(growth(records).pairs), growth(records).left_out) == (10, ())
    monkeypatch.setattr(crossover, "EVERY_PAIR", 4)
    some = growth(records)
    assert [(pair.first.mechanism, pair.second.mechanism) for pair in some.pairs] == [
        *(("b", "a"), ("a", "c"), ("a", "d"), ("a", "e"))
    ]
    assert "Left out: of 5 mechanisms only pairs with a are compared (inference time)" in section(some)
    monkeypatch.setattr(crossover, "ANY_PAIR", 4)
    assert growth(records).pairs == ()
    assert "Left out: of 5 mechanisms no pair is compared (inference time)" in section(growth(records))


def test_beyond_the_bound_noise_is_normal_and_intervals_stay_about_as_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    records = timed({"a": linear, "b": quadratic}, noise=0.02, seed=3)
    drawn = growth(records)
    monkeypatch.setattr(crossover, "DRAWN", 0)
    monkeypatch.setattr("attnbench.report.growth.DRAWN", 0)
    spared = growth(records)
    assert (drawn.normal_points, drawn.normal_ratios) == (0, 0)
    assert (spared.normal_points, spared.normal_ratios) == (6, 3)
    assert "noise is taken to be normal instead of drawn: of all 6 times" in section(spared)
    (one,), (other,) = only(drawn).crossings, only(spared).crossings
    assert (one.side, one.certain) == (other.side, other.certain)
    assert other.high - other.low == pytest.approx(one.high - one.low, rel=0.5)
    for here, there in zip(drawn.exponents, spared.exponents, strict=True):
        assert here.last.low is not None
        assert there.last.low is not None
        assert here.last.value - here.last.low == pytest.approx(there.last.value - there.last.low, rel=0.6)


def test_a_run_of_two_resolutions_says_how_its_costs_grew(costs: Path) -> None:
    found = growth(load(costs))
    assert len(found.exponents) == 8
    for one in found.exponents:
        assert one.fit.value == pytest.approx(1)
        assert one.basis == "two points"
        assert (one.fit.low is not None) == (one.series.metric == "latency")
    assert {(pair.first.metric, pair.cheaper, pair.certain, pair.together) for pair in found.pairs} == {
        (metric, "swin", True, True) for metric in ("macs", "latency", "peak_memory_inference", "peak_memory_training")
    }
