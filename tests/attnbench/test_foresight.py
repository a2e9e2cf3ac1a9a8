"""What a cell needs, foreseen: held against counts, against predictions of its model, and against the clock."""

import math
import time
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from attnbench.backbone import build_model
from attnbench.config import RunConfig
from attnbench.foresight import calibrate, foresee
from attnbench.measure.macs import count_macs
from attnbench.measure.prediction import Step, predict
from attnbench.plan import plan
from attnbench.record import Cell

SIDE, CLASSES, BATCH = 32, 10, 4
EVERYTHING = 1  # B: so small a limit that every memory is predicted
NOTHING = 2**60
SPEED_MARGIN = 1.25
build = partial(build_model, num_classes=CLASSES)


def cells_of(mechanism: str = "identity", side: int = SIDE, **values: object) -> dict[str, Cell]:
    config = RunConfig(
        mechanisms=[mechanism],
        resolutions=[str(side)],
        device="cpu",
        threads=1,
        batch_size=BATCH,
        num_classes=CLASSES,
        measure=["cost", "best_batch", "accuracy"],
        recipe={"samples": 96, "batch_size": 8},
    )
    for name, value in values.items():
        setattr(config, name, value)
    found = {cell.probe: cell for cell in plan(config).cells}
    return {probe: replace(cell, num_classes=CLASSES) for probe, cell in found.items()}  # the data have others


def on_meta(mechanism: str = "identity", side: int = SIDE) -> nn.Module:
    with torch.device("meta"):
        return build(mechanism, "nano", resolution=(side, side))


FORWARDS: dict[str, tuple[int, Step]] = {
    "latency": (11 * BATCH, "inference"),
    "latency_one": (11, "inference"),
    "training_step": (3 * 11 * BATCH, "training"),
    "best_batch": (11, "inference"),
    "memory_inference": (2 * BATCH, "inference"),
    "memory_training": (3 * 2 * BATCH, "training"),
    "training": (3 * 96, "training"),
}


def test_work_is_the_macs_of_all_images_of_all_calls() -> None:
    cells = cells_of()
    needs = foresee([cells[probe] for probe in FORWARDS], NOTHING)
    one = count_macs(on_meta(), (3, SIDE, SIDE))
    for need, (forwards, step) in zip(needs, FORWARDS.values(), strict=True):
        assert need.macs == forwards * one
        assert (need.step, need.memory, need.kernel) == (step, None, None)


@pytest.mark.parametrize(
    ("probe", "batch", "step", "precision", "dtype"),
    [
        ("latency", BATCH, "inference", "fp32", torch.float32),
        ("latency_one", 1, "inference", "bf16", torch.bfloat16),
        ("memory_training", BATCH, "training", "bf16", torch.bfloat16),
    ],
)
def test_memory_is_that_of_a_prediction_without_the_optimiser(
    probe: str, batch: int, step: Step, precision: str, dtype: torch.dtype
) -> None:
    (need,) = foresee([cells_of(precision=precision)[probe]], EVERYTHING)
    found = predict(on_meta(), (SIDE, SIDE), batch, dtype, step)
    assert need.memory == found.total - found.optimiser
    assert need.kernel == found.kernel


def test_a_training_holds_its_optimiser_too() -> None:
    (need,) = foresee([cells_of()["training"]], EVERYTHING)
    found = predict(on_meta(), (SIDE, SIDE), 8, torch.float32, "training")
    assert found.optimiser == 2 * found.parameters  # two moments of each number, and it has no buffers
    assert need.memory == found.total


def test_a_training_in_bf16_keeps_weights_gradients_and_moments_in_fp32() -> None:
    side = 32
    cell = cells_of("identity", side, precision="bf16", recipe={"samples": 1, "batch_size": 1})["training"]
    (need,) = foresee([cell], EVERYTHING)
    numbers = sum(item.numel() for item in on_meta("identity", side).parameters())
    assert need.memory is not None
    assert need.memory >= 4 * 4 * numbers


def test_the_kernel_and_the_memory_format_of_a_cell_are_foreseen() -> None:
    cell = cells_of("full")["latency"]
    for kernel in ("math", "flash"):
        (need,) = foresee([replace(cell, sdpa=kernel, channels_last=True)], EVERYTHING)
        found = predict(on_meta("full"), (SIDE, SIDE), BATCH, torch.float32, "inference", kernel, channels_last=True)
        assert (need.kernel, need.memory) == (kernel, found.total)


def test_cells_of_one_model_get_the_needs_that_they_get_alone() -> None:
    found = cells_of()
    cells = [found[probe] for probe in ("latency", "training", "latency_one")]
    assert foresee(cells, EVERYTHING) == [foresee([cell], EVERYTHING)[0] for cell in cells]


def test_what_is_far_under_the_limit_has_no_memory_and_what_may_reach_it_has_one() -> None:
    cell = cells_of()["latency"]
    (need,) = foresee([cell], EVERYTHING)
    assert need.memory is not None
    assert foresee([cell], need.memory)[0].memory == need.memory
    assert foresee([cell], need.memory // 2)[0].memory == need.memory
    assert foresee([cell], 1000 * need.memory)[0].memory is None


def test_a_machine_is_no_faster_than_its_calibration() -> None:
    speed = calibrate("cpu")
    assert math.isfinite(speed)
    assert speed > 0
    (need,) = foresee([replace(cells_of("full")["latency"], batch_size=1)], NOTHING)
    torch.manual_seed(0)
    model, image = build("full", "nano", resolution=(SIDE, SIDE)).eval(), torch.randn(1, 3, SIDE, SIDE)
    begin = time.perf_counter()
    with torch.inference_mode():
        for _ in range(11):
            model(image)
    assert need.macs / (SPEED_MARGIN * speed) <= time.perf_counter() - begin
