"""The record store: every append is on disk when it returns."""

from itertools import count
from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

from attnbench.record import Cell, Measurement, Record
from attnbench.store import Store


def test_append(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    numbers = count()
    measured = (Measurement("latency", 0.1, "s", samples=(0.1,) * 40),)

    with Store(tmp_path / "run") as store:

        def append() -> None:
            cell = Cell("latency", "swin", "nano", (224, 224), "cpu", "fp32", 2, 3, seed=next(numbers))
            store.append(Record(cell, "ok", measured, {}, "2026-01-01T00:00:00+00:00"))

        benchmark(append)
