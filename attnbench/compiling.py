"""When a graph is made whose reader knows our operators: what these do, a compiler for CPUs makes slower."""

import torch
from torch import Tensor


def options(device: str) -> dict[str, bool] | None:
    """Return what ``torch.compile`` is to be told for ``device``, such as ``cpu`` or ``cuda:0``.

    On a CPU the compiler is to leave the layout of maps alone: where there are convolutions it lays out any tensor of
    four axes as if the second were the channels, ours, (B, H, W, C), with the rows innermost. A training step of
    PVTv2-B0 took 9 % longer than in eager mode so.
    """
    return None if device.startswith("cuda") else {"layout_optimization": False}


def wanted(x: Tensor) -> bool:
    """Tell whether a graph for a CPU is being made, and not to be read by others, who know no operator of ours."""
    return torch.compiler.is_compiling() and not is_exporting() and x.device.type == "cpu"


def is_exporting() -> bool:
    """Tell whether the graph is for others."""
    return bool(getattr(torch.compiler, "is_exporting", bool)())  # which torch 2.5 lacks
