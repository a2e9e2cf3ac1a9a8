"""The command line as a user meets it: real processes, their output, their exit codes, and what they leave behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ATTNBENCH = [sys.executable, "-m", "attnbench.cli"]


def attnbench(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run([*ATTNBENCH, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def refused(result: subprocess.CompletedProcess[str]) -> str:
    """Return the one line on stderr of a command that was refused."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("attnbench: error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--mechanisms", "swn"], "did you mean 'swin'"),
        (["run", "--mechanisms", "swin,"], "separated by commas"),
        (["run", "--size", "tny"], "did you mean 'tiny'"),
        (["run", "--tasks", "clasification"], "did you mean 'classification'"),
        (["run", "--preset", "quik"], "did you mean 'quick'"),
        (["run", "--res", "0"], "under 32"),
        (["run", "--res", "-5"], "HxW"),
        (["run", "--res", "224x"], "HxW"),
        (["run", "--res", "31"], "under 32"),
        (["run", "--seeds", "two"], "--seeds"),
        (["run", "--device", "cuda:77"], "cuda:77"),
        (["run", "--data", "nowhere"], "nowhere"),
        (["run", "--steps", "0"], "--steps"),
        (["run", "resolution=[64]"], "did you mean 'resolutions'"),
        (["run", "+size=tiny"], "+size=tiny"),
        (["run", "~size"], "~size"),
        (["run", "hydra.run.dir=x"], "hydra"),
        (["run", "--size", "tiny", "size=nano"], "given twice"),
        (["run", "size=tiny", "size=nano"], "size is given twice"),
        (["run", "--steps", "2", "recipe.samples=8"], "recipe.samples is given twice"),
        (["run", "--out", ""], "empty path"),
        (["run", "resolutions=[]"], "resolutions: at least one"),
        (["run", "--data", 5000 * "a"], "File name too long"),
        (["report", 5000 * "a"], "File name too long"),
        (["run", "--no-such-flag"], "--no-such-flag"),
        (["run", "--mech", "swin"], "--mech"),
        (["list", "mechanism"], "mechanisms"),
        (["report", "nowhere"], "records.jsonl"),
        (["run", "--models", "focal_tinny"], "did you mean 'focal_tiny'"),
        (["run", "--models", "focal_tiny[windowsize=3]"], "did you mean 'window_size'"),
        (["table", "imagnet"], "did you mean 'imagenet'"),
        (["eval", "--model", "swn_tiny", "--weights", "x", "--data", "y"], "did you mean 'swin_tiny'"),
        ([], "required"),
        (["walk"], "walk"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(words: list[str], message: str, tmp_path: Path) -> None:
    assert message in refused(attnbench(*words, cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    message = refused(attnbench("run", "--res", "32", "--out", "file/run", cwd=tmp_path))
    assert "file" in message
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_a_traceback_is_shown_only_on_request(tmp_path: Path) -> None:
    result = attnbench("run", "--mechanisms", "swn", "--debug", cwd=tmp_path)
    assert result.returncode == 2
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("attnbench: error: ")


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["run", "--help"],
        ["--version"],
        ["list", "mechanisms"],
        ["list", "tasks"],
        ["list", "models"],
        ["table", "--help"],
        ["eval", "--help"],
    ],
)
def test_help_and_lists_import_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    code = f"""
import sys
from attnbench.cli import main
try:
    main({words!r})
except SystemExit as end:
    assert not end.code
heavy = {{"torch", "pandas", "seaborn", "matplotlib", "timm", "torchvision", "hydra"}} & set(sys.modules)
print(sorted(heavy), file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"
    assert result.stdout


@pytest.mark.parametrize("what", ["mechanisms", "tasks", "sizes", "presets"])
def test_lists_are_also_json(what: str, tmp_path: Path) -> None:
    names = [item["name"] for item in json.loads(attnbench("list", what, "--json", cwd=tmp_path).stdout)]
    plain = attnbench("list", what, cwd=tmp_path).stdout
    assert names
    assert [line.split()[0] for line in plain.splitlines()] == names


RUN = [
    "run",
    "--mechanisms",
    "swin,identity",
    "--res",
    "32,48x40",
    "--threads",
    "1",
    "--steps",
    "2",
    "recipe.batch_size=4",
]
QUICK = ["timing.budget=0.5", "timing.min_rounds=3", "timing.max_rounds=3", "timing.sample=0.001"]
COLUMNS = [
    *("mechanism", "size", "task", "resolution", "status", "reason", "parameters", "macs", "latency_s"),
    *("throughput_img_per_s", "time_ratio", "time_ratio_low", "time_ratio_high", "reference"),
    *(
        "peak_memory_inference_B",
        "peak_memory_training_B",
        "memory_kind",
        "batch_size",
        "precision",
        "device",
        "threads",
    ),
    *("headline_metric", "headline_value", "train_resolution", "transfer", "seeds"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, object]]]:
    """One real run, in a folder whose name every shell and Hydra would trip over."""
    folder = tmp_path_factory.mktemp("runs") / "a run, with ~ = [é] $x"
    result = attnbench(*RUN, *QUICK, "--out", str(folder), "--json", cwd=folder.parent)
    assert result.returncode == 0, result.stderr
    return folder, json.loads(result.stdout)


def test_a_run_prints_one_complete_row_per_mechanism_and_resolution(
    finished: tuple[Path, list[dict[str, object]]],
) -> None:
    _, rows = finished
    assert [(row["mechanism"], row["resolution"]) for row in rows] == [
        ("swin", [32, 32]),
        ("swin", [48, 40]),
        ("identity", [32, 32]),
        ("identity", [48, 40]),
    ]
    for row in rows:
        assert list(row)[: len(COLUMNS)] == COLUMNS
        assert (row["status"], row["reference"], row["train_resolution"]) == ("ok", "swin", [32, 32])
        assert row["transfer"] is (row["resolution"] != [32, 32])
        assert [name for name in COLUMNS if row[name] is None] in (
            ["reason"],
            ["reason", "time_ratio_low", "time_ratio_high"],
        )


def test_a_run_leaves_its_records_table_report_figures_and_weights(
    finished: tuple[Path, list[dict[str, object]]],
) -> None:
    folder, _ = finished
    for name in ("config.yaml", "records.jsonl", "table.csv", "report.md"):
        assert (folder / name).stat().st_size > 0
    assert len(list((folder / "weights").glob("*.safetensors"))) == 2
    assert {item.suffix for item in (folder / "figures").iterdir()} == {".png", ".svg"}
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len({line["key"] for line in lines}) == len(lines) == 2 * 2 * 5 + 2 + 4
    assert (folder / "table.csv").read_text(encoding="utf-8").startswith(",".join(COLUMNS))


def test_the_same_command_again_measures_nothing(finished: tuple[Path, list[dict[str, object]]]) -> None:
    folder, rows = finished
    before = (folder / "records.jsonl").read_bytes()
    result = attnbench(*RUN, *QUICK, "--out", str(folder), "--json", cwd=folder.parent)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == rows
    assert (folder / "records.jsonl").read_bytes() == before


def test_report_rebuilds_the_table_from_the_records(finished: tuple[Path, list[dict[str, object]]]) -> None:
    folder, rows = finished
    (folder / "table.csv").unlink()
    result = attnbench("report", str(folder), "--json", cwd=folder.parent)
    assert json.loads(result.stdout) == rows
    assert (folder / "table.csv").is_file()


def test_a_mechanism_added_later_is_timed_beside_the_reference_again(
    finished: tuple[Path, list[dict[str, object]]], tmp_path: Path
) -> None:
    folder, rows = finished
    before = len((folder / "records.jsonl").read_text(encoding="utf-8").splitlines())
    words = [word.replace("swin,identity", "swin,identity,full") for word in RUN]
    result = attnbench(*words, *QUICK, "--out", str(folder), "--json", "--measure", "time", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "swin is timed again" in result.stderr
    after = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    added = [json.loads(line)["cell"] for line in after[before:]]
    assert {cell["mechanism"] for cell in added} == {"full"}
    latencies = {(row["mechanism"], str(row["resolution"])): row["latency_s"] for row in rows}
    for row in json.loads(result.stdout):
        if row["mechanism"] != "full":
            assert row["latency_s"] == latencies[row["mechanism"], str(row["resolution"])]
        else:
            assert row["time_ratio"] > 0


def test_equal_seeds_give_equal_accuracy_figures(
    finished: tuple[Path, list[dict[str, object]]], tmp_path: Path
) -> None:
    _, rows = finished
    result = attnbench(*RUN, "--measure", "accuracy", "--out", "again", "--json", cwd=tmp_path)
    again = [row["headline_value"] for row in json.loads(result.stdout)]
    assert again == [row["headline_value"] for row in rows]


@contextmanager
def heeding_interrupts() -> Iterator[None]:
    """Let processes that start here heed Ctrl-C, whatever this one was started with."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_run_ends_at_once_keeps_its_cells_and_goes_on(signal_number: int, tmp_path: Path) -> None:
    words = [*RUN, *QUICK, "--measure", "macs,time", "--out", "run"]
    # A shell starts what it puts in the background with Ctrl-C ignored, and these tests may be such.
    with heeding_interrupts():
        process = subprocess.Popen([*ATTNBENCH, *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    records = tmp_path / "run" / "records.jsonl"
    while process.poll() is None and not (records.is_file() and records.read_bytes().count(b"\n") >= 2):
        time.sleep(0.05)
    process.send_signal(signal_number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    kept = records.read_bytes()
    assert not orphans(tmp_path)
    assert attnbench(*words, cwd=tmp_path).returncode == 0
    assert records.read_bytes().startswith(kept)
    keys = [json.loads(line)["key"] for line in records.read_text(encoding="utf-8").splitlines()]
    assert len(keys) == len(set(keys)) == 8


def test_a_second_run_on_a_busy_folder_is_refused_with_its_holder_named(tmp_path: Path) -> None:
    words = [*RUN, *QUICK, "--measure", "macs,time", "--out", "run"]
    process = subprocess.Popen([*ATTNBENCH, *words], cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not (tmp_path / "run" / "config.yaml").is_file():
            time.sleep(0.05)
        assert str(process.pid) in refused(attnbench(*words, cwd=tmp_path))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def test_a_killed_run_leaves_no_process_behind_and_goes_on(tmp_path: Path) -> None:
    words = [*RUN, *QUICK, "--measure", "macs,time", "--out", "run"]
    process = subprocess.Popen([*ATTNBENCH, *words], cwd=tmp_path, stderr=subprocess.DEVNULL)
    records = tmp_path / "run" / "records.jsonl"
    while process.poll() is None and not (records.is_file() and records.read_bytes().count(b"\n") >= 3):
        time.sleep(0.05)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while orphans(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not orphans(tmp_path)
    assert attnbench(*words, cwd=tmp_path).returncode == 0
    keys = [json.loads(line)["key"] for line in records.read_text(encoding="utf-8").splitlines()]
    assert len(keys) == len(set(keys)) == 8


def orphans(folder: Path) -> list[str]:
    """Return the processes, ourselves and our parents left out, that work in ``folder``."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder and "Z" not in (process / "stat").read_text().split(") ")[1][:1]:
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found
