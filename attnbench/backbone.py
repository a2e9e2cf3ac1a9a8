"""The one hierarchical backbone: four stages of pre-norm blocks at strides 4 to 32; only the attention differs."""

from collections.abc import Callable
from typing import Any, Protocol, cast

from torch import Tensor, nn

from attnbench.contract import STAGES, Attention, Slot
from attnbench.errors import UserError, unknown
from attnbench.layers import STEM, ClassificationHead, Mlp, PatchMerging, Stem
from attnbench.registry import MECHANISMS
from attnbench.sizes import SIZES, Size

LEAST_SIDE = 32  # pixels: one token in the last stage


class Head(Protocol):
    """What turns four stage maps into a task's outputs."""

    def __call__(self, maps: list[Tensor]) -> Any:
        """Take four (B, H_i, W_i, C_i) maps."""


class Block(nn.Module):
    """Attention and MLP, each behind a norm and beside a residual."""

    def __init__(self, dim: int, attention: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attention
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim)
        self.drop_path: nn.Module = nn.Identity()
        if drop_path:
            from timm.layers import DropPath  # here, because timm takes seconds to import and costs do not need it

            self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out


class Backbone(nn.Module):
    """Stem, four stages, head.

    ``drop_path`` rises linearly from 0 at the first block to its value at the last (stochastic depth, 1603.09382).
    """

    def __init__(
        self,
        size: Size,
        build: Callable[[Slot], nn.Module],
        resolution: tuple[int, int],
        head: Callable[[tuple[int, ...]], nn.Module],
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.depths = size.depths
        self.channels = tuple(size.dim * 2**stage for stage in range(STAGES))
        self.stem = Stem(size.dim)
        self.blocks = nn.ModuleList()
        self.merging = nn.ModuleList(PatchMerging(dim) for dim in self.channels[:-1])
        for stage, (dim, heads, depth) in enumerate(zip(self.channels, size.heads, size.depths, strict=True)):
            grid = stage_grid(resolution, stage)
            slots = [Slot(dim, heads, stage, block, grid) for block in range(depth)]
            rates = [drop_path * (sum(size.depths[:stage]) + block) / (sum(size.depths) - 1) for block in range(depth)]
            stage_blocks = [Block(dim, build(slot), rate) for slot, rate in zip(slots, rates, strict=True)]
            self.blocks.append(nn.ModuleList(stage_blocks))
        self.head = head(self.channels)
        self.apply(_initialise)

    def stages(self, images: Tensor) -> list[Tensor]:
        """Map images (B, 3, H, W), H and W >= 32, to four maps (B, ceil(H / 2^(i+2)), ceil(W / 2^(i+2)), C_i).

        Each is what the last block of its stage puts out, before merging and final norm.
        """
        if images.shape[2] < LEAST_SIDE or images.shape[3] < LEAST_SIDE:
            raise UserError(f"images must be at least {LEAST_SIDE} pixels high and wide, not {tuple(images.shape[2:])}")
        x = self.stem(images)
        maps = []
        for stage, blocks in enumerate(self.blocks):
            if stage:
                x = self.merging[stage - 1](x)
            for block in cast(nn.ModuleList, blocks):
                x = block(x)
            maps.append(x)
        return maps

    def forward(self, images: Tensor) -> Any:
        """Map images (B, 3, H, W) to the head's outputs; for a classification head, logits (B, num_classes)."""
        return self.head(self.stages(images))

    def macs(self, height: int, width: int) -> int:
        """Return the MACs of one (height, width) image by formula, head included where it has a formula."""
        total = 0
        for stage, blocks in enumerate(self.blocks):
            rows, columns = stage_grid((height, width), stage)
            tokens, dim = rows * columns, self.channels[stage]
            total += tokens * (3 * STEM**2 * dim if stage == 0 else (2 * dim) * dim)  # stem, or merging of 4 (C/2) to C
            for block in cast(nn.ModuleList, blocks):
                attention = cast(Attention, block.attn)
                mlp = 2 * tokens * dim * cast(Mlp, block.mlp).fc1.out_features
                total += attention.macs(rows, columns) + mlp
        return total + (self.head.macs() if isinstance(self.head, ClassificationHead) else 0)


def build_model(
    mechanism: str,
    size: str = "nano",
    *,
    resolution: tuple[int, int],
    num_classes: int = 1000,
    drop_path: float = 0.0,
    head: Callable[[tuple[int, ...]], nn.Module] | None = None,
    **settings: Any,
) -> Backbone:
    """Return the backbone with ``mechanism`` in every slot.

    Args:
        mechanism: a registered name.
        size: a key of ``SIZES``.
        resolution: (H, W) in pixels, at least 32; only mechanisms with fixed-length parameters depend on it.
        num_classes: outputs of the classification head.
        drop_path: rate of the last block.
        head: builds another head from the four stages' channels.
        settings: of the mechanism; one value for all stages, or four.

    Raises:
        UserError: an unknown mechanism, size or setting, or a resolution below 32.
    """
    if size not in SIZES:
        raise unknown("size", size, SIZES)
    if min(resolution) < LEAST_SIDE:
        raise UserError(f"resolution must be at least {LEAST_SIDE} x {LEAST_SIDE} pixels, not {resolution}")
    configured = MECHANISMS[mechanism].configure(**settings)
    make_head = head or (lambda channels: ClassificationHead(channels[-1], num_classes))
    return Backbone(SIZES[size], configured.build, resolution, make_head, drop_path)


def stage_grid(resolution: tuple[int, int], stage: int) -> tuple[int, int]:
    """Return the (H, W) of a stage's map, in tokens."""
    stride = STEM * 2**stage
    return -(-resolution[0] // stride), -(-resolution[1] // stride)


def _initialise(module: nn.Module) -> None:
    """Draw linear weights so that they keep the variance of what they read (LeCun's fan-in rule).

    The fixed 0.02 of the published models suits widths near 1,000; at nano's 32 it starves the first few hundred steps.
    """
    if isinstance(module, nn.Linear):
        std = module.in_features**-0.5
        nn.init.trunc_normal_(module.weight, std=std, a=-3 * std, b=3 * std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
