"""The learning rate of a step: a pure function, so that a training that goes on needs no state of it."""

import math

from attnbench.recipe import Recipe

DROP = 0.1  # factor of the learning rate at each milestone


def factor(recipe: Recipe, step: int, steps: int) -> float:
    """Return the learning rate of ``step`` (from 0) of ``steps``, as a share of the peak.

    The warm-up rises linearly from ``warmup_start`` at step 0 and would reach the peak in the step after it. What comes
    then is a function of ``step / steps``, warm-up counted in: half a cosine or a line from 1 to ``final``, a tenth
    from each milestone on, or 1. So do the schedulers of timm (without its ``warmup_prefix``) and of the ImageNet
    trainings of Swin and Focal; mmcv's also multiplies the warm-up with the line, which differs by under 1 % in
    ``ade20k_160k``.
    """
    warmup = warmup_steps(recipe, steps)
    if step < warmup:
        return recipe.warmup_start + (1 - recipe.warmup_start) * step / warmup
    if recipe.schedule == "cosine":
        return recipe.final + (1 - recipe.final) * (1 + math.cos(math.pi * step / steps)) / 2
    if recipe.schedule == "linear":
        return recipe.final + (1 - recipe.final) * (1 - step / steps)
    if recipe.schedule == "steps":
        return DROP ** sum(step >= round(share * steps) for share in recipe.milestones)
    if recipe.schedule == "constant":
        return 1.0
    raise ValueError(f"no schedule {recipe.schedule!r}")


def warmup_steps(recipe: Recipe, steps: int) -> int:
    """Return how many of ``steps`` are warm-up; the last one never is."""
    return min(round(recipe.warmup * steps), steps - 1)
