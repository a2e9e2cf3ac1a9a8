"""The section on cost growth, read back, and growth.csv."""

import csv
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from attnbench.record import Record
from attnbench.report import write
from attnbench.report.growth import growth
from attnbench.report.growth_text import section, to_csv

Run = Callable[..., list[Record]]
HOSTILE = "a|b`c`<script>alert(1)</script>\n# x *y* [l](http://e) $z$"
THREE = [(64, 64), (128, 128), (256, 256)]


def bent(record: Record) -> Record:
    """Let swin's MACs grow with the square of the pixels, past focal's at 128."""
    height, width = record.cell.resolution
    if record.cell.probe != "macs" or record.cell.mechanism != "swin":
        return record
    items = tuple(
        replace(m, value=4e8 * height**2 * width**2 / (224 * 128) ** 2) if m.metric == "macs" else m
        for m in record.measurements
    )
    return replace(record, measurements=items)


def test_the_section_has_an_exponent_per_quantity_and_mechanism_and_every_crossing(run: Run) -> None:
    text = section(growth([bent(record) for record in run(resolutions=THREE)]))
    assert "| MACs | focal | 64 to 256 (3) | 1.000 [1.000, 1.000] | misfit | 1.000 |" in text
    assert "| MACs | swin | 64 to 256 (3) | 2.000 [2.000, 2.000] | misfit | 2.000 |" in text
    assert "| MACs | swin | focal | 128 | exact |" in text
    assert "- training memory, none between 64 and 256: focal, swin" in text
    assert "Held equal: size nano, batch size 1, fp32, cpu, 2 threads." in text


def test_the_report_of_a_run_of_one_resolution_says_nothing_of_growth(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnbench.report.figures.draw", lambda *_: [])  # seconds that nothing here depends on
    write(tmp_path, run(), "")
    assert "## Cost growth" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "growth.csv").is_file()
    written = write(tmp_path, run(resolutions=[(224, 224)]), "")
    assert "## Cost growth" not in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "growth.csv").exists()
    assert tmp_path / "growth.csv" not in written


def test_heads_of_a_task_are_never_compared(run: Run) -> None:
    def of(head: str, mechanism: str) -> list[Record]:
        found = run([mechanism], THREE)
        return [replace(item, cell=replace(item.cell, task="detection", head=head)) for item in found]

    found = growth([*of("retinanet", "focal"), *of("mask_rcnn", "swin")])
    assert found.exponents
    assert found.pairs == ()
    assert section(found).count("Held equal: task detection \\(retinanet\\), size nano") == 1
    assert {line["head"] for line in csv.DictReader(io.StringIO(to_csv(found)))} == {"retinanet", "mask_rcnn"}


def test_the_csv_has_every_exponent_crossing_and_pair(run: Run) -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(growth([bent(record) for record in run(resolutions=THREE)])))))
    counts = {what: [line["what"] for line in lines].count(what) for what in {line["what"] for line in lines}}
    assert counts == {"exponent": 8, "last_exponent": 8, "crossing": 1, "no_crossing": 3}
    (crossing,) = (line for line in lines if line["what"] == "crossing")
    assert round(float(crossing["value"]), 6) == 128
    assert (crossing["mechanism"], crossing["other"], crossing["basis"]) == ("focal", "swin", "certain")


def test_a_strangers_name_stays_text(run: Run) -> None:
    html = str(MarkdownIt("commonmark").enable("table").render(section(growth(run(["focal", HOSTILE])))))
    assert set(re.findall(r"</?([a-z0-9]+)", html)) <= {
        *("h2", "p", "em", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"),
    }
