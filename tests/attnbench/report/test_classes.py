"""Scores by class: means over seeds by hand, every class in the file, names that stay text."""

import csv
import io
from collections.abc import Callable
from dataclasses import replace

import pytest

from attnbench.record import Measurement, Record
from attnbench.report import classes, scores_text
from attnbench.report.races import races
from attnbench.report.rows import named

HOSTILE = "a|b <script>\x1b[31m"


@pytest.fixture
def records(run: Callable[..., list[Record]]) -> list[Record]:
    made = []
    for record in run(mechanisms=("focal", "swin"), resolutions=((64, 64),), seeds=2, task="segmentation", cost=False):
        if record.cell.probe == "accuracy":
            seed = record.cell.seed or 0
            own = [("sky", 0.5 + 0.1 * seed), (HOSTILE, 0.25)] if record.cell.mechanism == "focal" else [("sky", 0.75)]
            items = tuple(Measurement("class_iou", value, "1", kind=name) for name, value in own)
            record = replace(record, measurements=(*record.measurements, *items))
        made.append(record)
    return made


def test_the_report_has_a_line_for_each_class_with_means_over_seeds(records: list[Record]) -> None:
    text = classes.section(races(named(records), "accuracy"))
    (line,) = [line for line in text.splitlines() if line.startswith("| sky")]
    assert [word.strip() for word in line.strip("|").split("|")] == ["sky", "55.00", "75.00"]
    assert "<script>" not in text
    assert "\x1b" not in text
    assert text.splitlines()[-1].endswith("| 25.00 | - |")


def test_the_file_has_every_class_of_every_mechanism(records: list[Record]) -> None:
    lines = list(csv.DictReader(io.StringIO(classes.to_csv(races(named(records), "accuracy")) or "")))
    found = [(line["mechanism"], line["class"] == "sky", float(line["mean"]), line["seeds"]) for line in lines]
    assert found == [("focal", True, pytest.approx(0.55), "2"), ("focal", False, 0.25, "2"), ("swin", True, 0.75, "2")]


def test_classes_are_no_scores_of_the_whole_and_without_them_nothing_is_said(
    records: list[Record], run: Callable[..., list[Record]]
) -> None:
    assert "class iou" not in scores_text.section(races(named(records), "accuracy")).lower()
    others = races(named(run()), "accuracy")
    assert classes.section(others) == ""
    assert classes.to_csv(others) is None
