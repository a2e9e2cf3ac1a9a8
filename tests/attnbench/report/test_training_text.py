"""What the report says of trainings and scores, read back, and its files."""

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from attnbench.record import Record
from attnbench.report import convergence_text, loading, paired_text, scores_text, write
from attnbench.report.convergence import convergence
from attnbench.report.curves import charts
from attnbench.report.paired import compare
from attnbench.report.races import Race, races
from attnbench.report.rows import named

Run = Callable[..., list[Record]]
Trained = Callable[..., list[Record]]
HOSTILE = "a|b`c`<script>alert(1)</script>\n# x *y* [l](http://e) $z$ ![i](u) &amp; \\"
CURVES = {"focal": [[0.0, 0.4, 0.8]] * 2, "swin": [[0.0, 0.2, 0.5], [0.0, 0.3, 0.6]]}
OUTCOMES = {"focal": [[1.0] * 8 + [0.0] * 2] * 2, "swin": [[1.0] * 5 + [0.0] * 5, [1.0] * 6 + [0.0] * 4]}


def scored(records: list[Record]) -> list[Race]:
    return races(named(records), "accuracy")


def sections(records: list[Record]) -> dict[str, str]:
    training = races(named(records), "training")
    return {
        "scores": scores_text.section(scored(records)),
        "paired": paired_text.section([compare(race) for race in scored(records)]),
        "convergence": convergence_text.section([convergence(chart) for race in training for chart in charts(race)]),
        "loading": loading.section(training),
    }


def lines_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def files(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[dict[str, str]]]:
    """Write a report and read back the files that it has beside the table."""
    monkeypatch.setattr("attnbench.report.figures.draw", lambda *_: [])  # seconds that nothing here depends on
    write(tmp_path, trained(CURVES, OUTCOMES), "")
    return {name: lines_of((tmp_path / f"{name}.csv").read_text()) for name in ("scores", "paired", "convergence")}


# Scores


def test_a_score_of_several_seeds_stands_with_interval_ends_and_count(trained: Trained) -> None:
    text = sections(trained(outcomes=OUTCOMES))["scores"]
    assert "| top-1 (%) | swin | 55.00 [-8.53, 118.53] over seeds | 50.00 to 60.00 | 2 |" in text
    assert "| top-1 (%) | focal | 80.00 [80.00, 80.00] over seeds | 80.00 to 80.00 | 2 |" in text


def test_a_score_of_one_seed_is_indicative_with_an_interval_over_images_where_that_is_exact(trained: Trained) -> None:
    one = {"focal": [[1.0] * 8 + [0.0] * 2]}
    assert (
        "| focal | 80.00 [49.02, 94.33] over images | - | 1, indicative |" in sections(trained(outcomes=one))["scores"]
    )
    other = sections(trained(outcomes=one, metric="box_ap", value=0.3))["scores"]
    assert "| box AP (%) | focal | 30.00 | - | 1, indicative |" in other


def test_tasks_and_heads_stand_apart_under_their_names(trained: Trained) -> None:
    records = trained(outcomes=OUTCOMES)
    for head in ("retinanet", "mask_rcnn"):
        records += trained(outcomes=OUTCOMES, metric="box_ap", task="detection", head=head)
    assert re.findall("^### (.*)$", sections(records)["scores"], re.MULTILINE) == [
        "Scores: classification at 224x224",
        r"Scores: detection \(retinanet\) at 224x224",
        r"Scores: detection \(mask\_rcnn\) at 224x224",
    ]


def test_the_csv_has_a_line_per_mechanism_and_metric(files: dict[str, list[dict[str, str]]]) -> None:
    swin = files["scores"][1]
    held = ("mechanism", "resolution", "train_resolution", "task", "head", "metric", "over", "seeds")
    assert [swin[name] for name in held] == [
        *("swin", "224x224", "224x224", "classification", "", "top1", "seeds", "2"),
    ]
    values = [float(swin[name]) for name in ("mean", "least", "greatest", "low", "high")]
    assert values == pytest.approx([0.55, 0.5, 0.6, 0.55 - 0.635310, 0.55 + 0.635310], abs=1e-6)


# Paired


def test_a_pair_stands_with_both_intervals_and_its_verdict(trained: Trained) -> None:
    text = sections(trained(outcomes=OUTCOMES))["paired"]
    assert "### Paired: classification at 224x224, less focal" in text
    line = next(line for line in text.splitlines() if line.startswith("| swin"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert (cells[1], cells[3:6], cells[7]) == ("-25.00", ["[-88.53, +38.53]", "0 / 3", "2"], "tie")
    assert "top-1 difference" in text


def test_one_seed_is_indicative_and_outcomes_of_another_score_are_said_to_be_so(trained: Trained) -> None:
    outcomes = {"focal": [[0.0] * 30], "swin": [[1.0] * 30]}
    text = sections(trained(outcomes=outcomes, metric="miou", value=0.3))["paired"]
    assert "| swin | +100.00 | [+100.00, +100.00] | - | 30 / 0 | 1 | < 0.001 | better (indicative) |" in text
    assert "outcomes per image, which do not average to mIoU" in text
    assert "outcome difference" in text


def test_the_pair_is_in_its_csv(files: dict[str, list[dict[str, str]]]) -> None:
    (pair,) = files["paired"]
    names = ("mechanism", "reference", "averages_to_metric", "images", "better_images", "worse_images", "verdict")
    assert [pair[name] for name in names] == ["swin", "focal", "True", "10", "0", "3", "tie"]
    assert float(pair["difference"]) == pytest.approx(-0.25)
    assert float(pair["p_holm"]) == max(float(pair["p_images"]), float(pair["p_seeds"]))


# Convergence and loading


def test_images_ratios_and_what_is_not_reached_are_told(trained: Trained) -> None:
    text = sections(trained({"focal": [[0.0, 0.4, 0.8]], "swin": [[0.0, 0.2, 0.4]]}))["convergence"]
    assert "| 20.00 | 50 % of what all reach | focal | 150 | reference | 1, indicative |" in text
    assert "| 20.00 | 50 % of what all reach | swin | 200 | 1.33 | 1, indicative |" in text
    assert "| 72.00 | 90 % of the best top-1 | swin | not reached | - | 1, indicative |" in text


def test_several_seeds_have_intervals_and_those_that_arrive_are_counted(trained: Trained) -> None:
    text = sections(trained({"focal": [[0.0, 0.4, 0.8]] * 2, "swin": [[0.0, 0.4, 0.8], [0.0, 0.2, 0.4]]}))[
        "convergence"
    ]
    assert "| 20.00 | 50 % of what all reach | focal | 150 [150, 150] | reference | 2 |" in text
    assert "| 72.00 | 90 % of the best top-1 | swin | reached by 1 of 2 seeds | - | 2 |" in text
    first = sections(trained({"focal": [[0.8, 0.9]] * 2}))["convergence"]
    assert "| focal | \N{LESS-THAN OR EQUAL TO} 100 | reference | 2 |" in first


def test_every_level_is_in_the_csv(files: dict[str, list[dict[str, str]]]) -> None:
    found = files["convergence"]
    assert [(line["mechanism"], line["of"], line["share"]) for line in found] == [
        (name, of, share) for of in ("common", "best") for share in ("0.5", "0.9", "0.95") for name in ("focal", "swin")
    ]
    late = found[-1]
    assert (late["images"], late["seeds"], late["seeds_that_reach_it"], late["at_most"]) == ("", "2", "0", "False")
    assert float(found[0]["images"]) == pytest.approx(162.5)


def test_each_training_has_a_line_on_its_loading(trained: Trained) -> None:
    text = sections(trained(CURVES))["loading"]
    assert text.count("| 25.0 | 1234 | - |") == 4
    assert "| swin | 1 | 25.0 |" in text


# All of them


def test_records_that_hold_none_of_it_have_scores_only(run: Run) -> None:
    found = sections(run(seeds=2))
    assert found.pop("scores").startswith("## Scores")
    assert set(found.values()) == {""}


def test_a_strangers_text_stays_text(trained: Trained) -> None:
    own: dict[str, Any] = {"task": HOSTILE, "head": HOSTILE, "size": HOSTILE}
    one, two = CURVES["focal"], OUTCOMES["swin"]
    records = trained({"focal": one, HOSTILE: one}, {"focal": two, HOSTILE: two}, **own)
    for text in sections(records).values():
        html = str(MarkdownIt("commonmark").enable("table").render(text))
        assert set(re.findall(r"</?([a-z0-9]+)", html)) <= {
            *("h2", "h3", "p", "em", "table", "thead", "tbody", "tr", "th", "td"),
        }
        for table in re.findall("<table>.*?</table>", html, re.DOTALL):
            rows = re.findall("<tr>.*?</tr>", table, re.DOTALL)
            assert len({row.count("<td>") + row.count("<th>") for row in rows}) == 1
        assert "alert" in html


def test_the_report_has_the_sections_the_figure_and_definitions_and_what_is_gone_goes(
    trained: Trained, run: Run, tmp_path: Path
) -> None:
    written = write(tmp_path, trained(CURVES, OUTCOMES), "")
    assert [path.relative_to(tmp_path).as_posix() for path in written] == [
        *("table.csv", "report.md", "scores.csv", "paired.csv", "convergence.csv"),
        *("figures/curves.png", "figures/curves.svg"),
    ]
    text = (tmp_path / "report.md").read_text()
    assert re.findall("^## (.*)$", text, re.MULTILINE) == [
        *("Run", "Results", "Scores", "Paired comparisons", "Convergence", "Data loading", "Figures", "Columns"),
    ]
    assert "(figures/curves.png)" in text
    for metric in ("top1", r"data\_wait", r"loader\_throughput"):
        assert f"| {metric} |" in text
    write(tmp_path, run(["focal"], [(224, 224)], cost=False), "")
    left = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["report.md", "scores.csv", "table.csv"]
