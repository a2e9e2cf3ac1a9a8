"""The one hierarchical backbone: four stages of pre-norm blocks at strides 4 to 32; only the attention differs."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attnbench import linear, operators
from attnbench.architecture import Architecture, uniform
from attnbench.contract import STAGES, Attention, Slot
from attnbench.errors import UserError, unknown
from attnbench.layers import ClassificationHead, ClassTokenHead, LayerScale, Mlp
from attnbench.norms import LayerNorm
from attnbench.registry import MECHANISMS
from attnbench.sizes import SIZES

LEAST_SIDE = 32  # pixels: one token in the last stage


class Head(Protocol):
    """What turns four stage maps into a task's outputs."""

    def __call__(self, maps: list[Tensor]) -> Any:
        """Take four (B, H_i, W_i, C_i) maps."""


class Block(nn.Module):
    """Attention and MLP, each behind a norm and beside a residual."""

    def __init__(self, architecture: Architecture, stage: int, attention: nn.Module, drop_path: float) -> None:
        super().__init__()
        dim = architecture.dims[stage]
        self.norm1 = LayerNorm(dim, architecture.norm_eps)
        self.attn = attention
        self.norm2 = LayerNorm(dim, architecture.norm_eps)
        self.mlp = architecture.mlp(dim, architecture.mlp_ratios[stage])
        start = architecture.layer_scale
        self.scale1 = nn.Identity() if start is None else LayerScale(dim, start)
        self.scale2 = nn.Identity() if start is None else LayerScale(dim, start)
        self.drop_path: nn.Module = nn.Identity()
        if drop_path:
            from timm.layers import DropPath  # here, because timm takes seconds to import and costs do not need it

            self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return self._transform(x + self.drop_path(self.scale1(_shaped(self.attn(self.norm1(x)), x))))

    def forward_tokens(self, tokens: Tensor, prefix: int, grid: tuple[int, int]) -> Tensor:
        """Map (B, prefix + H * W, C), prefix tokens first, to the same shape; ``grid`` is (H, W)."""
        first, rest = self.norm1(tokens).split([prefix, tokens.shape[1] - prefix], dim=1)
        x, first = self.attn(rest.unflatten(1, grid), first)
        attended = torch.cat([first, x.flatten(1, 2)], dim=1)
        return self._transform(tokens + self.drop_path(self.scale1(attended)))

    def _transform(self, x: Tensor) -> Tensor:
        """Add what the MLP makes of (B, H, W, C) or (B, N, C), which is no one else's."""
        dropping = self.training and not isinstance(self.drop_path, nn.Identity)
        if type(self.scale2) is nn.Identity and not dropping and operators.fits(x, self.norm2, self.mlp):
            return operators.add_mlp(x, self.norm2, self.mlp)
        added: Tensor = self.drop_path(self.scale2(self.mlp(self.norm2(x))))
        return x + added


class Backbone(nn.Module):
    """Stem, four stages, head.

    ``drop_path`` rises linearly from 0 at the first block to its value at the last (stochastic depth, 1603.09382).
    """

    def __init__(
        self,
        architecture: Architecture,
        build: Callable[[Slot], nn.Module],
        resolution: tuple[int, int],
        head: Callable[[tuple[int, ...]], nn.Module],
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.architecture, self.channels = architecture, architecture.dims
        self.checkpointing = False  # whether the backward pass recomputes each block instead of keeping what is in it
        depths, dims = architecture.depths, architecture.dims
        grids = architecture.grids(resolution)
        self.stem = architecture.stem.build(3, dims[0])
        self.merging = nn.ModuleList(map(architecture.merging.build, dims[:-1], dims[1:]))
        self.blocks = nn.ModuleList()
        for stage, depth in enumerate(depths):
            slots = [Slot(dims[stage], architecture.heads[stage], stage, block, grids[stage]) for block in range(depth)]
            rates = [drop_path * (sum(depths[:stage]) + block) / max(sum(depths) - 1, 1) for block in range(depth)]
            blocks = [Block(architecture, stage, build(slot), rate) for slot, rate in zip(slots, rates, strict=True)]
            self.blocks.append(nn.ModuleList(blocks))
        shapes = [(1, *grids[stage], dims[stage]) for stage in architecture.positions]
        self.positions = nn.ParameterList(nn.init.trunc_normal_(torch.empty(shape), std=0.02) for shape in shapes)
        if architecture.class_token:  # with its position, which the others' is interpolated without
            self.class_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, dims[-1]), std=0.02))
            self.class_position = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, dims[-1]), std=0.02))
        norms = dims[:-1] if architecture.stage_norms else ()  # the last stage's norm is the head's
        self.norms = nn.ModuleList(LayerNorm(dim, architecture.norm_eps) for dim in norms)
        self.head = head(self.channels)
        self.apply(partial(_initialise, architecture.weight_std))
        self.apply(linear.adopt)

    def stages(self, images: Tensor) -> list[Tensor]:
        """Map images (B, 3, H, W), H and W >= 32, to four maps (B, H_i, W_i, C_i) at strides 4, 8, 16 and 32.

        In the uniform backbone H_i is ceil(H / 2^(i+2)), and W_i likewise. Each map is what the last block of its
        stage puts out, before merging and final norm.
        """
        return self.features(images)[0]

    def forward(self, images: Tensor) -> Any:
        """Map images (B, 3, H, W) to the head's outputs; for a classification head, logits (B, num_classes)."""
        maps, token = self.features(images)
        if token is not None and isinstance(self.head, ClassTokenHead):
            return self.head.forward_token(token)
        return self.head(maps)

    def macs(self, height: int, width: int) -> int:
        """Return the MACs of one (height, width) image by formula, head included where it has a formula."""
        shape, total = self.architecture, 0
        for stage, (rows, columns) in enumerate(shape.grids((height, width))):
            tokens, dim = rows * columns, self.channels[stage]
            reduction, channels = (shape.merging, self.channels[stage - 1]) if stage else (shape.stem, 3)
            total += reduction.macs(channels, dim, tokens)
            prefix = 1 if self._has_token(stage) else 0
            for block in cast(nn.ModuleList, self.blocks[stage]):
                formula: Callable[..., int] = cast(Attention, block.attn).macs
                total += formula(rows, columns, prefix) if prefix else formula(rows, columns)
                total += cast(Mlp, block.mlp).macs(tokens + prefix)
        return total + (self.head.macs() if isinstance(self.head, ClassificationHead) else 0)

    def ideal_macs(self, height: int, width: int) -> int:
        """Return the MACs of :meth:`macs` without attention's padding and masked pairs, for one (height, width) image.

        What surrounds the attention is the same for every mechanism, and counts in full, its borders' zeros included.
        """
        total = self.macs(height, width)
        for stage, (grid, blocks) in enumerate(zip(self.architecture.grids((height, width)), self.blocks, strict=True)):
            place = (*grid, 1) if self._has_token(stage) else grid
            for block in cast(nn.ModuleList, blocks):
                formula = cast(Callable[..., int], cast(Attention, block.attn).macs)
                ideal = cast(Callable[..., int], getattr(block.attn, "ideal_macs", formula))
                total += ideal(*place) - formula(*place)
        return total

    def surplus(self, height: int, width: int) -> dict[str, int]:
        """Return the MACs that the authors' code does beyond these for one (height, width) image, by what it does."""
        total: dict[str, int] = {}
        for grid, blocks in zip(self.architecture.grids((height, width)), self.blocks, strict=True):
            for block in cast(nn.ModuleList, blocks):
                surplus = cast(Callable[..., dict[str, int]] | None, getattr(block.attn, "surplus", None))
                for name, macs in surplus(*grid).items() if surplus else ():
                    total[name] = total.get(name, 0) + macs
        return {name: macs for name, macs in total.items() if macs}

    def features(self, images: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Return the four maps of :meth:`stages`, and the class token (B, 1, C) where there is one."""
        if images.shape[2] < LEAST_SIDE or images.shape[3] < LEAST_SIDE:
            raise UserError(f"images must be at least {LEAST_SIDE} pixels high and wide, not {tuple(images.shape[2:])}")
        x = self.stem(images.permute(0, 2, 3, 1))
        maps, token = [], None
        for stage, blocks in enumerate(self.blocks):
            if stage:
                x = self.norms[stage - 1](x) if self.norms else x
                x = self.merging[stage - 1](x)
            if stage in self.architecture.positions:
                x = x + _resized(self.positions[self.architecture.positions.index(stage)], x.shape[1:3])
            if self._has_token(stage):
                x, token = self._with_token(x, cast(nn.ModuleList, blocks))
            else:
                for block in cast(nn.ModuleList, blocks):
                    x = self._run(block, x)
            maps.append(x)
        return maps, token

    def _run(self, block: Callable[..., Tensor], *inputs: Any) -> Tensor:
        """Call a block, keeping its inputs only where activations are recomputed (1604.06174); drops are the same."""
        if self.checkpointing and torch.is_grad_enabled():
            recomputed: Tensor = checkpoint(block, *inputs, use_reentrant=False)
            return recomputed
        return block(*inputs)

    def _has_token(self, stage: int) -> bool:
        return self.architecture.class_token and stage == STAGES - 1

    def _with_token(self, x: Tensor, blocks: nn.ModuleList) -> tuple[Tensor, Tensor]:
        grid = (x.shape[1], x.shape[2])
        token = (self.class_token + self.class_position).expand(x.shape[0], -1, -1)
        tokens = torch.cat([token, x.flatten(1, 2)], dim=1)
        for block in blocks:
            tokens = self._run(cast(Block, block).forward_tokens, tokens, 1, grid)
        return tokens[:, 1:].unflatten(1, grid), tokens[:, :1]


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
    return assemble(uniform(SIZES[size]), mechanism, resolution, num_classes, drop_path, head, settings)


def assemble(
    architecture: Architecture,
    mechanism: str,
    resolution: tuple[int, int],
    num_classes: int,
    drop_path: float,
    head: Callable[[tuple[int, ...]], nn.Module] | None,
    settings: dict[str, Any],
) -> Backbone:
    """Return ``architecture`` with ``mechanism`` in every slot; see :func:`build_model`."""
    pair = isinstance(resolution, tuple | list) and [type(side) for side in resolution] == [int, int]
    if not pair or min(resolution) < LEAST_SIDE:
        raise UserError(f"resolution must be (H, W), at least {LEAST_SIDE} x {LEAST_SIDE} pixels, not {resolution!r}")
    if type(num_classes) is not int or num_classes < 1:
        raise UserError(f"num_classes must be a whole number of at least 1, not {num_classes!r}")
    configured = MECHANISMS[mechanism].configure(**settings)
    if architecture.class_token and not configured.prefix:
        raise UserError(f"{mechanism} takes no prefix tokens, and the class token of this architecture is one")
    make_head = head or (lambda dims: architecture.head(dims[-1], num_classes, architecture.norm_eps))
    return Backbone(architecture, configured.build, resolution, make_head, drop_path)


def _shaped(attended: Tensor, x: Tensor) -> Tensor:
    """Return ``attended``, of the shape of ``x``: another one might broadcast, and numbers would come of it."""
    if attended.shape != x.shape:
        raise ValueError(f"attention returned {tuple(attended.shape)} for {tuple(x.shape)}")
    return attended


def _resized(positions: Tensor, grid: torch.Size) -> Tensor:
    """Interpolate (1, H, W, C) to ``grid``; at the build resolution, return it."""
    if positions.shape[1:3] == grid:
        return positions
    channels_first = positions.permute(0, 3, 1, 2)
    return F.interpolate(channels_first, size=tuple(grid), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)


def _initialise(weight_std: float | None, module: nn.Module) -> None:
    """Draw linear weights with the published standard deviation, or so that they keep the variance of what they read.

    The fixed 0.02 of the published models suits widths near 1,000; at nano's 32 it starves the first few hundred steps.
    """
    if isinstance(module, nn.Linear):
        std = weight_std or module.in_features**-0.5
        nn.init.trunc_normal_(module.weight, std=std, a=-3 * std, b=3 * std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
