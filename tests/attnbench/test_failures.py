"""A failing cell is a row, and the others go on: mechanisms that raise, crash, hang, starve or produce NaN."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = '''
"""Mechanisms that fail, each in its own way, when their model really runs (on meta they are well-behaved)."""
import json, os, sys, time
import attnbench, torch
from torch import nn

def failing(name, fail, any_resolution=True):
    @attnbench.mechanism(name, any_resolution=any_resolution)
    class Failing(nn.Module):
        def __init__(self, slot, settings):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(slot.dim))
        def forward(self, x):
            return x * self.scale if x.is_meta else fail(x)
        def macs(self, height, width):
            return 0

def raises(x): raise RuntimeError("no such\\nkernel")
def crashes(x): os.abort()
def hangs(x): time.sleep(1000)
def starves(x): return x + torch.empty(1 << 58).sum()
def undefined(x): return x * float("nan")
def greedy(x): return starves(x) if x.shape[1] >= 12 else x
def unlucky(x):
    if not os.path.exists("killed"):
        open("killed", "w").close()
        os.kill(os.getpid(), 9)
    return x

failing("raising", raises)
failing("crashing", crashes)
failing("hanging", hangs)
failing("starving", starves)
failing("undefined", undefined)
failing("greedy", greedy)
failing("unlucky", unlucky)
failing("broadcast", lambda x: x.mean((1, 2), keepdim=True))
failing("fixed", lambda x: x, any_resolution=False)

if __name__ == "__main__":
    config = attnbench.RunConfig(**json.loads(sys.argv[1]), device="cpu", threads=1, timeout=float(sys.argv[2]))
    config.timing.budget, config.timing.min_rounds, config.timing.max_rounds = 0.5, 3, 3
    config.recipe = {"samples": 8, "batch_size": 4}
    config.out = "run"
    attnbench.run(config)
'''


def run(folder: Path, timeout: float, **config: Any) -> list[dict[str, Any]]:
    """Run mechanisms of the script and return the records, in order."""
    (folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    words = [sys.executable, "script.py", json.dumps(config), str(timeout)]
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    lines = (folder / "run" / "records.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_every_failure_is_a_row_with_its_reason_and_the_reference_goes_on(tmp_path: Path) -> None:
    mechanisms = ["identity", "raising", "crashing", "starving"]
    records = run(tmp_path, 120, mechanisms=mechanisms, resolutions=["32"], measure=["cost"])
    ended = {(record["cell"]["mechanism"], record["cell"]["probe"]): record for record in records}
    assert len(records) == len(ended) == 5 * len(mechanisms)
    for probe in ("latency", "training_step", "memory_inference", "memory_training"):
        assert ended["identity", probe]["status"] == "ok"
        assert ended["raising", probe]["status"] == "failed"
        assert ended["raising", probe]["error"] == "RuntimeError: no such kernel"
        assert ended["crashing", probe]["status"] == "failed"
        assert "SIGABRT" in ended["crashing", probe]["error"]
        assert ended["starving", probe]["status"] == "out_of_memory"
    assert all(ended[name, "macs"]["status"] == "ok" for name in mechanisms)
    ratio = next(item for item in ended["identity", "latency"]["measurements"] if item["metric"] == "time_ratio")
    assert ratio["value"] == 1


def test_without_its_reference_a_contender_has_times_and_no_ratio(tmp_path: Path) -> None:
    records = run(tmp_path, 120, mechanisms=["raising", "identity"], resolutions=["32"], measure=["time"])
    (timed,) = [item for item in records if item["cell"]["probe"] == "latency" and item["status"] == "ok"]
    assert {item["metric"] for item in timed["measurements"]} == {"latency", "throughput", "anchor_ratio"}


def test_a_cell_that_hangs_ends_at_its_timeout(tmp_path: Path) -> None:
    records = run(tmp_path, 6, mechanisms=["identity", "hanging"], resolutions=["32"], measure=["time"])
    statuses = {(item["cell"]["mechanism"], item["cell"]["probe"]): item["status"] for item in records}
    assert statuses["hanging", "latency"] == "timeout"
    assert statuses["identity", "latency"] == "ok"


def test_a_loss_that_is_not_a_number_stops_the_training_with_its_step(tmp_path: Path) -> None:
    records = run(tmp_path, 120, mechanisms=["undefined", "identity"], resolutions=["32"], measure=["accuracy"])
    ended = {(item["cell"]["mechanism"], item["cell"]["probe"]): item for item in records}
    assert "nan at step 1 of 2" in ended["undefined", "training"]["error"]
    assert ended["undefined", "accuracy"]["status"] == "failed"
    assert "its training" in ended["undefined", "accuracy"]["error"]
    assert ended["identity", "accuracy"]["status"] == "ok"


def test_a_mechanism_bound_to_its_resolution_is_unsupported_elsewhere(tmp_path: Path) -> None:
    records = run(tmp_path, 120, mechanisms=["fixed"], resolutions=["32", "64"], measure=["accuracy"])
    statuses = {
        tuple(item["cell"]["resolution"]): item["status"] for item in records if item["cell"]["probe"] == "accuracy"
    }
    assert statuses == {(32, 32): "ok", (64, 64): "unsupported"}


def test_larger_cells_of_what_ran_out_of_memory_are_skipped_and_others_killed_worker_is_replaced(
    tmp_path: Path,
) -> None:
    resolutions = ["32", "48", "64"]
    records = run(tmp_path, 120, mechanisms=["greedy", "unlucky"], resolutions=resolutions, measure=["memory"])
    ended = {
        (item["cell"]["mechanism"], item["cell"]["probe"], item["cell"]["resolution"][0]): item for item in records
    }
    assert len(records) == len(ended) == 12
    for probe in ("memory_inference", "memory_training"):
        statuses = [ended["greedy", probe, side]["status"] for side in (32, 48, 64)]
        assert statuses == ["ok", "out_of_memory", "skipped"]
        assert "48x48" in ended["greedy", probe, 64]["error"]
    assert (tmp_path / "killed").exists()
    assert {item["status"] for key, item in ended.items() if key[0] == "unlucky"} == {"ok"}


def test_what_cannot_fit_is_skipped_once_with_its_prediction_and_measured_when_it_may(tmp_path: Path) -> None:
    config = {"mechanisms": ["identity"], "resolutions": ["64"], "measure": ["memory"]}
    limited = run(tmp_path, 120, **config, memory_limit="1MiB")
    assert [item["status"] for item in limited] == ["skipped", "skipped"]
    predicted = {item["cell"]["probe"]: item["measurements"][-1] for item in limited}
    assert run(tmp_path, 120, **config, memory_limit="1MiB") == limited
    measured = run(tmp_path, 120, **config)[2:]
    assert [item["status"] for item in measured] == ["ok", "ok"]
    for item in measured:
        peak = next(one["value"] for one in item["measurements"] if one["metric"].startswith("peak_memory"))
        parameters = 4 * 1_578_019  # of nano with three classes
        images = 4 * 3 * 64 * 64
        assert predicted[item["cell"]["probe"]]["value"] == pytest.approx(parameters + images + peak, rel=0.01)


def test_an_output_of_another_shape_is_no_measurement(tmp_path: Path) -> None:
    records = run(tmp_path, 120, mechanisms=["broadcast"], resolutions=["32"], measure=["memory"])
    assert {item["status"] for item in records} == {"failed"}
    assert all("attention returned" in item["error"] for item in records)


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    source = SCRIPT.replace('if __name__ == "__main__":', "if True:")
    (tmp_path / "script.py").write_text(source, encoding="utf-8")
    config = json.dumps({"mechanisms": ["raising"], "resolutions": ["32"], "measure": ["cost"]})
    words = [sys.executable, "script.py", config, "60"]
    result = subprocess.run(words, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert 'if __name__ == "__main__"' in result.stderr


@pytest.mark.parametrize("code", ["import attnbench; attnbench.run(attnbench.RunConfig(**{}))"])
def test_a_run_needs_no_script_file(code: str, tmp_path: Path) -> None:
    values = "mechanisms=['identity'], resolutions=[(32, 40)], measure=['macs'], device='cpu', threads=1, out='run'"
    result = subprocess.run(
        [sys.executable, "-"],
        input=f"{code.replace('**{}', values)}\nprint('done')",
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.stdout == "done\n", result.stderr
