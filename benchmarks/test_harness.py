"""What the harness itself costs: the share of a timing that is spent outside the contenders, once its workers are up.

Launching them anew is part of the measurement, and told beside it: ``launching`` is its share of the whole.
"""

import json
from itertools import pairwise
from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

import attnbench
from attnbench.config import Timing

SECONDS = 60.0


def shares(folder: Path) -> dict[str, float]:
    """Return the share of the rounds in which no contender ran, and of the whole in which there were no rounds."""
    lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    environment = records[0]["environment"]
    visits = [
        (number, begin, begin + seconds * environment["warm_up"][0]["repeats"])
        for record in records
        for item in record["measurements"]
        if item.get("times")
        for number, begin, seconds in zip(item["rounds"], item["times"], item["samples"], strict=True)
    ]
    starts = [*environment["launches"], 10**9]
    rounds = 0.0
    for first, after in pairwise(starts):
        own = [(begin, end) for number, begin, end in visits if first <= number < after]
        rounds += max(end for _, end in own) - min(begin for begin, _ in own)
    whole = max(end for _, _, end in visits) - min(begin for _, begin, _ in visits)
    return {"overhead": 1 - environment["seconds_in_visits"] / rounds, "launching": 1 - rounds / whole}


def test_timing_of_a_minute(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    config = attnbench.RunConfig(
        mechanisms=["focal", "swin"],
        measure=["time"],
        device="cpu",
        out=str(tmp_path / "run"),
        timing=Timing(budget=SECONDS, precision=1e-6, max_rounds=10**6),
    )
    benchmark.pedantic(attnbench.run, (config,), rounds=1)
    benchmark.extra_info.update(shares(tmp_path / "run"))
