"""Records such as a run writes, made up: every number is a plain function of mechanism, resolution and seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest

from attnbench.config import Timing
from attnbench.recipe import Recipe
from attnbench.record import Cell, Measurement, Record, Status

Resolution = tuple[int, int]
SMALL, LARGE = (224, 224), (448, 448)


def cell_record(cell: Cell, *measurements: Measurement, status: Status = "ok", error: str | None = None) -> Record:
    environment = {"cpu": "A | B", "versions": {"torch": "2.14.1"}, "load": cell.resolution[0] / 1000}
    return Record(cell, status, measurements if status == "ok" else (), environment, "2025-01-02T03:04:05Z", error)


def cost_records(cell: Cell, slow: float, reference: str, batch_size: int) -> list[Record]:
    area = cell.resolution[0] * cell.resolution[1] / 224**2
    latency = 0.004 * slow * area * batch_size
    sized = replace(cell, batch_size=batch_size)
    timed = replace(sized, probe="latency", reference=reference, timing=asdict(Timing()))
    memory = 30 * 2**20 * area * slow
    return [
        cell_record(cell, Measurement("parameters", 2.3e6, "1"), Measurement("macs", 4e8 * area, "MAC")),
        cell_record(
            timed,
            Measurement("latency", latency, "s", latency * 0.97, latency * 1.05),
            Measurement("throughput", batch_size / latency, "img/s"),
            Measurement("time_ratio", slow, "1", slow - 0.015, slow + 0.015),
            Measurement("noise_floor", 0.01, "1"),
        ),
        cell_record(
            replace(sized, probe="memory_inference"), Measurement("peak_memory_inference", memory, "B", kind="ledger")
        ),
        cell_record(
            replace(sized, probe="memory_training"), Measurement("peak_memory_training", 4 * memory, "B", kind="ledger")
        ),
    ]


def scored_records(cell: Cell, score: float, seed: int, trained: Resolution) -> list[Record]:
    accuracy = replace(
        cell, probe="accuracy", seed=seed, train_resolution=trained, recipe=Recipe().to_json(), data="made-up.v1"
    )
    training = replace(accuracy, probe="training", resolution=trained)
    measured = Measurement("top1", score, "1", score - 0.02, score + 0.02)
    return [cell_record(training, Measurement("train_loss", 1.0, "1")), cell_record(accuracy, measured)]


@pytest.fixture
def run() -> Callable[..., list[Record]]:
    """Make the records of one run: mechanism i is 1 + i/10 times as slow as the first and scores 0.6 + i/50."""

    def make(
        mechanisms: Sequence[str] = ("focal", "swin"),
        resolutions: Sequence[Resolution] = (SMALL, LARGE),
        seeds: int = 1,
        *,
        each: bool = False,
        cost: bool = True,
        **common: Any,
    ) -> list[Record]:
        batch_size = common.pop("batch_size", 1)
        task = common.pop("task", "classification")
        shared = {"size": "nano", "device": "cpu", "precision": "fp32", "threads": 2, "num_classes": 10, **common}
        smallest = min(resolutions, key=lambda item: item[0] * item[1])
        made = []
        for index, name in enumerate(mechanisms):
            for resolution in resolutions:
                cell = Cell("macs", name, resolution=resolution, **shared)
                made += cost_records(cell, 1 + index / 10, mechanisms[0], batch_size) if cost else []
                trained = resolution if each else smallest
                for seed in range(seeds):
                    score = 0.6 + index / 50 + seed / 100 - (0.1 if trained != resolution else 0)
                    made += scored_records(replace(cell, task=task), score, seed, trained)
        return made

    return make


@pytest.fixture
def spoil() -> Callable[..., list[Record]]:
    """Let the cells whose fields are as given end with a status and an error."""

    def end(records: Sequence[Record], status: Status, error: str, **where: Any) -> list[Record]:
        return [
            cell_record(record.cell, status=status, error=error)
            if all(getattr(record.cell, name) == value for name, value in where.items())
            else record
            for record in records
        ]

    return end


@pytest.fixture
def trained() -> Callable[..., list[Record]]:
    """Make trainings with curves, and scores with outcomes per image, of mechanisms that are given them by seed."""

    def make(
        curves: Mapping[str, Sequence[Sequence[float]]] | None = None,
        outcomes: Mapping[str, Sequence[Sequence[float]]] | None = None,
        metric: str = "top1",
        every: int = 100,
        value: float | None = None,  # of the scores; None: the mean of the outcomes
        **common: Any,
    ) -> list[Record]:
        shared: dict[str, Any] = {"size": "nano", "device": "cpu", "precision": "fp32", "threads": 2, "num_classes": 10}
        shared |= {"task": "classification", "data": "made-up.v1", "recipe": Recipe().to_json()}
        shared |= {"resolution": SMALL, "train_resolution": SMALL, **common}
        made = []
        for name, seeds in (curves or {}).items():
            for seed, scores in enumerate(seeds):
                images = tuple(every * (index + 1) for index in range(len(scores)))
                curve = Measurement(metric, scores[-1], "1", samples=tuple(scores), rounds=images, kind="curve")
                loading = (Measurement("data_wait", 0.25, "1"), Measurement("loader_throughput", 1234.0, "img/s"))
                made.append(cell_record(Cell("training", name, seed=seed, **shared), curve, *loading))
        for name in {**(curves or {}), **(outcomes or {})}:
            for seed, own in enumerate((outcomes or {}).get(name) or [[]] * len((curves or {})[name])):
                mean = sum(own) / len(own) if own and value is None else value or 0.5
                kind = "per image" if own else None
                score = Measurement(metric, mean, "1", samples=tuple(own), kind=kind)
                made.append(cell_record(Cell("accuracy", name, seed=seed, **shared), score))
        return made

    return make
