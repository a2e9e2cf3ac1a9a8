"""The loop that scores a model on the validation split."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from attnbench.recipe import Recipe
from attnbench.task_contract import Loading, Task

from .batches import ended

# A batch of evaluation is fixed, because sums over another batch differ in the last bit.
EVALUATION_PIXELS = 16 * 224 * 224


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How good a model is."""

    metrics: dict[str, float]  # the task's, by name
    outcomes: list[float]  # of each image, in order
    by_class: dict[str, dict[str, float]]  # metric, then class; of a task that scores classes


def evaluate(
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    *,
    resolution: tuple[int, int],
    device: torch.device,
    autocast: torch.dtype | None,
    workers: int,
    progress: Callable[[float], None],
) -> Evaluation:
    """Score ``model`` on the validation split at ``resolution`` (H, W).

    ``progress`` is called with the number of each batch, as a sign of life. The model is in ``eval()`` afterwards.
    """
    loading = Loading(max(1, EVALUATION_PIXELS // math.prod(resolution)), workers=workers)
    score = task.score()
    model.eval()
    # Not inference mode: what a head keeps from here, anchors say, may serve a training that goes on.
    with (
        torch.no_grad(),
        torch.autocast(device.type, dtype=autocast, enabled=autocast is not None),
        ended(task.batches("val", resolution, loading, recipe)) as batches,
    ):
        for number, batch in enumerate(batches):
            batch = batch.to(device)
            score.update(task.predict(model, batch, recipe), batch.targets)
            progress(float(number))
    return Evaluation(score.compute(), score.outcomes, getattr(score, "by_class", {}))
