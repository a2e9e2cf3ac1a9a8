"""``attnbench compare`` as a user meets it: exit codes, one-line errors, the table and the JSON."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from attnbench.cli import OK, REGRESSION, USAGE, main
from attnbench.compare_command import parse_threshold
from attnbench.record import Measurement, Record
from attnbench.store import RECORDS, Store, load

HOSTILE = "a\x1b[31m\n[red]x[/red]"
Slow = Callable[[float], Path]


@pytest.fixture
def slower(costs: Path, tmp_path: Path) -> Slow:
    """Copy the run with swin's latencies multiplied."""

    def copy(factor: float) -> Path:
        folder = tmp_path / f"times {factor}"
        with Store(folder) as store:
            for record in load(costs):
                store.append(_slowed(record, factor))
        return folder

    return copy


def _slowed(record: Record, factor: float) -> Record:
    def change(item: Measurement) -> Measurement:
        if record.cell.mechanism != "swin" or item.metric != "latency" or item.low is None or item.high is None:
            return item
        return replace(item, value=item.value * factor, low=item.low * factor, high=item.high * factor)

    return replace(record, measurements=tuple(change(item) for item in record.measurements))


def compare(*words: object) -> int:
    return main(["compare", *map(str, words)])


@pytest.mark.parametrize(
    ("factor", "words", "code"),
    [
        (1.0, [], OK),
        (1.3, [], REGRESSION),
        (1.3, ["--threshold", "35%"], OK),
        (1.3, ["--threshold", "0.35"], OK),
        (0.7, [], OK),
        (
            1.06,
            ["--threshold", "7%"],
            OK,
        ),  # within the threshold at 224 and the noise floor of 8 % at 896
    ],
)
def test_the_exit_code_says_whether_anything_regressed(
    costs: Path, slower: Slow, factor: float, words: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(costs, slower(factor), *words) == code
    assert capsys.readouterr().err == ""


def test_the_table_names_what_is_slower_worst_first_and_sums_up(
    costs: Path, slower: Slow, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    compare(costs, slower(1.3))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[:8] == ["slower", "latency", "(ms)", "swin", "224x224", "20.00", "26.00", "1.300"]
    assert lines[-1] == "2 regressions by more than 5 %."
    text = "\n".join(lines)
    assert "4 rows: not corrected for the machine's state." in text
    assert "values equal in both runs, not shown." in text


def test_a_narrow_terminal_gets_the_verdicts_and_is_told_what_is_left_out(
    costs: Path, slower: Slow, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    folder = slower(1.3)
    with Store(folder) as store:  # the longest quantity
        record = next(record for record in store.records if record.cell.probe == "memory_training")
        store.append(replace(record, measurements=(replace(record.measurements[0], value=1.0),)))
    compare(costs, folder)
    text = capsys.readouterr().out
    assert "1.300 [1.282, 1.319]" in text  # 1.3 exp(sqrt(2) log(1.01)) and 1.3 exp(-sqrt(2) log(1 - 0.01))
    assert "Left out at this width: A, B." in text
    assert max(map(len, text.splitlines())) <= 80


def test_json_is_one_object_with_every_value(costs: Path, slower: Slow, capsys: pytest.CaptureFixture[str]) -> None:
    folder = slower(1.3)
    assert compare(costs, folder, "--json") == REGRESSION
    found = json.loads(capsys.readouterr().out)
    assert (found["a"], found["b"], found["threshold"], found["regressions"]) == (str(costs), str(folder), 0.05, 2)
    first = found["comparisons"][0]
    assert (first["verdict"], first["regression"], first["unit"], first["cell"]["mechanism"]) == (
        *("slower", True, "s", "swin"),
    )
    assert first["raw_ratio"] == pytest.approx(1.3)
    assert (found["only_in_a"], found["only_in_b"], found["differences"]) == ([], [], {})


def test_failures_and_cells_of_one_run_are_told_and_names_stay_text(
    costs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    records = [replace(r, cell=replace(r.cell, mechanism=HOSTILE)) for r in load(costs) if r.cell.mechanism == "focal"][
        :6
    ]
    lost = replace(records[0], status="out_of_memory", measurements=(), error=HOSTILE)
    with Store(tmp_path / "a") as a, Store(tmp_path / "b") as b:
        for record in records:
            a.append(record)
        for record in (lost, *records[1:3]):
            b.append(record)
    assert compare(tmp_path / "a", tmp_path / "b") == REGRESSION
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "a [31m [red]x[/red] 224x224, macs: ok -> out_of_memory: a [31m [red]x[/red]" in text
    assert "Only in A: 3 cells" in text
    assert json.loads(_json_of(tmp_path, capsys))["comparisons"][0]["worse"] is None


def _json_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    compare(folder / "a", folder / "b", "--json")
    return capsys.readouterr().out


def test_folders_that_are_no_runs_are_refused_in_one_line(
    costs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / RECORDS).touch()
    (tmp_path / "corrupt").mkdir()
    (tmp_path / "corrupt" / RECORDS).write_text("{}\n")
    (tmp_path / "link").symlink_to(costs)
    for folder, message in (
        ("nowhere", "holds no records"),
        ("empty", "holds no records"),
        ("corrupt", "line 1"),
        ("link", "one folder"),
        ("a" * 5000, "File name too long"),
    ):
        assert compare(costs, tmp_path / folder) == USAGE
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("attnbench: error: ")
        assert message in err
        assert err.count("\n") == 1


def test_a_threshold_is_a_share(costs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert [parse_threshold(text) for text in ("5%", "0.05", " 5 % ", "0", "150%")] == [0.05, 0.05, 0.05, 0, 1.5]
    for text in ("5", "-1%", "five", "nan", "inf%", "5%%", "%", ""):
        assert compare(costs, tmp_path, f"--threshold={text}") == USAGE
        assert "write a share such as 5% or 0.05" in capsys.readouterr().err
