"""The model behind a cell."""

from typing import Any

import torch
from torch import nn

from attnbench.backbone import build_model
from attnbench.contenders import PUBLISHED, TIMM
from attnbench.models import create_model
from attnbench.record import Cell
from attnbench.registry import TASKS

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def cell_model(cell: Cell, drop_path: float = 0.0) -> nn.Module:
    """Return the model of a cell: one by name with its own classifier, or the uniform backbone with the task's head."""
    resolution = cell.train_resolution or cell.resolution
    task_head = TASKS[cell.task or ""].head

    def head(channels: tuple[int, ...]) -> nn.Module:
        return task_head(channels, cell.num_classes, cell.head)

    if cell.size in (PUBLISHED, TIMM):
        more: dict[str, Any] = {} if cell.head is None else {"head": head}  # else its own classifier
        if drop_path:
            more["drop_path" if cell.size == PUBLISHED else "drop_path_rate"] = drop_path
        return create_model(cell.mechanism, resolution, cell.num_classes, **{**more, **cell.settings})
    return build_model(
        cell.mechanism,
        cell.size,
        resolution=resolution,
        drop_path=drop_path,
        head=head,
        **cell.settings,
    )


def trainable(cell: Cell, device: torch.device) -> nn.Module:
    """Return the model of a training on ``device``, its weights drawn by the cell's seed alone."""
    torch.manual_seed(cell.seed or 0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    return cell_model(cell, drop_path=(cell.recipe or {})["drop_path"]).to(device)


def autocast(cell: Cell) -> torch.dtype | None:
    """Return the type of a training's mixed precision; None: none."""
    return None if cell.precision == "fp32" else DTYPES[cell.precision]
