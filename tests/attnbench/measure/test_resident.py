"""The resident set: the model of the heap by itself, and what it says against a real process."""

import random
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from attnbench import products
from attnbench.backbone import build_model
from attnbench.learning import Context
from attnbench.measure.heap import LEAST_THRESHOLD, MOST_THRESHOLD, PAGE, WORD, Chunk, Heap
from attnbench.measure.memory import inference_step, training_step
from attnbench.measure.prediction import Predictor, Step
from attnbench.measure.resident import ResidentLedger
from attnbench.measure.twins import FakeTensors
from attnbench.process import Template, built_in_modules
from attnbench.record import Cell, Probe
from attnbench.registry import MECHANISMS, TASKS

Loss = Callable[[Any], Tensor]
MIB = 2**20
linux = pytest.mark.skipif(sys.platform != "linux", reason="forks, and resets the peak through /proc")


class Mixing(nn.Module):
    """Convolution, norm, MLP: enough to make a heap of tensors."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, dim, 4, stride=4)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
            for _ in range(4)
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = x + block(x)
        return x.mean((1, 2))


def predicted(
    side: int, training: bool, threads: int = 1, build: Callable[[], nn.Module] = Mixing, loss: Loss = torch.sum
) -> ResidentLedger:
    with torch.device("meta"):
        described = build()
    fakes = FakeTensors()
    model, images = fakes.twin(described), fakes.zeros(1, 3, side, side, dtype=torch.float32)
    step = training_step(model, images, loss) if training else inference_step(model, images)
    with ResidentLedger(threads) as ledger:
        step()
    return ledger


def test_a_large_block_is_mapped_in_whole_pages_and_given_back() -> None:
    heap = Heap()
    chunk = heap.allocate(100 * MIB)
    assert 100 * MIB < heap.resident <= 100 * MIB + PAGE
    heap.release(chunk)
    assert heap.resident == 0
    assert heap.peak % PAGE == 0


def test_what_was_freed_raises_the_threshold_and_the_next_such_block_stays_resident() -> None:
    heap = Heap()
    heap.release(heap.allocate(4 * MIB))
    assert heap.resident == 0
    first, last = heap.allocate(MIB), heap.allocate(MIB)
    heap.release(first)
    assert 2 * MIB <= heap.resident < 2 * MIB + PAGE  # below the last one
    heap.release(last)
    assert heap.resident < 2 * MIB + PAGE  # a top of less than 8 MiB is kept


def test_a_block_over_the_greatest_threshold_is_always_mapped() -> None:
    heap = Heap()
    for _ in range(3):
        heap.release(heap.allocate(MOST_THRESHOLD + PAGE))
        assert heap.resident == 0


def test_a_top_over_twice_the_threshold_goes_back() -> None:
    heap = Heap()
    heap.release(heap.allocate(2 * LEAST_THRESHOLD))
    chunks = [heap.allocate(LEAST_THRESHOLD, WORD) for _ in range(32)]
    assert heap.resident >= 32 * LEAST_THRESHOLD
    for chunk in reversed(chunks):
        heap.release(chunk)
    assert heap.resident < 6 * LEAST_THRESHOLD


def test_small_objects_keep_the_tensors_between_them_from_merging() -> None:
    def peak(objects: int) -> int:
        heap = Heap()
        heap.release(heap.allocate(8 * MIB))
        tensors = []
        for _ in range(8):
            tensors.append(heap.allocate(MIB))
            for _ in range(objects):
                heap.allocate(24, WORD)
        for tensor in tensors:
            heap.release(tensor)
        heap.allocate(6 * MIB)
        return heap.peak

    assert peak(0) < 9 * MIB
    assert peak(4) > 13 * MIB


def test_an_aligned_block_does_not_fit_where_its_like_was() -> None:
    heap = Heap()
    heap.release(heap.allocate(4 * MIB))
    hole, _ = heap.allocate(MIB), heap.allocate(MIB)
    heap.release(hole)
    before = heap.resident
    heap.allocate(MIB - 2 * PAGE)
    assert heap.resident == before
    heap.allocate(MIB)
    assert heap.resident > before


def test_live_chunks_never_overlap_and_resident_covers_them() -> None:
    draw = random.Random(0)
    heap = Heap()
    live: list[tuple[Chunk, int]] = []
    for _ in range(3000):
        if live and draw.random() < 0.48:
            heap.release(live.pop(draw.randrange(len(live)))[0])
        else:
            size = int(10 ** draw.uniform(1, 6.5))
            live.append((heap.allocate(size, draw.choice((16, 64))), size))
        assert sum(size for _, size in live) <= heap.resident <= heap.peak
    placed = sorted(chunk for chunk, _ in live if chunk[0] >= 0)
    assert all(left[1] <= right[0] for left, right in pairwise(placed))
    assert all(end - begin >= size for (begin, end), size in live if begin >= 0)


@pytest.mark.parametrize("training", [False, True])
def test_the_resident_set_is_more_than_the_ledger_and_grows_with_the_map(training: bool) -> None:
    ledgers = [predicted(side, training) for side in (64, 256, 512)]
    assert all(ledger.peak_resident > ledger.peak for ledger in ledgers)
    assert [ledger.peak_resident for ledger in ledgers] == sorted(ledger.peak_resident for ledger in ledgers)


@pytest.mark.parametrize("onednn", [False, True])
def test_training_takes_more_than_inference_and_of_mkls_threads_two_more_than_one(
    onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "SERVES_BETTER", onednn)
    for threads in (1, 2):
        training = predicted(256, training=True, threads=threads).peak_resident
        assert training > predicted(256, training=False, threads=threads).peak_resident
    one, two = (predicted(256, training=True, threads=threads).peak_resident for threads in (1, 2))
    assert (two > one) == (not onednn)  # every thread of MKL's packs operands for itself


def test_real_tensors_are_predicted_as_fake_ones() -> None:
    torch.manual_seed(0)
    step = training_step(Mixing(), torch.zeros(1, 3, 256, 256), torch.sum)
    with ResidentLedger(1) as ledger:
        step()
    fake = predicted(256, training=True)
    assert ledger.peak == fake.peak
    assert ledger.peak_resident == pytest.approx(fake.peak_resident, rel=0.02)  # they fill zeros by other operators


def test_a_predictor_says_what_the_ledger_says_and_makes_the_tables_of_a_module_anew_each_time() -> None:
    with torch.device("meta"):
        model = build_model("swin", "nano", resolution=(64, 64), num_classes=10)
    predictor = Predictor(model, (64, 64), torch.float32)
    predictor.resident(1, "training", 2)  # makes the tables that all models of this process share
    first = predictor.resident(1, "training", 2)
    assert first == predictor.resident(1, "training", 2) > predictor.predict(1, "training").peak


@linux
@pytest.mark.parametrize(("name", "probe"), [("swin", "memory_training"), ("pvt", "memory_inference")])
def test_prediction_is_within_15_per_cent_of_a_fresh_worker(name: str, probe: Probe, tmp_path: Path) -> None:
    built_in = [*built_in_modules(MECHANISMS, [name]), *built_in_modules(TASKS, ["classification"])]
    cell = Cell(probe, name, "nano", (448, 448), "cpu", "fp32", 2, 10, task="classification")
    with Template(2, built_in, [], tmp_path / "log") as template, template.worker() as worker:
        found = worker.call("measure", cell, Context(None, tmp_path, 0), timeout=300)
    with torch.device("meta"):
        model = build_model(name, resolution=(448, 448), num_classes=10)
    step: Step = "training" if probe == "memory_training" else "inference"
    said = Predictor(model, (448, 448), torch.float32).resident(1, step, 2)
    assert said == pytest.approx(next(item.value for item in found if item.kind == "process_rss"), rel=0.15)


class Unusual(nn.Module):
    """Rolls without dimensions, and recomputes: what the models of workspaces do not expect."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.roll(images, 5).flatten(2).transpose(1, 2)
        return torch.utils.checkpoint.checkpoint(self.linear, x, use_reentrant=False).mean(1)


def test_operators_that_are_called_in_unusual_ways_are_predicted_too() -> None:
    assert predicted(64, training=True, build=Unusual).peak_resident > 0
