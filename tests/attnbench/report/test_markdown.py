"""The Markdown report, read back by a Markdown parser."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePath

import pytest
from markdown_it import MarkdownIt

from attnbench.errors import UserError
from attnbench.record import METRICS, Record
from attnbench.report import write
from attnbench.report.markdown import report
from attnbench.report.rows import rows

Run = Callable[..., list[Record]]
Spoil = Callable[..., list[Record]]

HOSTILE = "a|b`c`<script>alert(1)</script>\n# x *y* [l](http://e) $z$ ![i](u) &amp; \\"


def text_of(records: list[Record], config: str = "size: nano", figures: tuple[PurePath, ...] = ()) -> str:
    return report(records, rows(records), config, figures)


def html_of(text: str) -> str:
    return str(MarkdownIt("commonmark").enable("table").render(text))


def line_of(text: str, *words: str) -> str:
    return next(line for line in text.splitlines() if all(word in line for word in words))


def test_every_task_and_resolution_has_its_table(run: Run) -> None:
    text = text_of(run() + run(task="counting", cost=False))
    assert re.findall("^### (.*)$", text, re.MULTILINE) == [
        *("classification at 224x224", "counting at 224x224"),
        *("classification at 448x448", "counting at 448x448"),
    ]


def test_batch_sizes_never_share_a_table(run: Run) -> None:
    text = text_of(run(["focal"], [(224, 224)]) + run(["focal"], [(224, 224)], batch_size=8))
    held = re.findall("^Held equal: (.*)$", text, re.MULTILINE)
    assert held == [f"size nano, batch size {size}, fp32, cpu, 2 threads." for size in (1, 8)]


def test_a_row_shows_its_values_scaled(run: Run) -> None:
    line = line_of(text_of(run()), "| swin", "2.300 | 0.4000")
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        *("swin", "2.300", "0.4000", "4.400", "227.3", "1.100 [1.085, 1.115]", "33.00", "132.0"),
        *("62.00 [60.00, 64.00] (1 seed, indicative)", "224x224", "ok"),
    ]


def test_one_seed_is_indicative_and_never_bold(run: Run) -> None:
    text = text_of(run())
    assert "**" not in text
    assert text.count("(1 seed, indicative)") == 4


def test_the_best_of_several_seeds_is_bold_with_interval_least_and_greatest(run: Run) -> None:
    text = text_of(run(seeds=2))
    assert re.findall(r"\*\*(.*?)\*\*", text) == ["62.50"]
    assert "**62.50** [56.15, 68.85] (62.00 to 63.00, 2 seeds)" in text
    assert "52.50† [46.15, 58.85] (52.00 to 53.00, 2 seeds)" in text  # transfer: best, and not bold


def test_the_environment_the_noise_and_the_config_are_told(run: Run) -> None:
    text = text_of(run(), "seeds: 1\nsize: nano")
    assert "```yaml\nseeds: 1\nsize: nano\n```" in text
    assert "| versions | torch 2.14.1 |" in text
    assert "| load | 0.224 to 0.448 |" in text
    assert "| noise floor | 1.00 % at most" in text
    assert "| timing | converged |" in text
    assert "| started | 2025-01-02T03:04:05Z |" in text


def test_timing_that_did_not_converge_is_named(run: Run) -> None:
    def loosen(record: Record) -> Record:
        wide = tuple(replace(m, high=1.5) if m.metric == "time_ratio" else m for m in record.measurements)
        return replace(record, measurements=wide) if record.cell.mechanism == "swin" else record

    line = line_of(text_of([loosen(record) for record in run()]), "| timing |")
    assert line.endswith("not converged, ended with a wider interval than asked for: swin 224x224; swin 448x448 |")


def test_failures_stand_with_their_reasons_and_success_has_no_such_section(run: Run, spoil: Spoil) -> None:
    text = text_of(spoil(run(), "timeout", "took 9 s", probe="latency", mechanism="swin", resolution=(448, 448)))
    assert "| swin | classification | 448x448 | timeout | latency: took 9 s |" in text
    assert "## Failures" not in text_of(run())


def test_every_metric_shown_is_defined_with_its_unit(run: Run) -> None:
    text = text_of(run())
    for name in ("parameters", "macs", "latency", "throughput", "time_ratio", "peak_memory_inference", "top1"):
        metric = METRICS[name]
        line = line_of(text, f"| {name.replace('_', chr(92) + '_')} | {metric.unit} |")
        assert metric.definition[:20] in line


def test_figures_are_linked_by_relative_paths_with_alternative_text(run: Run) -> None:
    figures = tuple(PurePath("figures") / f"latency_resolution.{kind}" for kind in ("png", "svg"))
    html = html_of(text_of(run(), figures=figures))
    assert re.findall('<img src="(.*?)" alt="(.+?)"', html) == [
        (
            "figures/latency_resolution.png",
            "Latency against resolution on logarithmic axes, one line per mechanism",
        )
    ]
    assert 'href="figures/latency_resolution.svg"' in html


def test_a_strangers_text_stays_text(run: Run, spoil: Spoil) -> None:
    records = spoil(run(["focal", HOSTILE], size=HOSTILE, task=HOSTILE), "failed", HOSTILE, probe="macs")
    records = [replace(record, environment={HOSTILE: HOSTILE}) for record in records]
    html = html_of(text_of(records, "```\n<script>config</script>\n```"))
    assert set(re.findall(r"</?([a-z0-9]+)", html)) <= {
        *("h1", "h2", "h3", "p", "pre", "code"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
    shown = " ".join(HOSTILE.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert html.count(f"<td>{shown}</td>") >= 4
    tables = re.findall("<table>.*?</table>", html, re.DOTALL)
    for table in tables:
        counts = {line.count("<td>") + line.count("<th>") for line in re.findall("<tr>.*?</tr>", table, re.DOTALL)}
        assert len(counts) == 1


def test_nothing_measured_is_a_report_too() -> None:
    assert text_of([]).startswith("# attnbench report")


# Writing


def test_write_leaves_the_table_the_report_and_the_figures_and_nothing_else(run: Run, tmp_path: Path) -> None:
    written = write(tmp_path, run(["focal"]), "size: nano")
    figures = [f"figures/{name}_{what}.{kind}" for name, what in _FIGURES for kind in ("png", "svg")]
    assert [path.relative_to(tmp_path).as_posix() for path in written] == [
        "table.csv",
        "report.md",
        "scores.csv",
        "growth.csv",
        *figures,
    ]
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(written)
    html = html_of((tmp_path / "report.md").read_text())
    linked = re.findall('(?:src|href)="(.*?)"', html)
    assert sorted(linked) == sorted(figures)


_FIGURES = (("accuracy", "throughput"), ("latency", "resolution"), ("memory", "resolution"))


def test_write_removes_a_figure_that_has_no_data_any_more(run: Run, tmp_path: Path) -> None:
    write(tmp_path, run(["focal"], [(224, 224)]), "")
    accuracy_only = run(["focal"], [(224, 224)], cost=False)
    assert [path.name for path in write(tmp_path, accuracy_only, "")] == ["table.csv", "report.md", "scores.csv"]
    assert list((tmp_path / "figures").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_user_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write(tmp_path / "file", run(["focal"], [(224, 224)], cost=False), "")
