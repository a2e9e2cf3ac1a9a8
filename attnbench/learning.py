"""What a model learns: the training behind a cell, with a checkpoint to go on from, and the score of its weights."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attnbench.cell_model import autocast, trainable
from attnbench.contenders import TIMM
from attnbench.errors import UnsupportedError, UserError
from attnbench.plan import training_of
from attnbench.recipe import Recipe
from attnbench.record import Cell, Measurement, quantity
from attnbench.registry import TASKS
from attnbench.task_contract import Task
from attnbench.training.distributed import train_in_processes
from attnbench.training.evaluation import evaluate
from attnbench.training.loop import Training, train
from attnbench.training.throughput import loader_throughput

Progress = Callable[[float], None]
TAIL = 0.1  # of the steps: what the training's loss is a mean over
LOADER_SECONDS = 3.0  # that the loader is timed for


@dataclass(frozen=True, slots=True)
class Context:
    """What a cell needs and what does not decide its numbers."""

    data: str | None  # where the data lie
    weights: Path  # folder of trained weights
    workers: int
    processes: int = 1
    every: float = 60.0  # seconds between checkpoints


def weights_file(cell: Cell, folder: Path) -> Path:
    """Return where the weights of the training behind ``cell`` lie."""
    return folder / f"{training_of(cell).key}.safetensors"


def training(cell: Cell, context: Context, progress: Progress) -> tuple[Measurement, ...]:
    """Train the model of ``cell``, going on from its checkpoint if there is one, and keep the weights."""
    recipe = Recipe.from_json(cell.recipe or {})
    final = weights_file(cell, context.weights)
    checkpoint = final.with_suffix(".checkpoint")
    model, task = _ready(cell, context.data, torch.device(cell.device))
    seed = cell.seed or 0
    told: dict[str, Any] = {
        "resolution": cell.resolution,
        "seed": seed,
        "device": torch.device(cell.device),
        "autocast": autocast(cell),
        "workers": context.workers,
        "progress": progress,
        "checkpoint": checkpoint,
        "every": context.every,
    }
    if context.processes > 1:
        build = partial(_ready, cell, context.data)
        told |= {"processes": context.processes, "threads": cell.threads}
        found = train_in_processes(model, build, recipe, **told)
    else:
        found = train(model, task, recipe, **told)
    _keep(model, final)
    alone = loader_throughput(
        task, recipe, resolution=cell.resolution, seed=seed, workers=context.workers, seconds=LOADER_SECONDS
    )
    return _told(found, alone)


def accuracy(cell: Cell, context: Context, progress: Progress) -> tuple[Measurement, ...]:
    """Score the weights of the training behind ``cell`` at the cell's resolution."""
    from safetensors.torch import load_file

    device = torch.device(cell.device)
    model, task = _ready(cell, context.data, device)
    model.load_state_dict(load_file(weights_file(cell, context.weights), device=cell.device))
    try:
        found = evaluate(
            model,
            task,
            Recipe.from_json(cell.recipe or {}),
            resolution=cell.resolution,
            device=device,
            autocast=autocast(cell),
            workers=context.workers,
            progress=progress,
        )
    except AssertionError as error:  # so timm's models say that they are bound to a resolution
        if cell.size != TIMM:
            raise
        raise UnsupportedError(f"{cell.mechanism} at {cell.resolution}: {error}") from error
    scores = dict(found.metrics)
    headline = quantity(task.headline, scores.pop(task.headline), samples=tuple(found.outcomes), kind="per image")
    classes = (
        quantity(metric, value, kind=name)
        for metric, values in found.by_class.items()
        for name, value in values.items()
    )
    return headline, *(quantity(name, value) for name, value in scores.items()), *classes


def _ready(cell: Cell, data: str | None, device: torch.device) -> tuple[nn.Module, Task]:
    """Return the model on its device and the task; what several processes train together is made in each."""
    return trainable(cell, device), TASKS[cell.task or ""](data, cell.head)


def _keep(model: nn.Module, final: Path) -> None:
    """Write the weights, whole or not at all."""
    from safetensors.torch import save_file

    partial_file = final.with_suffix(".partial")
    try:
        final.parent.mkdir(exist_ok=True)
        save_file({name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}, partial_file)
        with partial_file.open("rb+") as file:
            os.fsync(file.fileno())
        partial_file.replace(final)
    except OSError as error:
        partial_file.unlink(missing_ok=True)
        raise UserError(f"cannot write {str(final)!r}: {error.strerror}; the checkpoint beside it is kept") from error


def _told(found: Training, alone: float) -> tuple[Measurement, ...]:
    tail = found.losses[-max(1, round(TAIL * len(found.losses))) :]
    names = found.curve[-1][1] if found.curve else {}
    seen = tuple(images for images, _ in found.curve)
    curves = {name: tuple(metrics[name] for _, metrics in found.curve) for name in names}
    return (
        quantity("train_loss", sum(tail) / len(tail), samples=found.losses),
        quantity("train_time", found.seconds),
        quantity("train_throughput", found.images / found.seconds),
        quantity("data_wait", found.waiting / found.seconds),
        quantity("loader_throughput", alone),
        *(quantity(name, curve[-1], samples=curve, rounds=seen, kind="curve") for name, curve in curves.items()),
    )
