"""The record store: every append is on disk when it returns; one append takes all that ends together."""

from itertools import count
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from attnbench.record import Cell, Measurement, Record
from attnbench.store import Store


@pytest.mark.parametrize("together", [1, 10, 100])
def test_append(benchmark: BenchmarkFixture, tmp_path: Path, together: int) -> None:
    numbers = count()
    measured = (Measurement("latency", 0.1, "s", samples=(0.1,) * 40),)

    def record() -> Record:
        cell = Cell("latency", "swin", "nano", (224, 224), "cpu", "fp32", 2, 3, seed=next(numbers))
        return Record(cell, "ok", measured, {}, "2026-01-01T00:00:00+00:00")

    with Store(tmp_path / "run") as store:

        def append() -> None:
            store.append(*(record() for _ in range(together)))

        benchmark(append)
    benchmark.extra_info["records per second"] = together / benchmark.stats.stats.median
