"""When a graph is made whose reader knows our operators: what these do, a compiler for CPUs makes slower."""

import torch
from torch import Tensor


def wanted(x: Tensor) -> bool:
    """Tell whether a graph for a CPU is being made, and not to be read by others, who know no operator of ours."""
    return torch.compiler.is_compiling() and not is_exporting() and x.device.type == "cpu"


def is_exporting() -> bool:
    """Tell whether the graph is for others."""
    return bool(getattr(torch.compiler, "is_exporting", bool)())  # which torch 2.5 lacks
