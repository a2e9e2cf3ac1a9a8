"""Keys that are hidden from queries, and how scores are made to say so: windows of one kind hide the same keys."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnbench.devices import on_cpu
from attnbench.parts import are_alike

from ._boxes import Place
from ._spans import Box


@dataclass(frozen=True, slots=True)
class Hidden:
    """What is added to the scores of keys, by the kind of window."""

    scores: Tensor  # (kinds, 1 or w², keys), 0 where a key may be attended
    kinds: Tensor  # (windows down, windows across), of int64
    score: float  # of what is hidden: -inf, or as authors have it a number that other scores could make up for
    beyond: bool  # only keys beyond the map are hidden, which are zeros

    @classmethod
    def where_not(
        cls, visible: NDArray[np.bool_], score: float, across: int, device: torch.device, beyond: bool = False
    ) -> "Hidden | None":
        """Return ``score`` where not ``visible`` (windows, 1 or w², keys), ``across`` windows to a row, or None."""
        if visible.all():
            return None
        rows, kinds = np.unique(visible.reshape(len(visible), -1), axis=0, return_inverse=True)
        scores = np.where(rows, np.float32(0), np.float32(score)).reshape(-1, *visible.shape[1:])
        told = torch.tensor(scores, device=device), torch.tensor(kinds.reshape(-1, across), device=device)
        return cls(*told, score, beyond)

    def by_box(self, dtype: torch.dtype, weight: float = 1.0) -> Callable[[Box], Tensor]:
        """Return what tells of a box of windows of an image what hides its keys: (windows, 1 or w², keys)."""
        scores = self.scores.to(dtype)
        scores = scores if weight == 1 else scores * weight
        if scores.shape[1] > 1:
            return lambda box: scores[self.kinds[box].flatten()]
        everywhere = scores[self.kinds]
        return lambda box: everywhere[box].flatten(0, 1)


class Hiding:
    """How the keys of a call are hidden.

    A share of e^-100 is no normal number, and products with such numbers take many times as long on CPUs. Where scores
    lie so close that what is hidden would be lost in rounding, it gets no share at all: every query sees some key.
    """

    def __init__(self, hidden: Hidden, bias: Tensor) -> None:
        """Take the bias (heads, w², keys) that scores begin with."""
        self.by_box = hidden.by_box(bias.dtype)
        self.shares = on_cpu(bias) and hidden.score > -math.inf  # what is hidden might have some
        self.beyond = hidden.by_box(bias.dtype, 1e30) if self.shares and hidden.beyond else None
        self.far = -hidden.score - math.log(2 * bias.shape[-1] / torch.finfo(bias.dtype).eps ** 2) if self.shares else 0
        self.highest = bias.amax() if self.beyond else None  # the most that a key beyond the map scores

    def before(self, box: Box) -> Tensor | None:
        """Return what is to be added to the bias: (windows, 1 or w², keys); None if the products are needed first."""
        if not self.shares:
            return self.by_box(box)
        return self.beyond(box) if self.beyond else None

    def doubted(self, place: Place) -> bool:
        """Tell whether keys beyond the map, whose score is their bias, might have a share after all."""
        if self.highest is None or are_alike():
            return False
        return float(place.own().amin()) <= float(self.highest) - self.far

    def weaken(self, scores: Tensor, box: Box) -> None:
        """Add what hides keys from the box's windows to scores (heads, images, windows of an image, w², keys)."""
        least, most = torch.aminmax(scores)
        scores.addcmul_(self.by_box(box), (most - least < self.far).to(scores.dtype).mul_(1e30).add_(1))
