"""The one training loop, for every mechanism and task. The budget is samples, never seconds.

Everything random in step ``n`` of process ``r``, stochastic depth above all, derives from (seed, n, r), as everything
random in an image derives from (seed, epoch, index). So a training that goes on from a checkpoint, after whatever
ended it, needs no generator's state, and what is evaluated in between changes nothing.
"""

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from attnbench.errors import UserError
from attnbench.recipe import Recipe
from attnbench.task_contract import Batch, Loading, Task

from .batches import ended
from .checkpoint import State, read, shapes, write
from .evaluation import evaluate
from .optimizer import make_optimizer, set_rate
from .processes import Alone, Processes
from .schedule import factor

STEP = 3  # what a stream of random numbers is for: the first word of its seed; 0 to 2 are the tasks'


class DivergedError(RuntimeError):
    """The loss, or its gradient, is no longer a number."""


@dataclass(frozen=True, slots=True)
class Training:
    """What a training was like."""

    losses: tuple[float, ...]  # of every step, mean over the global batch
    curve: tuple[tuple[int, dict[str, float]], ...]  # images seen, metrics of validation; the last at the end
    seconds: float  # wall clock of training, all interrupted parts together, evaluations left out
    waiting: float  # seconds of it in which the loop waited for data
    images: int  # seen


class Objective(nn.Module):
    """The loss of a batch as a module: what is called, and wrapped, where several processes train together."""

    def __init__(self, model: nn.Module, task: Task, recipe: Recipe) -> None:
        super().__init__()
        self.model, self.task, self.recipe = model, task, recipe

    def forward(self, batch: Batch) -> Tensor:
        """Return the scalar loss."""
        return self.task.loss(self.model, batch, self.recipe)


def train(
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    *,
    resolution: tuple[int, int],
    seed: int,
    device: torch.device,
    autocast: torch.dtype | None,
    workers: int,
    progress: Callable[[float], None],
    checkpoint: Path | None = None,
    every: float = 60.0,
    processes: Processes | None = None,
) -> Training:
    """Train ``model``, which is on ``device``, in place; with ``recipe.ema`` it holds the averaged weights at the end.

    Data order, augmentation and stochastic depth depend on ``seed`` alone, so every mechanism sees the same images in
    the same order. A loss is finite or ends the training.

    Args:
        model: the backbone with the task's head, its weights drawn.
        task: gives the batches and the loss.
        recipe: every value that decides the weights.
        resolution: (H, W) of the images.
        seed: of data order, augmentation and stochastic depth.
        device: of the model.
        autocast: type of mixed precision; None: none.
        workers: processes that load data, of each process that trains.
        progress: is called with the share of steps that are done.
        checkpoint: file that the training's state is kept in. If it is there, training goes on from it, bit for bit as
            if it had not been interrupted, on a CPU with the same number of threads. It is left in place.
        every: seconds from one checkpoint to the next; one is written before each evaluation besides, and at the end.
        processes: those that train together; None: this one alone.

    Raises:
        DivergedError: a loss or gradient that is not finite, named with its step. No checkpoint holds such a step.
        UserError: a batch size that the processes and parts do not divide, a checkpoint of another training or one
            that is damaged or cannot be written, and whatever the task says.
    """
    run = _Run(model, task, recipe, resolution, seed, device, autocast, workers, progress, processes or Alone())
    run.restore(checkpoint)
    run.all_steps(checkpoint, every)
    return run.finish()


@dataclass
class _Run:
    """The parts of a training, and how far it is."""

    model: nn.Module
    task: Task
    recipe: Recipe
    resolution: tuple[int, int]
    seed: int
    device: torch.device
    autocast: torch.dtype | None
    workers: int
    progress: Callable[[float], None]
    processes: Processes

    def __post_init__(self) -> None:
        recipe = self.recipe
        self.steps = recipe.samples // recipe.batch_size
        if not self.steps:
            raise UserError(f"recipe.samples ({recipe.samples}) must cover one batch of {recipe.batch_size}")
        self.part_size = _part_size(recipe, self.processes.ranks)
        _set_recomputation(self.model, recipe.checkpointing)
        self.optimizer = make_optimizer(self.model, recipe)
        self.average = _average(self.model, recipe) if self.processes.rank == 0 else None
        self.state = State()
        self.saved: tuple[int, int] | None = None  # where the last checkpoint was written
        count = recipe.evaluations
        self.due = {round(number * self.steps / count) for number in range(1, count + 1)}

    def restore(self, checkpoint: Path | None) -> None:
        """Go on from the checkpoint, if there is one."""
        found = read(checkpoint, self._fingerprint()) if checkpoint else None
        if found is None:
            return
        self.state, tensors = found
        self.saved = self._place()
        self.model.load_state_dict(tensors["model"])
        self.optimizer.load_state_dict(tensors["optimizer"])
        if self.average is not None:
            self.average.module.load_state_dict(tensors["average"])

    def all_steps(self, checkpoint: Path | None, every: float) -> None:
        """Take the steps that are left, with what is due between them."""
        state, last = self.state, time.monotonic()
        objective = self.processes.wrap(Objective(self.model, self.task, self.recipe))
        self.model.train()
        with ended(self._batches()) as batches:
            while True:
                due = state.step in self.due and state.step * self.recipe.batch_size not in dict(state.curve)
                wanted = due or self._done() or time.monotonic() - last >= every
                if wanted and checkpoint and self._leads() and self.saved != self._place():
                    self._save(checkpoint)
                    last = time.monotonic()
                if due and self._leads():
                    self._evaluate()
                    continue
                if self._done():
                    return
                self._step(objective, batches)

    def finish(self) -> Training:
        """Leave the averaged weights in the model; return what the training was like."""
        if self.average is not None:
            self.model.load_state_dict(self.average.module.state_dict())
        state = self.state
        images = state.step * self.recipe.batch_size
        return Training(tuple(state.losses), tuple(state.curve), state.seconds, state.waiting, images)

    def _step(self, objective: nn.Module, batches: Iterator[Batch]) -> None:
        begin, waited = time.perf_counter(), 0.0
        recipe, state = self.recipe, self.state
        _seed_all(self.seed, state.step, self.processes.rank)
        set_rate(self.optimizer, recipe.learning_rate * factor(recipe, state.step, self.steps))
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for part in range(recipe.accumulate):
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            with self.processes.part(objective, last=part + 1 == recipe.accumulate):
                with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
                    loss = objective(batch.to(self.device)) / recipe.accumulate
                torch.autograd.backward(loss)
            total += loss.detach()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip or math.inf)
        value, length = torch.stack([self.processes.mean(total), norm.to(total)]).tolist()
        self._check("loss", value)
        self._check("gradient's norm", length)
        self.optimizer.step()
        state.step += 1
        state.losses.append(value)
        if self.average is not None:
            self.average.update(self.model, step=state.step)
        state.seconds += time.perf_counter() - begin
        state.waiting += waited
        self.progress(state.step / self.steps)

    def _check(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise DivergedError(f"the {what} was {value} at step {self.state.step + 1} of {self.steps}")

    def _batches(self) -> Iterator[Batch]:
        """Return the batches of this process that are left."""
        if self._done():
            return iter(())  # no loader is started
        loading = Loading(
            self.part_size,
            seed=self.seed,
            samples=self.steps * self.recipe.batch_size,
            workers=self.workers,
            skip=self.state.step * self.recipe.accumulate,
            rank=self.processes.rank,
            ranks=self.processes.ranks,
        )
        return self.task.batches("train", self.resolution, loading, self.recipe)

    def _evaluate(self) -> None:
        """Append the score of the weights that would be kept now to the curve."""
        state, averaged = self.state, self.average
        found = evaluate(
            self.model if averaged is None else averaged.module,
            self.task,
            self.recipe,
            resolution=self.resolution,
            device=self.device,
            autocast=self.autocast,
            workers=self.workers,
            progress=lambda _: self.progress(state.step / self.steps),
        )
        state.curve.append((state.step * self.recipe.batch_size, found.metrics))
        self.model.train()

    def _save(self, checkpoint: Path) -> None:
        begin = time.perf_counter()
        tensors = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.module.state_dict(),
        }
        write(checkpoint, self.state, tensors, self._fingerprint())
        self.saved = self._place()
        self.state.seconds += time.perf_counter() - begin

    def _fingerprint(self) -> dict[str, Any]:
        """Return what a checkpoint must agree in, in words that an error can show."""
        return {
            "recipe": asdict(self.recipe),
            "resolution": "x".join(map(str, self.resolution)),
            "seed": self.seed,
            "data": self.task.identity,
            "processes": self.processes.ranks,
            "device": self.device.type,
            "precision": str(self.autocast or "fp32"),
            "torch": str(torch.__version__),
            "shapes": shapes(self.model.state_dict()),
        }

    def _place(self) -> tuple[int, int]:
        """Return what tells a state from the one before: steps and evaluations done."""
        return self.state.step, len(self.state.curve)

    def _leads(self) -> bool:
        return self.processes.rank == 0

    def _done(self) -> bool:
        return self.state.step >= self.steps


def _part_size(recipe: Recipe, ranks: int) -> int:
    """Return the images that one process takes at once."""
    parts = ranks * recipe.accumulate
    if recipe.batch_size % parts:
        raise UserError(
            f"recipe.batch_size ({recipe.batch_size}) does not divide into {ranks} processes "
            f"of {recipe.accumulate} accumulated parts each"
        )
    return recipe.batch_size // parts


def _seed_all(seed: int, step: int, rank: int) -> None:
    """Start every global generator anew for one step of one process."""
    words = np.random.SeedSequence([STEP, seed, step, rank]).generate_state(2)
    torch.manual_seed(int(words[0]) << 32 | int(words[1]))  # of every device
    np.random.seed(words)
    random.seed(int(words[0]))


def _average(model: nn.Module, recipe: Recipe) -> Any:
    """Return timm's moving average of the model's weights, and of its buffers where they are real numbers; or None.

    Its decay warms up as 1 - (1 + n)^(-2/3) at step n, as timm advises: with 0.9999 from the start a training of a
    hundred steps would be scored by its random start.
    """
    if not recipe.ema:
        return None
    from timm.utils import ModelEmaV3  # here, because timm takes seconds to import

    return ModelEmaV3(model, decay=recipe.ema, use_warmup=True)


def _set_recomputation(model: nn.Module, wanted: bool) -> None:
    """Tell the model to recompute activations, or not: ours have an attribute for it, timm's a method."""
    if hasattr(model, "checkpointing"):
        cast(Any, model).checkpointing = wanted
    elif wanted:
        tell = getattr(model, "set_grad_checkpointing", None)
        if not callable(tell):
            raise UserError("recipe.checkpointing: this model cannot recompute activations; leave it off")
        cast(Callable[[], None], tell)()
