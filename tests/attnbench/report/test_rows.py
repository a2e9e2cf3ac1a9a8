"""From records to rows: which cells meet in one row, and what is kept apart."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from attnbench.record import Measurement, Record
from attnbench.report.rows import COLUMNS, identity, rows
from attnbench.report.spread import spreads, winners

Run = Callable[..., list[Record]]
Spoil = Callable[..., list[Record]]


LATER = COLUMNS[COLUMNS.index("verdict") + 1 :]


def only(records: list[Record], **where: Any) -> dict[str, Any]:
    found = [row for row in rows(records) if all(row[name] == value for name, value in where.items())]
    assert len(found) == 1
    return found[0]


def cost_of(records: list[Record]) -> list[Record]:
    return [record for record in records if record.cell.probe not in ("accuracy", "training")]


def test_a_run_gives_one_row_per_mechanism_and_resolution_in_order(run: Run) -> None:
    found = rows(run(["swin", "focal"], [(448, 448), (224, 224), (224, 300)]))
    assert [(row["mechanism"], row["resolution"]) for row in found] == [
        (name, list(resolution)) for name in ("swin", "focal") for resolution in ((224, 224), (224, 300), (448, 448))
    ]
    assert {tuple(row) for row in found} == {COLUMNS}


def test_a_row_holds_every_value_of_its_cells(run: Run) -> None:
    assert only(run(seeds=2), mechanism="swin", resolution=[448, 448]) == {
        "mechanism": "swin",
        "size": "nano",
        "task": "classification",
        "head": None,
        "resolution": [448, 448],
        "status": "ok",
        "reason": None,
        "parameters": 2_300_000,
        "macs": 1_600_000_000,
        "latency_s": pytest.approx(0.0176),
        "throughput_img_per_s": pytest.approx(1 / 0.0176),
        "time_ratio": 1.1,
        "time_ratio_low": pytest.approx(1.085),
        "time_ratio_high": pytest.approx(1.115),
        "reference": "focal",
        "peak_memory_inference_B": pytest.approx(132 * 2**20),
        "peak_memory_training_B": pytest.approx(528 * 2**20),
        "memory_kind": "ledger",
        "batch_size": 1,
        "precision": "fp32",
        "device": "cpu",
        "threads": 2,
        "headline_metric": "top1",
        "headline_value": pytest.approx(0.525),
        "train_resolution": [224, 224],
        "transfer": True,
        "seeds": 2,
        **dict.fromkeys(LATER),  # what these records do not hold
        "verdict": "slower",
        "noise_floor": 0.01,
    }


def test_counts_are_integers(run: Run) -> None:
    row = rows(run())[0]
    assert [type(row[name]) for name in ("parameters", "macs", "peak_memory_inference_B")] == [int, int, int]


def test_a_score_at_the_training_resolution_is_no_transfer(run: Run) -> None:
    assert [row["transfer"] for row in rows(run(["focal"]))] == [False, True]
    assert [row["transfer"] for row in rows(run(["focal"], each=True))] == [False, False]


def test_without_accuracy_a_row_has_no_score_and_no_task(run: Run) -> None:
    found = rows(cost_of(run(["focal"])))
    assert len(found) == 2
    for row in found:
        names = ("task", "headline_metric", "headline_value", "train_resolution", "transfer", "seeds")
        assert [row[name] for name in names] == [None] * 6
        assert row["status"] == "ok"


def test_a_cost_cells_own_task_stands_in_its_row(run: Run) -> None:
    records = [replace(item, cell=replace(item.cell, task="classification")) for item in cost_of(run(["focal"]))]
    assert [row["task"] for row in rows(records)] == ["classification"] * 2


def test_tasks_have_rows_of_their_own_that_share_the_cost(run: Run) -> None:
    first = run(["focal"], [(224, 224)])
    second = run(["focal"], [(224, 224)], cost=False, task="counting", num_classes=5)
    found = rows(first + second)
    assert [row["task"] for row in found] == ["classification", "counting"]
    assert found[0]["macs"] == found[1]["macs"] == 400_000_000
    assert {row["mechanism"] for row in found} == {"focal"}


def test_a_task_with_costs_for_its_own_classes_takes_only_those(run: Run) -> None:
    found = rows(run(["focal"], [(224, 224)]) + run(["focal"], [(224, 224)], task="counting", num_classes=5))
    assert [(row["task"], row["macs"]) for row in found] == [("classification", 400_000_000), ("counting", 400_000_000)]


@pytest.mark.parametrize("field", ["batch_size", "size", "device", "precision", "threads"])
def test_what_has_a_column_keeps_rows_apart_without_a_mark(run: Run, field: str) -> None:
    other = 8 if field in ("batch_size", "threads") else "other"
    found = rows(run(["focal"], [(224, 224)]) + run(["focal"], [(224, 224)], **{field: other}))
    assert [row["mechanism"] for row in found] == ["focal", "focal"]
    assert len({row[field] for row in found}) == 2
    assert all(row["latency_s"] and row["macs"] and row["headline_value"] for row in found)


def test_settings_that_are_not_the_defaults_stand_in_the_name(run: Run) -> None:
    found = rows(run(["swin"], [(224, 224)], settings={"window": 14, "shift": False}))
    assert found[0]["mechanism"] == found[0]["reference"] == "swin(shift=false, window=14)"


@pytest.mark.parametrize(
    ("field", "name"),
    [("data", "data=other.v2"), ("recipe", "recipe.samples=7"), ("timing", "timing.budget=60.0")],
)
def test_what_differs_and_has_no_column_stands_in_the_name(run: Run, field: str, name: str) -> None:
    records = run(["focal"], [(224, 224)])
    changes: dict[str, Any] = {"data": "other.v2", "recipe": {"samples": 7}, "timing": {"budget": 60.0}}
    others: list[Record] = []
    for record in records:
        value = getattr(record.cell, field)
        changed = {**value, **changes[field]} if isinstance(value, dict) else changes[field]
        if value is not None:
            change: Any = {field: changed}
            others.append(replace(record, cell=replace(record.cell, **change)))
    found = rows(records + others)
    assert len(found) == 2
    assert found[1]["mechanism"] == f"focal [{name}]"
    assert len({identity(row) for row in found}) == 2
    assert rows(records)[0]["mechanism"] == "focal"


def test_the_last_record_of_a_cell_counts(run: Run, spoil: Spoil) -> None:
    records = run(["focal"], [(224, 224)])
    assert rows(spoil(records, "failed", "x") + records) == rows(records)


# Failures


def test_the_worst_status_wins_the_reason_names_the_probe_and_other_values_stand(run: Run, spoil: Spoil) -> None:
    at = {"mechanism": "swin", "resolution": (448, 448)}
    records = spoil(run(), "skipped", "too large", probe="memory_training", **at)
    records = spoil(records, "out_of_memory", "no\nroom\x1b[31m", probe="latency", **at)
    row = only(records, mechanism="swin", resolution=[448, 448])
    assert row["status"] == "out_of_memory"
    assert row["reason"] == "latency: no room [31m; memory_training: too large"
    assert (row["latency_s"], row["time_ratio"], row["peak_memory_training_B"]) == (None, None, None)
    assert row["macs"] == 1_600_000_000
    assert row["headline_value"] == pytest.approx(0.52)
    assert row["peak_memory_inference_B"] is not None
    assert [other["status"] for other in rows(records)] == ["ok", "ok", "ok", "out_of_memory"]


ORDER = ["failed", "timeout", "out_of_memory", "unsupported", "skipped"]


@pytest.mark.parametrize("index", range(len(ORDER) - 1))
def test_statuses_are_ordered_from_worst_to_best(run: Run, spoil: Spoil, index: int) -> None:
    records = spoil(run(["focal"], [(224, 224)]), ORDER[index + 1], "b", probe="macs")
    records = spoil(records, ORDER[index], "a", probe="latency")
    assert only(records)["status"] == ORDER[index]


def test_a_failed_training_reaches_every_row_that_waited_for_it(run: Run, spoil: Spoil) -> None:
    records = spoil(run(), "failed", "diverged", probe="training", mechanism="swin")
    records = [item for item in records if item.cell.probe != "accuracy" or item.cell.mechanism != "swin"]
    found = {(row["mechanism"], str(row["resolution"])): row for row in rows(records)}
    assert len(found) == 4
    for side in ("[224, 224]", "[448, 448]"):
        row = found["swin", side]
        assert row["status"] == "failed"
        assert row["reason"] == "training (seed 0): diverged"
        assert (row["task"], row["train_resolution"], row["seeds"]) == ("classification", [224, 224], 0)
        assert row["latency_s"] is not None
        assert found["focal", side]["status"] == "ok"


def test_a_failed_training_leaves_rows_of_another_training_resolution_alone(run: Run, spoil: Spoil) -> None:
    records = spoil(run(["focal"], each=True), "failed", "diverged", probe="training", resolution=(224, 224))
    assert [row["status"] for row in rows(records)] == ["failed", "ok"]
    without = [item for item in records if item.cell.probe != "accuracy" or item.cell.resolution != (224, 224)]
    assert [row["status"] for row in rows(without)] == ["failed", "ok"]


def test_where_every_resolution_trains_a_row_waits_for_its_own_training_only(run: Run, spoil: Spoil) -> None:
    records = [item for item in run(["focal"], each=True) if item.cell.probe != "accuracy"]
    for resolution, error in (((224, 224), "small"), ((448, 448), "large")):
        records = spoil(records, "failed", error, probe="training", resolution=resolution)
    assert [row["reason"] for row in rows(records)] == ["training (seed 0): small", "training (seed 0): large"]


def test_what_a_failed_cell_measured_is_not_shown(run: Run) -> None:
    records = [replace(item, status="failed") if item.cell.probe == "latency" else item for item in run(["focal"])]
    assert [(row["latency_s"], row["time_ratio"]) for row in rows(records)] == [(None, None)] * 2


def test_a_seed_that_failed_is_missing_from_the_mean_and_named(run: Run, spoil: Spoil) -> None:
    row = only(spoil(run(["focal"], [(224, 224)], seeds=3), "timeout", "slow", probe="accuracy", seed=1))
    assert (row["seeds"], row["headline_value"]) == (2, pytest.approx(0.61))
    assert (row["status"], row["reason"]) == ("timeout", "accuracy (seed 1): slow")


def test_a_failed_training_alone_does_not_vanish(run: Run, spoil: Spoil) -> None:
    trainings = [item for item in run(["focal"], [(224, 224)]) if item.cell.probe == "training"]
    assert rows(trainings) == []
    assert only(spoil(trainings, "failed", "diverged"))["reason"] == "training (seed 0): diverged"


def test_rows_of_nothing_are_nothing() -> None:
    assert rows([]) == []


def test_rows_go_to_strict_json(run: Run) -> None:
    found = rows(run())
    assert json.loads(json.dumps(found, allow_nan=False)) == found


# Spread


def test_seeds_have_a_student_interval(run: Run) -> None:
    spread = next(iter(spreads(run(["focal"], [(224, 224)], seeds=3)).values()))
    assert spread.scores == pytest.approx((0.60, 0.61, 0.62))
    assert spread.score_interval == pytest.approx(
        (0.61 - 0.0248414, 0.61 + 0.0248414), abs=1e-6
    )  # t(2) 4.30265 s/sqrt 3


def test_one_seed_keeps_the_interval_it_came_with(run: Run) -> None:
    spread = next(iter(spreads(run(["focal"], [(224, 224)])).values()))
    assert spread.score_interval == pytest.approx((0.58, 0.62))


@pytest.mark.parametrize(
    ("low", "value", "high", "floor", "verdict"),
    [
        (0.98, 1.0, 1.02, 0.0, "tie"),
        (1.01, 1.02, 1.03, 0.01, "slower"),
        (1.01, 1.02, 1.03, 0.021, "tie"),
        (0.95, 0.97, 0.985, 0.02, "faster"),
        (0.95, 0.97, 0.985, 0.04, "tie"),
        (0.99, 1.1, 1.2, 0.0, "tie"),
    ],
)
def test_a_winner_is_told_from_one_by_its_interval_and_by_the_noise_floor(
    run: Run, low: float, value: float, high: float, floor: float, verdict: str
) -> None:
    known = {
        "time_ratio": Measurement("time_ratio", value, "1", low, high),
        "noise_floor": Measurement("noise_floor", floor, "1"),
    }
    records = [replace(item, measurements=tuple(known.get(m.metric, m) for m in item.measurements)) for item in run()]
    reference, other = rows(records)[0], rows(records)[2]
    assert other["verdict"] == verdict
    assert reference["verdict"] is None


def test_a_row_whose_counts_of_macs_disagree_is_not_ranked(run: Run) -> None:
    def doubt(item: Record, share: float) -> Record:
        own = [m for m in item.measurements if m.metric == "macs"]
        return replace(
            item,
            measurements=(*item.measurements, *(Measurement("macs_fvcore", m.value * share, "MAC") for m in own)),
        )

    for share, agree in ((1.004, True), (1.006, False)):
        found = rows([doubt(item, share) for item in run(seeds=2)])
        assert {row["macs_agree"] for row in found} == {agree}
        assert found[2]["verdict"] == ("slower" if agree else None)
        assert bool(winners(found, spreads(run(seeds=2)))) is agree


def test_the_noise_floor_is_that_of_the_rounds_a_row_was_timed_in(run: Run) -> None:
    records = [
        replace(
            item,
            measurements=tuple(
                replace(m, value=0.09) if m.metric == "noise_floor" and item.cell.resolution == (448, 448) else m
                for m in item.measurements
                if m.metric != "noise_floor" or item.cell.mechanism == "focal"
            ),
        )
        for item in run()
    ]
    known = spreads(records)
    assert [known[identity(row)].noise_floor for row in rows(records)] == [0.01, 0.09, 0.01, 0.09]


def test_timing_converged_where_the_interval_is_as_narrow_as_asked(run: Run) -> None:
    assert {spread.converged for spread in spreads(run()).values()} == {True}
    records = [
        replace(item, cell=replace(item.cell, timing={"precision": 0.01})) if item.cell.timing else item
        for item in run()
    ]
    assert {spread.converged for spread in spreads(records).values()} == {False}


def test_what_a_timing_says_of_its_convergence_counts_before_its_interval(run: Run) -> None:
    records = [replace(item, environment={"converged": item.cell.mechanism == "focal"}) for item in run()]
    assert [spread.converged for spread in spreads(records).values()] == [True, True, False, False]


def test_only_trained_scores_of_several_seeds_with_a_rival_win(run: Run) -> None:
    def won(records: list[Record]) -> list[tuple[object, object]]:
        found = rows(records)
        best = winners(found, spreads(records))
        return [(row["mechanism"], row["resolution"]) for row in found if identity(row) in best]

    assert won(run(seeds=2)) == [("swin", [224, 224])]
    assert won(run(seeds=2, each=True)) == [("swin", [224, 224]), ("swin", [448, 448])]
    assert won(run(seeds=1)) == []
    assert won(run(["focal"], seeds=2)) == []


def test_scores_on_other_data_do_not_compete(run: Run) -> None:
    records = run(seeds=2)
    moved = [
        replace(item, cell=replace(item.cell, data="other.v2"))
        if item.cell.data and item.cell.mechanism == "swin"
        else item
        for item in records
    ]
    assert winners(rows(moved), spreads(moved)) == set()
