"""What a mechanism receives and promises. Standard library only: listing mechanisms needs no torch."""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from attnbench.errors import UserError, unknown

if TYPE_CHECKING:
    from torch import Tensor, nn

STAGES = 4


@dataclass(frozen=True, slots=True)
class Slot:
    """The place in the backbone where one attention module is plugged in."""

    dim: int  # C
    heads: int
    stage: int  # 0..3, at stride 4, 8, 16, 32
    block: int  # index within the stage; Swin shifts its odd blocks
    grid: tuple[int, int]  # (H, W) at build resolution; only mechanisms with fixed-length parameters read it

    def __post_init__(self) -> None:
        if self.heads < 1 or self.dim % self.heads:
            raise UserError(f"dim {self.dim} does not divide into {self.heads} heads")


@dataclass(frozen=True, slots=True)
class Paper:
    """Where a mechanism was published."""

    title: str
    arxiv: str
    year: int


class Attention(Protocol):
    """The module in a slot. It owns q, k, v and output projections; the backbone owns norm, residual and MLP.

    A mechanism that declares ``prefix=True`` also takes ``forward(x, prefix)`` with prefix tokens (B, P, C), a class
    token for instance, which attend and are attended as tokens of no place; it then returns both, mapped, and its
    ``macs`` takes their number as a third argument. Where the authors' code multiplies what the same outputs do not
    need, ``surplus(height, width)`` may say so: MACs by what they are spent on. Where the module itself multiplies
    padding, or products that it then masks, ``ideal_macs`` takes what ``macs`` takes and returns the MACs without: of
    the map's own tokens, of the (query, key) pairs of them that may attend each other, and of the pooled cells that
    hold a token of the map. Padding is never counted, not even where a border policy lets it be attended. Of a module
    without the method, all MACs are ideal.
    """

    def forward(self, x: "Tensor") -> "Tensor":
        """Map (B, H, W, C) to (B, H, W, C), for every H, W >= 1; pads, masks and crops for itself."""

    def macs(self, height: int, width: int) -> int:
        """Return the MACs of one image with an (height, width) map, padding included, by formula."""


@dataclass(frozen=True, slots=True)
class NoSettings:
    """The settings of a mechanism that has none."""


@dataclass(frozen=True, slots=True)
class Mechanism:
    """A registered way to attend: a constructor with its settings per stage and its citation."""

    name: str
    constructor: Callable[[Slot, Any], "nn.Module"]
    paper: Paper | None
    complexity: str
    stages: tuple[Any, ...]  # one frozen dataclass of settings per stage
    any_resolution: bool = True
    prefix: bool = False  # forward also takes prefix tokens

    def __post_init__(self) -> None:
        if len(self.stages) != STAGES or not all(is_dataclass(item) for item in self.stages):
            raise TypeError(f"mechanism {self.name!r}: stages must be {STAGES} dataclass instances, one per stage")

    def build(self, slot: Slot) -> "nn.Module":
        """Return the attention module for ``slot``."""
        return self.constructor(slot, self.stages[slot.stage])

    def configure(self, **settings: Any) -> "Mechanism":
        """Return this mechanism with other settings: one value for every stage, or a list of four, one per stage.

        A setting that is unknown, or of the wrong type, is a :class:`UserError`.
        """
        stages = self.stages
        for name, value in settings.items():
            default = stages[0]
            known = [item.name for item in fields(default)]
            if name not in known:
                raise unknown(f"setting of mechanism {self.name!r}", name, known)
            per_stage = value if isinstance(value, list | tuple) else [value] * STAGES
            if len(per_stage) != STAGES:
                raise UserError(
                    f"setting {name!r} of {self.name!r}: one value or {STAGES}, one per stage, not {value!r}"
                )
            kind = type(getattr(default, name))
            for item in per_stage:
                if type(item) is not kind:
                    raise UserError(f"setting {name!r} of {self.name!r} must be {kind.__name__}, not {item!r}")
            stages = tuple(replace(stage, **{name: item}) for stage, item in zip(stages, per_stage, strict=True))
        return replace(self, stages=stages)
