"""AdamW and its groups of parameters: what decays, and how fast each depth learns."""

import re
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from attnbench.errors import UserError
from attnbench.recipe import Recipe


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Return AdamW (Decoupled Weight Decay Regularization, 1711.05101) with torch's betas and epsilon.

    Raises:
        UserError: a layer-wise decay for a model whose depth is not known.
    """
    return torch.optim.AdamW(groups(model, recipe), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group to its share of ``rate``."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Return AdamW's groups of the parameters that learn: two, or two per depth where ``layer_decay`` is not 1.

    ``scale`` of a group is its share of the learning rate: ``layer_decay`` to the number of blocks between it and the
    head, as in BEiT (2106.08254, appendix): the head's is 1, the last block's ``layer_decay``.
    """
    depth_of, last = _depths(model) if recipe.layer_decay != 1 else (lambda _: 0, 0)
    exempt = _declared(model)
    found: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = name not in exempt and is_decayed(name, parameter)
            found.setdefault((depth_of(name), decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": recipe.weight_decay if decays else 0.0,
            "scale": recipe.layer_decay ** (last - depth),
        }
        for (depth, decays), parameters in sorted(found.items(), key=lambda item: item[0])
    ]


def is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Say whether a parameter decays: matrices and kernels do.

    Vectors (norms, biases, layer scales) do not, nor tables of positions, absolute or relative, nor a class token (so
    DeiT, Swin and PVT exempt them by name).
    """
    return parameter.ndim > 1 and not re.search(r"position|class_token|bias$", name)


def _declared(model: nn.Module) -> set[str]:
    """Return the parameters that a model of timm says do not decay."""
    declare = getattr(model, "no_weight_decay", None)
    return set(cast(Callable[[], set[str]], declare)()) if callable(declare) else set()


def _depths(model: nn.Module) -> tuple[Callable[[str], int], int]:
    """Return the depth of a parameter by its name, and the head's: stem 0, blocks counted through from 1.

    What lies between two stages counts with the block before it, as in Swin's fine-tuning (SimMIM).
    """
    stages = getattr(model, "blocks", None)
    if not (isinstance(stages, nn.ModuleList) and all(isinstance(stage, nn.ModuleList) for stage in stages)):
        raise UserError("recipe.layer_decay needs a model of stages and blocks; for this one, leave it at 1")
    lengths: list[int] = [len(cast(nn.ModuleList, stage)) for stage in stages]
    placed: tuple[int, ...] = tuple(
        cast(Any, model).architecture.positions
    )  # the stages that have a table of positions
    before = [sum(lengths[:stage]) for stage in range(len(lengths) + 1)]

    def depth(name: str) -> int:
        part, *numbers = name.split(".")
        if part == "blocks":
            return before[int(numbers[0])] + int(numbers[1]) + 1
        if part in ("merging", "norms"):
            return before[int(numbers[0]) + 1]
        if part == "positions":
            return before[placed[int(numbers[0])]]
        if part in ("class_token", "class_position"):
            return before[-2]
        return 0 if part == "stem" else before[-1] + 1

    return depth, before[-1] + 1
