"""A report of ten thousand records: rows, table, Markdown, figures.

Two shapes: the costs of many mechanisms at many resolutions, and the scores of many trainings of a few.
"""

from dataclasses import asdict
from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

from attnbench.config import Recipe, Timing
from attnbench.record import Cell, Measurement, Record
from attnbench.report import write

RECORDS = 10_000
MECHANISMS = 50
TRAINED, SEEDS, SIDES = 8, 250, (128, 160, 192, 224, 256)
STARTED = "2026-01-01T00:00:00+00:00"


def records() -> list[Record]:
    """Return the cost records of many mechanisms at many resolutions, with 40 rounds behind each time."""
    found: list[Record] = []
    side = 32
    while len(found) < RECORDS:
        for index in range(MECHANISMS):
            cell = Cell("macs", f"mechanism_{index}", "nano", (side, side), "cpu", "fp32", 2, 3, task="classification")
            found += costs(cell, 1 + index / 100, side)
        side += 8
    return found[:RECORDS]


def costs(cell: Cell, slow: float, side: int) -> list[Record]:
    area = slow * (side / 224) ** 2
    fields = {**asdict(cell), "batch_size": 1}
    timed = {**fields, "reference": "mechanism_0", "timing": asdict(Timing())}
    rounds = tuple(index // 2 for index in range(80))
    samples = tuple(area * (1 + (index * 37 % 11) / 100) for index in range(80))
    return [
        Record(cell, "ok", (Measurement("macs", 4e8 * area, "MAC"),), {}, STARTED),
        Record(
            Cell(**{**timed, "probe": "latency"}),
            "ok",
            (
                Measurement("latency", area, "s", 0.98 * area, 1.02 * area, samples=samples, rounds=rounds),
                Measurement("throughput", 1 / area, "img/s"),
                Measurement("time_ratio", slow, "1", 0.98 * slow, 1.02 * slow),
                Measurement("noise_floor", 0.01, "1"),
            ),
            {"launches": [0, 10, 20, 30]},
            STARTED,
        ),
        Record(
            Cell(**{**fields, "probe": "memory_inference"}),
            "ok",
            (Measurement("peak_memory_inference", 1e7 * area, "B", kind="cpu_tensor_ledger"),),
            {},
            STARTED,
        ),
    ]


def scored() -> list[Record]:
    """Return the trainings of a few mechanisms with many seeds, their scores at five resolutions, and their costs."""
    found: list[Record] = []
    for index in range(TRAINED):
        for side in SIDES:
            cell = Cell("macs", f"mechanism_{index}", "nano", (side, side), "cpu", "fp32", 2, 3, task="classification")
            found += costs(cell, 1 + index / 100, side)
            for seed in range(SEEDS):
                found += scores(cell, 0.5 + index / 50 + side / 2000 + seed % 17 / 500, seed)
    return found


def scores(cell: Cell, top1: float, seed: int) -> list[Record]:
    own = {"seed": seed, "train_resolution": (SIDES[0],) * 2, "recipe": asdict(Recipe()), "data": "made-up.v1"}
    accuracy = Cell(**{**asdict(cell), **own, "probe": "accuracy"})
    measured = (Measurement("top1", top1, "1", top1 - 0.02, top1 + 0.02),)
    made = [Record(accuracy, "ok", measured, {}, STARTED)]
    if cell.resolution == accuracy.train_resolution:
        training = Cell(**{**asdict(accuracy), "probe": "training"})
        made.append(Record(training, "ok", (Measurement("train_loss", 1.0, "1"),), {}, STARTED))
    return made


def test_report(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    found = records()
    benchmark.pedantic(write, (tmp_path, found, ""), rounds=3, warmup_rounds=1)


def test_report_of_many_seeds(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    found = scored()
    benchmark.pedantic(write, (tmp_path, found, ""), rounds=3, warmup_rounds=1)
