"""The table as CSV, JSON, a frame, and on terminals wide and narrow."""

import io
import json
import re
import time
from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest
from rich.console import Console

from attnbench.record import Record
from attnbench.report.rows import COLUMNS, Row, rows
from attnbench.report.spread import Spreads, spreads
from attnbench.report.table import terminal, to_csv, to_frame, to_json

Run = Callable[..., list[Record]]
Spoil = Callable[..., list[Record]]


def printed(table: list[Row], known: Spreads | None = None, width: int = 120, *, styled: bool = False) -> str:
    console = Console(
        width=width, file=io.StringIO(), force_terminal=styled, color_system="standard" if styled else None
    )
    console.print(terminal(table, known))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def flat(value: object) -> object:
    return "x".join(map(str, value)) if isinstance(value, list) else value


def test_the_csv_read_back_by_pandas_equals_the_rows(run: Run, spoil: Spoil) -> None:
    records = spoil(run(["focal", 'a,"b"']), "failed", "no, really", probe="latency", resolution=(448, 448))
    table = rows(records)
    text = to_csv(table)
    assert text.splitlines()[0] == ",".join(COLUMNS)
    frame = pd.read_csv(io.StringIO(text))
    for row, (_, read) in zip(table, frame.iterrows(), strict=True):
        for name in COLUMNS:
            if row[name] is None:
                assert pd.isna(read[name]), name
            else:
                assert read[name] == flat(row[name]), name


def test_resolutions_are_written_as_height_x_width(run: Run) -> None:
    frame = pd.read_csv(io.StringIO(to_csv(rows(run(["focal"], [(224, 320)])))))
    assert frame[["resolution", "train_resolution"]].to_numpy().tolist() == [["224x320", "224x320"]]


def test_the_csv_of_no_rows_is_its_header() -> None:
    assert to_csv([]) == ",".join(COLUMNS) + "\n"


def test_the_json_is_one_strict_array_of_the_rows(run: Run) -> None:
    table = rows(run())
    found = json.loads(to_json(table))
    assert found == table
    assert [tuple(row) for row in found] == [COLUMNS] * 4


def test_json_refuses_what_is_not_a_number(run: Run) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json([{**rows(run())[0], "macs": float("nan")}])


def test_the_frame_keeps_integers_and_knows_what_is_missing(run: Run) -> None:
    with_score, without = run(["focal"]), [item for item in run(["swin"]) if item.cell.probe == "macs"]
    frame = to_frame(rows(with_score + without))
    assert tuple(frame.columns) == COLUMNS
    assert str(frame["macs"].dtype) == str(frame["seeds"].dtype) == "Int64"
    assert frame["seeds"].isna().tolist() == [False, False, True, True]
    assert frame.groupby("resolution")["macs"].count().to_dict() == {"224x224": 2, "448x448": 2}


# Terminal


def test_the_terminal_scales_its_numbers_and_names_their_units(run: Run) -> None:
    text = printed(rows(run()), spreads(run()))
    line = next(line for line in text.splitlines() if "swin" in line and "448x448" in line)
    assert line.split() == [
        *("swin", "448x448", "2.300", "1.600", "17.60", "56.82", "1.100", "[1.085,", "1.115]"),
        *("132.0", "528.0", "52.00†"),
    ]
    for word in ("(M)", "(G)", "(ms)", "img/s", "(MiB)", "(%)", "time ratio", "top-1"):
        assert word in text, word


@pytest.mark.parametrize("width", [40, 80, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal_and_no_row_is_broken(run: Run, width: int) -> None:
    table = rows(run(["focal", "a_mechanism_with_a_name_much_too_long_for_it"], batch_size=8) + run(batch_size=1))
    lines = printed(table, width=width).splitlines()
    assert max(map(len, lines)) <= width
    rule = next(index for index, line in enumerate(lines) if "─" in line)
    shown = lines[rule + 1 : rule + 1 + len(table)]
    assert all(line.startswith(("focal", "swin", "a_mec")) for line in shown)


def test_a_narrow_terminal_says_what_it_leaves_out(run: Run) -> None:
    table = rows(run())
    assert "Left out" not in printed(table, width=120)
    narrow = printed(table, width=80)
    assert "Left out at this width: params (M)" in narrow
    for kept in ("latency", "time ratio", "top-1", "52.00†"):
        assert kept in narrow


def test_a_transfer_is_marked_and_explained_and_a_trained_score_is_not(run: Run) -> None:
    text = printed(rows(run(["focal"])))
    assert "60.00 " in text
    assert "50.00†" in text
    assert "† transfer: trained at 224x224; not ranked." in text
    assert "†" not in printed(rows(run(["focal"], each=True)))


def test_a_tie_is_said_within_the_noise_and_not_outside(run: Run) -> None:
    records = [
        replace(
            item,
            measurements=tuple(replace(m, low=0.995) if m.metric == "time_ratio" else m for m in item.measurements),
        )
        for item in run()
    ]
    assert "tie\n" in printed(rows(records), spreads(records)).replace(" ", "")
    assert "tie\n" not in printed(rows(run()), spreads(run())).replace(" ", "")


def test_the_best_of_several_seeds_is_bold_and_a_single_seed_never(run: Run) -> None:
    several, single = run(seeds=2), run(seeds=1)
    assert re.findall(r"\x1b\[1m *(\d[^\x1b]*)", printed(rows(several), spreads(several), styled=True)) == ["62.50"]
    assert re.findall(r"\x1b\[1m *(\d[^\x1b]*)", printed(rows(single), spreads(single), styled=True)) == []
    assert "indicative" in printed(rows(single))


def test_a_failure_shows_its_status_and_its_reason(run: Run, spoil: Spoil) -> None:
    records = spoil(run(), "out_of_memory", "no room", probe="latency", mechanism="swin", resolution=(448, 448))
    text = printed(rows(records))
    assert "out of memory" in text
    assert "swin 448x448: latency: no room" in text


def test_of_many_failures_the_first_are_told_and_the_others_counted(run: Run, spoil: Spoil) -> None:
    text = printed(rows(spoil(run([f"m{i}" for i in range(9)], [(224, 224)]), "failed", "broken", probe="macs")))
    assert text.count("macs: broken") == 5
    assert "and 4 more" in text


def test_a_strangers_name_is_no_markup_and_no_terminal_command(run: Run) -> None:
    text = printed(rows(run(["[red]x[/red]", "a\x1b[2Jb"])), styled=True)
    assert "[red]x[/red]" in text
    assert "\x1b[2J" not in text


def test_what_is_held_equal_is_said_once_and_what_varies_has_a_column(run: Run) -> None:
    both = printed(rows(run(batch_size=1) + run(batch_size=8)))
    assert "task classification, size nano, fp32, cpu, 2 threads" in both
    assert "batch" in both.splitlines()[0]
    assert "size nano, batch size 1, fp32, cpu, 2 threads" in printed(rows(run()))


def test_a_thousand_rows_are_a_thousand_lines_in_seconds(run: Run) -> None:
    table = rows(run([f"m{i}" for i in range(100)], [(32 * i, 32 * i) for i in range(1, 11)]))
    assert len(table) == 1000
    started = time.perf_counter()
    text = printed(table, spreads(run()))
    assert time.perf_counter() - started < 10
    assert len(re.findall(r"^m\d+ .*\d+x\d+ ", text, re.MULTILINE)) == 1000


def test_no_rows_are_said_to_be_none() -> None:
    assert "Nothing was measured." in printed([])


def test_a_headline_is_a_percentage_under_its_name_and_the_legend_names_task_and_head(
    trained: Callable[..., list[Record]],
) -> None:
    detected = trained({"focal": [[0.3]]}, task="detection", head="retinanet", metric="box_ap", value=0.3145)
    segmented = trained({"focal": [[0.3]]}, task="segmentation", head="upernet", metric="miou", value=0.4512)
    for records, header, value, legend in (
        (detected, "box AP", "31.45", "task detection (retinanet), size nano"),
        (segmented, "mIoU", "45.12", "task segmentation (upernet), size nano"),
    ):
        text = printed(rows(records))
        assert header in text
        assert "(%)" in text
        assert value in text
        assert legend in text
    both = printed(rows(detected + segmented))
    for words in ("score", "(%)", "detection (retinanet)", "segmentation (upernet)", "31.45", "45.12"):
        assert words in both
    assert "task detection" not in both
