"""Two real processes on the CPU: the training of one, and an end for all with the first error or the parent."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attnbench.errors import UserError
from attnbench.recipe import Recipe
from attnbench.training.distributed import train_in_processes

SCRIPT = Path(__file__).with_name("script.py")
RECIPE = {"samples": 40, "batch_size": 8}


def run(folder: Path, name: str, **words: Any) -> tuple[Any, list[str]]:
    given = {"mechanism": "swin", "recipe": RECIPE, "out": str(folder / f"{name}.pt"), **words}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), json.dumps(given)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    if done.returncode:
        return done.stderr, []
    return torch.load(folder / f"{name}.pt", weights_only=True), done.stdout.splitlines()


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_with_the_same_batch(tmp_path: Path) -> None:
    recipe = {**RECIPE, "accumulate": 2, "ema": 0.5, "evaluations": 1}
    one, said = run(tmp_path, "one", recipe=recipe)
    two, also = run(tmp_path, "two", recipe=recipe, processes=2)
    assert len(one["losses"]) == 5
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    torch.testing.assert_close(two["model"], one["model"], rtol=1e-3, atol=1e-4)
    assert also == said  # progress, and the curve


@pytest.mark.slow
def test_two_processes_go_on_where_they_were_killed(tmp_path: Path) -> None:
    words = {"mechanism": "identity", "processes": 2, "recipe": {**RECIPE, "drop_path": 0.3}}
    whole, _ = run(tmp_path, "whole", **words)
    kept = {"checkpoint": str(tmp_path / "state"), "every": 0.0, "out": str(tmp_path / "killed.pt")}
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), json.dumps({**words, **kept})],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(3)] == ["0.2\n", "0.4\n", "0.6\n"]
    ranks = children(process.pid)
    assert len(ranks) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in ranks) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in ranks)  # they died with their parent
    again, said = run(tmp_path, "killed", **words, **kept)
    assert said[0] != "0.2"
    assert again["losses"] == whole["losses"]
    torch.testing.assert_close(again["model"], whole["model"], rtol=0, atol=0)


@pytest.mark.slow
def test_the_error_of_one_process_ends_all_and_is_what_is_said(tmp_path: Path) -> None:
    began = time.monotonic()
    said, _ = run(tmp_path, "none", processes=2, recipe={**RECIPE, "accumulate": 3})
    assert said.strip().splitlines()[-1] == (
        "attnbench.errors.UserError: recipe.batch_size (8) does not divide into 2 processes of 3 accumulated parts each"
    )
    assert time.monotonic() - began < 100


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fate", "message"),
    [("raise", r"^the second process cannot$"), ("die", "process 1 of 2 that trained was ended by SIGKILL")],
)
def test_what_happens_to_the_second_process_only_ends_the_first_too(
    fate: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[3])  # the processes import this module by its name
    kind = UserError if fate == "raise" else RuntimeError
    with pytest.raises(kind, match=message):
        train_in_processes(
            nn.Linear(1, 1),
            partial(FATES[fate], os.getpid()),
            Recipe(samples=8, batch_size=8),
            processes=2,
            resolution=(32, 32),
            seed=0,
            device=torch.device("cpu"),
            autocast=None,
            workers=0,
            threads=2,
            progress=print,
        )


@pytest.mark.slow
def test_parameters_that_some_processes_do_not_use_get_the_mean_of_all_gradients(tmp_path: Path) -> None:
    one, _ = run(tmp_path, "one", mechanism="sometimes")
    two, _ = run(tmp_path, "two", mechanism="sometimes", processes=2)
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    torch.testing.assert_close(two["model"], one["model"], rtol=1e-4, atol=1e-5)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_more_processes_than_gpus_are_refused() -> None:
    with pytest.raises(UserError, match="need a GPU each"):
        train_in_processes(
            nn.Linear(1, 1),
            partial(refuse, 0),
            Recipe(),
            processes=torch.cuda.device_count() + 1,
            resolution=(32, 32),
            seed=0,
            device=torch.device("cuda"),
            autocast=None,
            workers=0,
            threads=2,
            progress=print,
        )


def refuse(parent: int, device: torch.device) -> tuple[nn.Module, Any]:
    """Be built in the first process, and raise in the second."""
    if torch.distributed.get_rank() == 1:
        raise UserError("the second process cannot")
    torch.distributed.barrier()
    raise AssertionError(parent)


def vanish(parent: int, device: torch.device) -> tuple[nn.Module, Any]:
    """Be built in the first process, and be killed in the second."""
    if torch.distributed.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    torch.distributed.barrier()
    raise AssertionError(parent)


FATES = {"raise": refuse, "die": vanish}


def children(pid: int) -> list[int]:
    """Return the processes that train; Python's own tracker of resources is none."""
    found = []
    for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes():
                found.append(int(each))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
