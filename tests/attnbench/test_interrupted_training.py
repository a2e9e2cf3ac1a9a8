"""A run that is killed in the middle of a training: the same command ends with the bits of one that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORDS = [
    *("run", "--mechanisms", "identity", "--res", "32", "--measure", "accuracy", "--device", "cpu", "--threads", "1"),
    *("--steps", "60", "recipe.batch_size=4", "recipe.drop_path=0.3", "recipe.evaluations=2", "checkpoint=0.001"),
]


def command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "attnbench.cli", *WORDS, "--out", str(folder)]


def finish(folder: Path) -> tuple[bytes, dict[str, float]]:
    """Run to the end; return the trained weights and the scores."""
    subprocess.run(command(folder), check=True, capture_output=True)
    lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["cell"]["probe"] for record in records if record["status"] == "ok"] == ["training", "accuracy"]
    assert not list((folder / "weights").glob("*.checkpoint"))
    (weights,) = (folder / "weights").iterdir()
    curve = {item["metric"]: item["samples"] for item in records[-2]["measurements"] if item.get("kind") == "curve"}
    (score,) = [item["value"] for item in records[-1]["measurements"]]
    assert curve["top1"][-1] == score  # what was kept reloads to the last digit
    return weights.read_bytes(), curve


@pytest.mark.slow
def test_a_run_killed_while_it_trains_ends_with_the_same_bits(tmp_path: Path) -> None:
    expected = finish(tmp_path / "whole")
    folder = tmp_path / "killed"
    for _ in range(2):  # twice: the second goes on from what the first left
        process = subprocess.Popen(command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = next(iter((folder / "weights").glob("*.checkpoint")), None) if folder.exists() else None
        written = before.stat().st_mtime_ns if before else 0
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            now = next(iter((folder / "weights").glob("*.checkpoint")), None)
            if now is not None and now.stat().st_mtime_ns > written:
                break
            time.sleep(0.01)
        assert process.poll() is None  # else there was nothing to kill
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert finish(folder) == expected
