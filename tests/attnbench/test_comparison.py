"""Two runs compared: what is told apart, what is a tie, what is refused."""

from collections.abc import Sequence
from dataclasses import replace
from math import exp, hypot, inf, log, log1p
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attnbench.comparison import Compared, Comparison, compare
from attnbench.errors import UserError
from attnbench.hardware import hardware_difference
from attnbench.record import METRICS, Cell, Measurement, Probe, Record, Status
from attnbench.store import load

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
HERE = {"machine": "x86_64", "cpu": "AMD EPYC", "cores": 2}
OPPOSITE = {"faster": "slower", "less": "more", "lower": "higher", "mended": "failed"}
OPPOSITE |= {value: key for key, value in OPPOSITE.items()}


def cell(probe: Probe, **more: Any) -> Cell:
    shared: dict[str, Any] = {"size": "nano", "device": "cpu", "precision": "fp32", "threads": 2, "num_classes": 3}
    return Cell(**{"probe": probe, "mechanism": "swin", "resolution": (224, 224), **shared, **more})


def record(one: Cell, *items: Measurement, status: Status = "ok", environment: dict[str, Any] | None = None) -> Record:
    error = None if status == "ok" else "went wrong"
    return Record(one, status, items, HERE if environment is None else environment, "2025", error)


def near(metric: str, value: float, half: float, unit: str = "1") -> Measurement:
    """A measurement with a 95 % interval of that half-width on the logarithmic scale."""
    return Measurement(metric, value, unit, value * exp(-half), value * exp(half))


def timing(
    seconds: float, anchored: float | None = None, half: float = 0.01, floor: float | None = 0.01, **more: Any
) -> Record:
    items = [near("latency", seconds, half, "s")]
    items += [] if anchored is None else [near("anchor_ratio", anchored, half)]
    items += [] if floor is None else [Measurement("noise_floor", floor, "1")]
    return record(
        cell("latency", **{"batch_size": 1, "reference": "swin", "timing": {"max_rounds": 40}, **more}), *items
    )


def counted(metric: str, value: float, probe: Probe = "macs", kind: str | None = None, **more: Any) -> Record:
    return record(cell(probe, **more), Measurement(metric, value, METRICS[metric].unit, kind=kind))


def scored(*values: float, first_seed: int = 0) -> list[Record]:
    return [
        record(cell("accuracy", seed=seed, recipe={"samples": 8}), Measurement("top1", value, "1"))
        for seed, value in enumerate(values, first_seed)
    ]


def only(found: Compared) -> Comparison:
    (row,) = found.rows
    return row


# Times


def test_a_time_is_compared_by_its_ratio_to_the_anchor_and_the_raw_one_is_told() -> None:
    row = only(compare([timing(0.1, anchored=2.0)], [timing(0.3, anchored=2.2)]))
    assert row.change == pytest.approx(1.1)  # the machine was nearly three times slower: that is not the code
    assert row.raw == pytest.approx(3)
    assert (row.verdict, row.regression, row.notes) == ("slower", True, ())


def test_independent_errors_add_in_quadrature() -> None:
    row = only(compare([timing(0.1, 2.0, half=0.03)], [timing(0.1, 2.0, half=0.04)]))
    assert (row.low, row.high) == pytest.approx((exp(-hypot(0.03, 0.04)), exp(0.05)))


@pytest.mark.parametrize(("half", "floor"), [(0.2, 0.0), (0.001, 0.12)])
def test_no_verdict_is_given_within_the_interval_or_the_noise_floor(half: float, floor: float) -> None:
    row = only(compare([timing(1, 1.0, half, floor)], [timing(1, 1.1, half, 0.0)]))
    assert (row.verdict, row.regression) == ("tie", False)
    assert row.worse == pytest.approx(0.1)
    assert only(compare([timing(1, 1.0, half, floor)], [timing(1, 1.4, half, 0.0)])).verdict == "slower"


@pytest.mark.parametrize("without", ["a", "b", "both"])
def test_without_an_anchor_times_are_compared_as_measured_with_a_warning(without: str) -> None:
    a = timing(1.0, None if without in ("a", "both") else 2.0)
    row = only(compare([a], [timing(1.2, None if without in ("b", "both") else 2.0)]))
    assert row.change == row.raw == pytest.approx(1.2)
    assert row.notes == ("not corrected for the machine's state",)
    assert row.regression


def test_ratios_to_different_anchors_are_not_compared() -> None:
    def on(record: Record, anchor: str) -> Record:
        items = (replace(m, kind=anchor) if m.metric == "anchor_ratio" else m for m in record.measurements)
        return replace(record, measurements=tuple(items))

    row = only(compare([on(timing(1.0, 2.0), "v1")], [on(timing(1.0, 9.0), "v2")]))
    assert row.change == 1


def test_a_time_without_interval_or_without_noise_floor_has_no_verdict() -> None:
    bare = record(timing(1).cell, Measurement("latency", 2.0, "s"), Measurement("noise_floor", 0.01, "1"))
    assert only(compare([timing(1)], [bare])).verdict == "tie"
    assert only(compare([timing(1, floor=None)], [timing(2)])).verdict == "tie"


def test_a_time_without_a_floor_of_its_own_has_the_greatest_of_its_run() -> None:
    step = record(cell("training_step", batch_size=1), near("training_step", 1.0, 0.001, "s"))
    slower = record(cell("training_step", batch_size=1), near("training_step", 1.1, 0.001, "s"))
    for floor, verdict in ((0.2, "tie"), (0.05, "slower")):
        found = compare([step, timing(1, floor=floor)], [slower, timing(1)])
        assert next(row for row in found.rows if row.metric == "training_step").verdict == verdict


def test_throughput_is_compared_as_the_time_of_an_image() -> None:
    one = cell("best_batch")
    a, b = (record(one, near("best_throughput", value, 0.01, "img/s")) for value in (100.0, 50.0))
    row = only(compare([a, timing(1, mechanism="x")], [b, timing(1, mechanism="y")]))
    assert (row.verdict, row.change, row.regression) == ("slower", 2.0, True)


def test_the_threshold_parts_a_slowdown_from_a_regression() -> None:
    a, b = [timing(1, 1.0, 0.001, 0.001)], [timing(1, 1.04, 0.001, 0.001)]
    assert [compare(a, b, share).regressions for share in (0.05, 0.03)] == [0, 1]
    assert only(compare(a, b)).verdict == "slower"


@settings(max_examples=50)
@example(  # squares of the scores' variances are 0
    anchors=(1, 1), halves=(0.5, 0.5), floors=(0, 0), counts=(0, 0), scores=([0, 0], [0, 3e-111]), status=("ok", "ok")
)
@given(
    anchors=st.tuples(*[st.floats(0.1, 10)] * 2),
    halves=st.tuples(*[st.floats(0.001, 0.5)] * 2),
    floors=st.tuples(*[st.floats(0, 0.5)] * 2),
    counts=st.tuples(*[st.integers(0, 9)] * 2),
    scores=st.tuples(*[st.lists(st.floats(0, 1), min_size=1, max_size=4)] * 2),
    status=st.tuples(*[st.sampled_from(["ok", "failed", "timeout"])] * 2),
)
def test_comparing_the_other_way_round_inverts_everything(
    anchors: Any, halves: Any, floors: Any, counts: Any, scores: Any, status: Any
) -> None:
    runs = [
        [
            timing(2.0, anchors[run], halves[run], floors[run]),
            counted("macs", counts[run]),
            counted("peak_rss", 1 + counts[run], "memory_training"),
            counted("largest_batch_size", 1 + counts[run], "best_batch"),
            record(cell("training"), status=status[run]),
            *scored(*scores[run]),
        ]
        for run in (0, 1)
    ]
    there, back = (
        {(row.cell.probe, row.metric): row for row in compare(*pair).rows}
        for pair in ((runs[0], runs[1]), (runs[1], runs[0]))
    )
    assert there.keys() == back.keys()
    for name, row in there.items():
        other = back[name]
        assert other.verdict == OPPOSITE.get(row.verdict, row.verdict)
        assert other.worse == pytest.approx(-row.worse)
        assert (other.a, other.b) == (row.b, row.a)
        assert not (row.regression and other.regression)
        if row.change is not None and row.low is not None and row.high is not None:
            scored_one = row.cell.probe == "accuracy"
            turned = [-x if scored_one else 1 / x for x in (row.change, row.high, row.low)]
            assert [other.change, other.low, other.high] == pytest.approx(turned)


@given(st.floats(0.2, 5), st.floats(0.001, 0.3), st.floats(0.001, 0.3), st.floats(0, 0.3))
def test_a_verdict_stands_outside_both_interval_and_floor(ratio: float, one: float, two: float, floor: float) -> None:
    row = only(compare([timing(1, 1.0, one, floor)], [timing(1, ratio, two, 0.0)]))
    assert row.low is not None
    assert row.high is not None
    assert (row.verdict == "tie") == (abs(log(ratio)) <= max(hypot(one, two), log1p(floor)))
    assert row.verdict == "tie" or not row.low <= 1 <= row.high


def test_equal_code_is_called_a_tie_as_often_as_the_level_says() -> None:
    generator = np.random.default_rng(0)
    half = 0.03
    errors = generator.normal(0, half / 1.96, (250, 2))
    rows = [only(compare([timing(1, exp(a), half, 0)], [timing(1, exp(b), half, 0)])) for a, b in errors]
    ties = sum(row.verdict == "tie" for row in rows)
    assert 0.92 * 250 <= ties <= 0.98 * 250


# Counts, memory, scores, failures


def test_counts_and_ledgers_are_exact() -> None:
    assert only(compare([counted("macs", 1e9)], [counted("macs", 1e9)])).verdict == "equal"
    row = only(compare([counted("macs", 1e9)], [counted("macs", 1e9 + 1)]))
    assert (row.verdict, row.regression) == ("more", False)
    ledger = [counted("peak_memory_training", value, "memory_training", "ledger") for value in (100, 110)]
    assert only(compare(ledger[:1], ledger[1:])).regression


def test_memory_of_different_kinds_is_not_compared() -> None:
    a, b = (counted("peak_memory_training", 9, "memory_training", kind) for kind in ("ledger", "cuda_allocated"))
    row = only(compare([a], [b]))
    assert (row.verdict, row.change) == ("seen", None)


def test_what_was_nothing_and_is_something_is_infinitely_worse() -> None:
    row = only(compare([counted("macs", 0)], [counted("macs", 5)]))
    assert (row.change, row.worse, row.regression) == (None, inf, True)


@pytest.mark.parametrize(("factor", "verdict"), [(1.14, "tie"), (0.88, "tie"), (1.2, "more"), (0.8, "less")])
def test_process_memory_is_a_tie_within_its_noise(factor: float, verdict: str) -> None:
    a, b = (counted("peak_rss", value, "memory_training") for value in (100, 100 * factor))
    assert only(compare([a], [b])).verdict == verdict


def test_a_smaller_largest_batch_is_worse() -> None:
    a, b = (counted("largest_batch_size", value, "best_batch") for value in (64, 32))
    row = only(compare([a], [b]))
    assert (row.verdict, row.regression) == ("less", True)


def test_second_opinions_and_parts_are_told_and_not_judged() -> None:
    for metric in ("macs_closed_form", "macs_mlp", "predicted_memory_training"):
        row = only(compare([counted(metric, 100)], [counted(metric, 200)]))
        assert (row.verdict, row.regression) == ("seen", False)


def test_single_seeds_are_indicative_and_never_a_regression() -> None:
    row = only(compare(scored(1.0), scored(0.2)))
    assert (row.verdict, row.regression) == ("seen", False)
    assert row.change == pytest.approx(-0.8)


def test_several_seeds_have_welchs_interval_of_the_difference() -> None:
    from scipy.stats import ttest_ind

    a, b = (0.80, 0.82, 0.81, 0.79), (0.60, 0.66, 0.61)
    row = only(compare(scored(*a), scored(*b, first_seed=7)))
    known = ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    assert (row.low, row.high) == pytest.approx((known.low, known.high))
    assert (row.verdict, row.regression, row.cell.seed) == ("lower", True, None)
    near_by = only(compare(scored(*a), scored(0.78, 0.83, 0.80)))
    assert near_by.verdict == "tie"


def test_a_cell_that_fails_now_is_a_regression_and_one_that_works_now_is_none() -> None:
    ok, lost = counted("macs", 1), record(cell("macs"), status="out_of_memory", environment={})
    broken, mended = only(compare([ok], [lost], 9.0)), only(compare([lost], [ok]))
    assert (broken.verdict, broken.regression) == ("failed", True)
    assert broken.notes == ("ok -> out_of_memory", "went wrong")
    assert (mended.verdict, mended.regression) == ("mended", False)
    assert only(compare([lost], [lost])).verdict == "equal"


def test_the_worst_comes_first() -> None:
    a = [timing(1, 1.0, mechanism=name) for name in "xyz"]
    b = [timing(1, ratio, mechanism=name) for name, ratio in zip("xyz", (0.5, 1.5, 1.2), strict=True)]
    assert [row.cell.mechanism for row in compare(a, b).rows] == ["y", "z", "x"]


# Which cells, which machines


def test_timings_match_whatever_their_stopping_rule_and_reference_and_the_difference_is_told() -> None:
    found = compare([timing(1)], [timing(1, reference="focal", timing={"max_rounds": 9})])
    assert only(found).metric == "latency"
    assert (found.only_a, found.only_b) == ((), ())
    assert found.differences == {"reference": "swin and focal", "timing.max_rounds": "40 and 9"}


def test_an_equal_key_matches_before_a_similar_one() -> None:
    short, long = timing(1), timing(5, timing={"max_rounds": 9})
    found = compare([short, long], [long, short])
    assert [row.raw for row in found.rows] == [1, 1]


@pytest.mark.parametrize("field", [{"batch_size": 2}, {"settings": {"window": 14}}, {"resolution": (64, 64)}])
def test_other_work_is_listed_as_in_only_one_run(field: dict[str, Any]) -> None:
    macs = counted("macs", 1)
    found = compare([macs, timing(1)], [macs, timing(1, **field)])
    assert [one.probe for one in found.only_a] == ["latency"]
    assert found.only_b == (timing(1, **field).cell,)
    assert only(found).metric == "macs"


def test_the_latest_record_of_a_cell_counts() -> None:
    found = compare([counted("macs", 9), counted("macs", 1)], [counted("macs", 1)])
    assert only(found).verdict == "equal"


@pytest.mark.parametrize(("name", "other"), [("cpu", "Intel Xeon"), ("machine", "arm64"), ("gpu", "H200")])
def test_times_of_different_hardware_are_refused_with_the_difference_named(name: str, other: str) -> None:
    here = {**HERE, "gpu": "H100"}
    a, b = replace(timing(1), environment=here), replace(timing(1), environment={**here, name: other})
    with pytest.raises(UserError, match=f"different hardware: {name} '{here[name]}' and '{other}'; .*--any-hardware"):
        compare([a, counted("macs", 1)], [b, counted("macs", 1)])
    rss = counted("peak_rss", 9, "memory_training")
    with pytest.raises(UserError, match="different hardware"):
        compare([replace(rss, environment=here)], [replace(rss, environment={**here, name: other})])


@pytest.mark.parametrize(("name", "other"), [("device", "cuda"), ("threads", 4)])
def test_times_of_another_device_or_other_threads_are_refused(name: str, other: Any) -> None:
    changed = {name: other}
    with pytest.raises(UserError, match=f"different hardware: {name} "):
        compare([timing(1), counted("macs", 1)], [timing(1, **changed), counted("macs", 1, **changed)])


def test_a_device_that_one_run_has_besides_is_no_difference() -> None:
    found = compare([timing(1), timing(1, device="cuda")], [timing(1)])
    assert [one.device for one in found.only_a] == ["cuda"]


def test_counts_alone_may_come_from_different_hardware() -> None:
    a = replace(counted("macs", 1), environment={**HERE, "cpu": "another"})
    found = compare([a], [counted("macs", 1)])
    assert only(found).verdict == "equal"
    assert found.differences == {"cpu": "another and AMD EPYC"}


def test_on_any_hardware_all_but_times_and_process_memory_is_compared() -> None:
    def run(**more: Any) -> list[Record]:
        memory = record(
            cell("memory_training", **more),
            Measurement("peak_memory_training", 7, "B", kind="ledger"),
            Measurement("peak_rss", 9, "B"),
        )
        return [timing(1, **more), memory, counted("macs", 1, **more), *scored(0.5)]

    found = compare(run(), run(device="cuda", threads=9), any_hardware=True)
    assert sorted(row.metric for row in found.rows) == ["macs", "peak_memory_training", "top1"]
    assert (found.only_a, found.only_b) == ((), ())
    assert found.differences == {"device": "cpu and cuda", "threads": "2 and 9"}


def test_runs_without_a_common_cell_are_refused() -> None:
    with pytest.raises(UserError, match="no cell is in both"):
        compare([counted("macs", 1)], [counted("macs", 1, mechanism="pvt")])


def test_software_that_differs_is_told() -> None:
    a = replace(counted("macs", 1), environment={**HERE, "versions": {"torch": "2.1"}, "tf32": False, "load": 0.5})
    b = replace(counted("macs", 1), environment={**HERE, "versions": {"torch": "2.2"}, "tf32": True, "load": 9.5})
    assert compare([a], [b]).differences == {"torch": "2.1 and 2.2", "tf32": "False and True"}


def test_what_an_environment_does_not_tell_is_no_difference_of_hardware() -> None:
    assert hardware_difference({}, HERE) is None
    assert hardware_difference(HERE, {**HERE, "gpu": "H100", "cores": 64}) is None
    assert hardware_difference({"gpu": "H100"}, {"gpu": "A100"}) == "gpu 'H100' and 'A100'"


def test_a_run_is_equal_to_itself() -> None:
    records: Sequence[Record] = load(REFERENCE)
    found = compare(records, records)
    assert {row.verdict for row in found.rows} <= {"equal", "tie", "seen"}
    assert (found.regressions, found.only_a, found.only_b, found.differences) == (0, (), (), {})
    assert all(row.change == 1 for row in found.rows if row.cell.probe != "accuracy")


def training(score: float, wait: float, speed: float) -> Record:
    items = [
        Measurement("train_loss", score, "1", samples=(1.0, score)),
        *(Measurement("train_time", 100 / speed, "s"), Measurement("train_throughput", speed, "img/s")),
        *(Measurement("data_wait", wait, "1"), Measurement("loader_throughput", 2 * speed, "img/s")),
        Measurement("box_ap", score, "1", samples=(score / 2, score), rounds=(8, 16), kind="curve"),
    ]
    return record(cell("training", seed=0, task="detection", head="retinanet", recipe={"samples": 8}), *items)


def test_curves_and_what_depends_on_the_machines_load_are_not_compared() -> None:
    found = compare([training(0.4, 0.01, 200), counted("macs", 1e6)], [training(0.1, 0.9, 20), counted("macs", 1e6)])
    assert [row.metric for row in found.rows] == ["macs"]
    assert found.regressions == 0


@pytest.mark.parametrize(("metric", "head"), [("box_ap", "retinanet"), ("miou", "upernet")])
def test_the_headline_of_every_task_is_compared_head_by_head(metric: str, head: str) -> None:
    def run(head: str, *values: float) -> list[Record]:
        one = [cell("accuracy", seed=seed, head=head, recipe={"samples": 8}) for seed in range(len(values))]
        return [record(a, Measurement(metric, value, "1")) for a, value in zip(one, values, strict=True)]

    a = run(head, 0.50, 0.51, 0.50) + run("other", 0.30, 0.31, 0.30)
    b = run(head, 0.40, 0.41, 0.40) + run("other", 0.30, 0.31, 0.30)
    found = compare(a, b)
    assert [(row.metric, row.cell.head, row.verdict) for row in found.rows] == [
        (metric, head, "lower"),
        (metric, "other", "tie"),
    ]
    assert found.regressions == 1
