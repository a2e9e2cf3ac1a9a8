"""Where a step runs, or is said to run: a prediction for a GPU leaves out what we do on CPUs alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_elsewhere: ContextVar[bool] = ContextVar("_elsewhere", default=False)


def on_cpu(x: Tensor) -> bool:
    """Tell whether ``x`` is on a CPU, and not to be thought elsewhere."""
    return x.device.type == "cpu" and (torch.compiler.is_compiling() or not _elsewhere.get())


@contextmanager
def elsewhere() -> Iterator[None]:
    """Within it, code treats CPU tensors as if they were on another device; their kernels remain a CPU's."""
    token = _elsewhere.set(True)
    try:
        yield
    finally:
        _elsewhere.reset(token)
