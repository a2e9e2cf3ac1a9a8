"""One training loop and one evaluation loop, for every mechanism and task. The budget is samples, never seconds."""

import math
from collections.abc import Callable

import torch
from torch import nn

from attnbench.recipe import Recipe
from attnbench.task_contract import Loading, Task

EVALUATION_PIXELS = (
    64 * 224 * 224
)  # a batch of evaluation: fixed, because sums over another batch differ in the last bit


class DivergedError(RuntimeError):
    """The loss is no longer a number."""


def train(
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    resolution: tuple[int, int],
    seed: int,
    device: torch.device,
    autocast: torch.dtype | None,
    workers: int,
    progress: Callable[[float], None],
) -> list[float]:
    """Train ``model`` in place; return the loss of every step.

    AdamW without decay on norms, biases and position tables; warm-up, then cosine to zero; data order and augmentation
    depend on ``seed`` alone, so every mechanism sees the same images in the same order.

    Raises:
        DivergedError: a loss that is not finite, named with its step.
    """
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler

    steps = recipe.samples // recipe.batch_size
    optimizer = create_optimizer_v2(
        _groups(model, recipe.weight_decay),
        opt="adamw",
        lr=recipe.learning_rate,
        weight_decay=0.0,  # the groups carry it
    )
    warmup = min(round(recipe.warmup * steps), steps - 1)
    scheduler = CosineLRScheduler(
        optimizer, t_initial=steps, warmup_t=warmup, warmup_lr_init=0.0, warmup_prefix=False, t_in_epochs=False
    )
    loading = Loading(recipe.batch_size, seed, recipe.samples, workers)
    batches = task.batches("train", resolution, loading, recipe)
    losses: list[float] = []
    model.train()
    for step, batch in enumerate(batches):
        scheduler.step_update(step)
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            loss = task.loss(model, batch.to(device), recipe)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise DivergedError(f"the loss was {losses[-1]} at step {step + 1} of {steps}")
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        if recipe.clip:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        progress((step + 1) / steps)
    return losses


def evaluate(
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    resolution: tuple[int, int],
    device: torch.device,
    autocast: torch.dtype | None,
    workers: int,
    progress: Callable[[float], None],
) -> dict[str, float]:
    """Score ``model`` on the validation split at ``resolution`` (H, W); return the task's metrics by name."""
    batch_size = max(1, EVALUATION_PIXELS // math.prod(resolution) // 4)
    score = task.score()
    model.eval()
    with torch.inference_mode(), torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
        batches = task.batches("val", resolution, Loading(batch_size, workers=workers), recipe)
        for number, batch in enumerate(item.to(device) for item in batches):
            score.update(task.predict(model, batch, recipe), batch.targets)
            progress(float(number))
    return score.compute()


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split parameters: matrices and kernels decay; norms, biases and position tables do not."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        plain = parameter.ndim < 2 or name.endswith(".bias") or "position" in name
        (kept if plain else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
