"""What a cell needs at least, without running it: time from its MACs, memory from fake tensors.

Worker's side. A need is a lower bound of time, because it is there to refuse what cannot fit, and nothing else.
"""

import time
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from attnbench.cell_model import DTYPES, cell_model
from attnbench.errors import UserError
from attnbench.measure.macs import count_macs
from attnbench.measure.prediction import KERNELS, Prediction, Predictor, Step
from attnbench.record import Cell

# Calls of the model that a probe makes at least. Timing: one to see the kernel, three to warm up, one to calibrate, and
# two in each of three rounds. Memory: one for the process and one for the ledger.
CALLS: Final = {
    "latency": 11,
    "latency_one": 11,
    "training_step": 11,
    "best_batch": 11,
    "memory_inference": 2,
    "memory_training": 2,
}
TRAINING: Final = ("training_step", "memory_training", "training")
BACKWARD: Final = 3  # a training step's MACs over the forward's
BYTES_PER_MAC: Final = 0.5  # more than any mechanism takes: five times what was seen in training
SIDE: Final = 512  # of the matrices that tell the machine's speed: a product fits between two interruptions
PRODUCTS: Final = 60
LONG: Final = 0.3  # s, of products in one type


@dataclass(frozen=True, slots=True)
class Need:
    """What a cell takes; ``memory`` is None where it is too little to be worth predicting."""

    macs: float  # of all its calls together
    memory: int | None  # B that must fit the device: parameters, input, peak, optimiser in a training
    step: Step
    kernel: str | None  # attention kernel that the memory assumes


def foresee(cells: list[Cell], limit: int) -> list[Need]:
    """Return the needs of cells of one model at one resolution; memory that is far under ``limit`` (B) is left out.

    Raises:
        UserError: the model cannot be traced.
    """
    first = cells[0]
    with torch.device("meta"):
        model = cell_model(first)
    macs = count_macs(model, (3, *first.resolution))
    foreseen = _Foreseen(model, first)
    needs = []
    for cell in cells:
        step: Step = "training" if cell.probe in TRAINING else "inference"
        batch = _batch(cell)
        work = float(macs) * batch * (BACKWARD if step == "training" else 1)
        # A real training keeps its weights in fp32, whatever it computes in.
        dtype = torch.float32 if cell.probe == "training" else DTYPES[cell.precision]
        prediction = foreseen.memory(batch, step, dtype) if work * BYTES_PER_MAC > limit / 4 else None
        memory, kernel = (None, None) if prediction is None else (_total(cell, prediction), prediction.kernel)
        needs.append(Need(work * _calls(cell), memory, step, kernel))
    return needs


class _Foreseen:
    """Predictions of one model, each made once, and none where the model does not run on fake tensors."""

    def __init__(self, model: nn.Module, cell: Cell) -> None:
        self._model, self._cell = model, cell
        self._known: dict[tuple[int, Step, torch.dtype], Prediction | None] = {}
        self._predictors: dict[torch.dtype, Predictor] = {}

    def memory(self, batch: int, step: Step, dtype: torch.dtype) -> Prediction | None:
        """Return the prediction for one step with ``batch`` images."""
        key = (batch, step, dtype)
        if key not in self._known:
            try:
                self._known[key] = self._ready(dtype).predict(batch, step)
            except UserError:  # it is run, then, under the cap of its process
                self._known[key] = None
        return self._known[key]

    def _ready(self, dtype: torch.dtype) -> Predictor:
        if dtype not in self._predictors:
            kernel = self._cell.sdpa if self._cell.sdpa in KERNELS else None
            format_ = bool(self._cell.channels_last)
            self._predictors[dtype] = Predictor(
                self._model, self._cell.resolution, dtype, kernel, format_, self._cell.device.partition(":")[0]
            )
        return self._predictors[dtype]


def calibrate(device: str) -> float:
    """Return the MACs per second of the fastest of some square matrix products, in fp32 and bf16: nothing is faster."""
    where = torch.device(device)
    best = 0.0
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(SIDE, SIDE, device=where, dtype=dtype)
        end = time.perf_counter() + LONG
        for _ in range(PRODUCTS):
            begin = time.perf_counter()
            product = matrix @ matrix
            product[0, 0].item()  # waits for a GPU
            seconds = time.perf_counter() - begin
            best = max(best, SIDE**3 / seconds)
            if time.perf_counter() > end:  # a busy machine, or bf16 without hardware for it
                break
    return best


def _batch(cell: Cell) -> int:
    if cell.probe == "training":
        recipe = cell.recipe or {}
        return int(recipe["batch_size"]) // int(recipe.get("accumulate", 1))
    return cell.batch_size or 1


def _calls(cell: Cell) -> float:
    if cell.probe == "training":
        recipe = cell.recipe or {}
        return float(recipe["samples"]) / _batch(cell)
    return CALLS.get(cell.probe, 0)


def _total(cell: Cell, prediction: Prediction) -> int:
    """Return what must fit; only a real training holds an optimiser."""
    return prediction.total - (0 if cell.probe == "training" else prediction.optimiser)
