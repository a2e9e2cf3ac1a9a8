"""Which mechanisms compete: everything is equal but mechanism and seed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from attnbench.record import Record
from attnbench.report.races import Race, races
from attnbench.report.rows import named, rows
from attnbench.report.spread import spreads, winners

Run = Callable[..., list[Record]]
Trained = Callable[..., list[Record]]
TWO: dict[str, list[list[float]]] = {"focal": [[0.0, 1.0]] * 2, "swin": [[1.0, 1.0]] * 2}


def of(records: list[Record]) -> list[Race]:
    return races(named(records), "accuracy")


def names(race: Race) -> list[str]:
    return [entrant.mechanism for entrant in race.entrants]


def test_mechanisms_that_were_trained_alike_compete_with_their_seeds_in_order(trained: Trained) -> None:
    (race,) = of(list(reversed(trained(outcomes=TWO))))
    assert names(race) == ["swin", "focal"]
    assert [list(entrant.seeds) for entrant in race.entrants] == [[0, 1], [0, 1]]
    assert race.title == "classification at 224x224"
    assert race.held == "size nano, fp32, cpu, 2 threads"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("head", "retinanet"),
        ("task", "detection"),
        ("data", "other.v2"),
        ("recipe", {"samples": 7}),
        ("num_classes", 3),
        ("train_resolution", (32, 32)),
        ("resolution", (32, 32)),
        ("precision", "bf16"),
        ("device", "cuda"),
        ("threads", 1),
        ("size", "tiny"),
    ],
)
def test_what_differs_in_anything_else_does_not_compete(trained: Trained, name: str, value: Any) -> None:
    found = of(trained(outcomes=TWO) + trained(outcomes=TWO, **{name: value}))
    assert [len(race.entrants) for race in found] == [2, 2]


def test_rows_that_share_their_scores_are_one_entrant(run: Run) -> None:
    records = run(["focal", "swin"], [(224, 224)], batch_size=1) + run(["focal", "swin"], [(224, 224)], batch_size=8)
    assert len(rows(records)) == 4
    assert [names(race) for race in of(records)] == [["focal", "swin"]]


def test_a_training_races_once_however_often_it_is_scored(run: Run) -> None:
    found = races(named(run(seeds=2)), "training")
    assert [names(race) for race in found] == [["focal", "swin"]]
    assert [race.title for race in of(run(seeds=2))] == [
        "classification at 224x224",
        "classification at 448x448, trained at 224x224",
    ]


def test_a_failed_seed_does_not_run(run: Run, spoil: Callable[..., list[Record]]) -> None:
    (race,) = of(spoil(run(["focal"], [(224, 224)], seeds=3), "failed", "x", probe="accuracy", seed=1))
    assert list(race.entrants[0].seeds) == [0, 2]


def test_the_reference_is_that_of_the_times_or_the_first(run: Run, trained: Trained) -> None:
    timed = run(["focal", "swin"], [(224, 224)])
    moved = [replace(r, cell=replace(r.cell, reference="swin")) if r.cell.reference else r for r in timed]
    assert [race.reference.mechanism for race in (*of(timed), *of(moved))] == ["focal", "swin"]
    (race,) = of(trained(outcomes=TWO))
    assert race.reference.mechanism == "focal"


def test_a_head_has_a_column_rows_and_winners_of_its_own(trained: Trained) -> None:
    better = {"focal": [[1.0, 1.0]] * 2, "swin": [[0.0, 1.0]] * 2}
    shared = {"task": "detection", "metric": "box_ap"}
    records = trained(outcomes=TWO, head="retinanet", **shared) + trained(outcomes=better, head="mask_rcnn", **shared)
    found = rows(records)
    assert [(row["mechanism"], row["head"]) for row in found] == [
        ("focal", "retinanet"),
        ("focal", "mask_rcnn"),
        ("swin", "retinanet"),
        ("swin", "mask_rcnn"),
    ]
    won = winners(found, spreads(records))
    assert {(identity[0], identity[3]) for identity in won} == {("swin", "retinanet"), ("focal", "mask_rcnn")}
    alone = trained(outcomes={"swin": TWO["swin"]}, head="retinanet", **shared)
    alone += trained(outcomes={"focal": better["focal"]}, head="mask_rcnn", **shared)
    assert winners(rows(alone), spreads(alone)) == set()
