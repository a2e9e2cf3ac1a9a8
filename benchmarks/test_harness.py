"""What the harness itself costs: the share of a timing that is spent outside the models, once its workers are up."""

import json
from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

import attnbench
from attnbench.config import Timing

SECONDS = 60.0


def overhead(folder: Path) -> float:
    """Return the share of the time from the first sample to the end of the last that no model or anchor was running."""
    lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    spent, stamps = 0.0, []
    for record in records:
        warm_up = record["environment"]["warm_up"]
        for item in record["measurements"]:
            spent += sum(item["samples"]) * warm_up[0]["repeats"]
            stamps += [
                (begin, begin + seconds) for begin, seconds in zip(item.get("times", ()), item["samples"], strict=True)
            ]
        later = warm_up[1:]  # launches after the first are part of the rounds, and warming up is work of the model
        copies = 2 if any(item["metric"] == "noise_floor" and item["samples"] for item in record["measurements"]) else 1
        spent += copies * sum(one["seconds"] for one in later)
    return 1 - spent / (max(end for _, end in stamps) - min(begin for begin, _ in stamps))


def test_timing_of_a_minute(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    config = attnbench.RunConfig(
        mechanisms=["focal", "swin"],
        measure=["time"],
        device="cpu",
        out=str(tmp_path / "run"),
        timing=Timing(budget=SECONDS, precision=1e-6, max_rounds=10**6),
    )
    benchmark.pedantic(attnbench.run, (config,), rounds=1)
    benchmark.extra_info["overhead"] = overhead(tmp_path / "run")
