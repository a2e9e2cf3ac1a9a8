"""Kill -9 at any moment: the same command goes on and ends with the same bits."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).with_name("script.py")
RECIPE = {"samples": 48, "batch_size": 4, "accumulate": 2, "drop_path": 0.2, "ema": 0.9, "evaluations": 2}


def start(folder: Path, name: str, **words: Any) -> "subprocess.Popen[str]":
    given = {"mechanism": "swin", "recipe": RECIPE, "out": str(folder / f"{name}.pt"), **words}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), json.dumps(given)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, list[str]]:
    out, errors = process.communicate(timeout=120)
    assert process.returncode in (0, -signal.SIGKILL), errors
    return process.returncode, out.splitlines()


@pytest.mark.slow
def test_a_training_that_is_killed_again_and_again_ends_with_the_bits_of_one_that_is_not(tmp_path: Path) -> None:
    _, whole = finish(start(tmp_path, "whole", every=0.0))
    kept = {"checkpoint": str(tmp_path / "state"), "every": 0.0}
    steps: list[str] = []

    for moment in ("writing:10", "replacing:3", "writing:500"):
        code, lines = finish(start(tmp_path, "killed", die=moment, **kept))
        assert code == -signal.SIGKILL
        steps += lines
    assert (tmp_path / "state.partial").exists()  # the last was killed in the middle of a file

    process = start(tmp_path, "killed", **kept)
    assert process.stdout is not None
    steps += [process.stdout.readline(), process.stdout.readline()]
    process.send_signal(signal.SIGKILL)  # wherever it is then
    steps += finish(process)[1]

    code, lines = finish(start(tmp_path, "killed", **kept))
    assert code == 0
    assert 0 < len(lines) < len(whole)  # it went on, and did not start anew
    assert lines[-1] == whole[-1]  # the curve
    one, other = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "killed"))
    assert one["losses"] == other["losses"]
    torch.testing.assert_close(one["model"], other["model"], rtol=0, atol=0)
