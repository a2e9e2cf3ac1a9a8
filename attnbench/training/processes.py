"""What the loop knows of the processes that train together, and the case of one. Without Accelerate, slow to import."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from torch import Tensor, nn


class Processes(Protocol):
    """The processes that train together, as one of them sees them."""

    rank: int
    ranks: int

    def wrap(self, objective: nn.Module) -> nn.Module:
        """Return what is called in place of ``objective``, so that gradients become the processes' mean."""

    def part(self, objective: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Return the context of one accumulated part: gradients are exchanged in the ``last`` only."""

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of ``value`` over the processes."""


class Alone:
    """One process."""

    rank, ranks = 0, 1

    def wrap(self, objective: nn.Module) -> nn.Module:
        """Return ``objective``."""
        return objective

    def part(self, objective: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Return a context of nothing."""
        del objective, last
        return nullcontext()

    def mean(self, value: Tensor) -> Tensor:
        """Return ``value``."""
        return value
