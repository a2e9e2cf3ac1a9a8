"""Attention of windows to regions of one or more maps, and how autograd and the compiler come by it."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from attnbench.compiling import wanted

from ._boxes import Layout
from ._hidden import Hidden
from ._region_products import attend, differentiate
from ._spans import Span


def attend_regions(
    qkv: Tensor, pooled: list[Tensor], layout: Layout, bias: Tensor, hidden: Hidden | None = None
) -> Tensor:
    """Attend the regions of every level from each window, under one softmax.

    Args:
        qkv: (B, H, W, 3C), queries, then keys, then values, H and W multiples of the window.
        pooled: of every further level (B, rows, columns, 2C), keys then values; its first cells belong to the first
            windows.
        layout: the window, the levels' spans, that of ``qkv`` first, and the heads.
        bias: (heads, w², keys), added to the scores; keys level by level, and row-major within a level.
        hidden: what else is added to the scores of a window, or None.

    Returns:
        (B, H, W, C).
    """
    if wanted(qkv):
        return _compiled(qkv, pooled, bias, *_told(layout, hidden))
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (qkv, bias, *pooled)):
        out: Tensor = _Attend.apply(layout, hidden, qkv, bias, *pooled)
        return out
    return attend(qkv, pooled, layout, bias, hidden)


class _Attend(torch.autograd.Function):
    """The forward pass keeps the maps alone; the backward pass gathers and multiplies again, chunk by chunk.

    PyTorch's fused kernels give no gradient of the mask, which the bias needs, and its other way keeps every score.
    A gradient of a gradient is refused.
    """

    @staticmethod
    def forward(ctx: Any, layout: Layout, hidden: Hidden | None, qkv: Tensor, bias: Tensor, *pooled: Tensor) -> Tensor:
        """Return (B, H, W, C)."""
        ctx.layout, ctx.hidden = layout, hidden
        ctx.save_for_backward(qkv, bias, *pooled)
        return attend(qkv, list(pooled), layout, bias, hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of what was given."""
        qkv, bias, *pooled = ctx.saved_tensors
        to_qkv, to_bias, to_pooled = differentiate(grad, qkv, pooled, ctx.layout, bias, ctx.hidden)
        return None, None, to_qkv, to_bias, *to_pooled


# What torch.compile calls: it would trace chunk after chunk, and fuse nothing that counts. Operators take tensors and
# numbers: of a Hidden its four parts, of a Layout its window, its spans' numbers in a row and its heads.
_TOLD = "Tensor? scores, Tensor? kinds, float score, bool beyond, int window, int[] spans, int heads"


def _told(
    layout: Layout, hidden: Hidden | None
) -> tuple[Tensor | None, Tensor | None, float, bool, int, list[int], int]:
    told = (hidden.scores, hidden.kinds, hidden.score, hidden.beyond) if hidden else (None, None, 0.0, False)
    spans = [number for span in layout.spans for number in (span.side, span.step, span.around)]
    return *told, layout.window, spans, layout.heads


def _understood(
    scores: Tensor | None,
    kinds: Tensor | None,
    score: float,
    beyond: bool,
    window: int,
    spans: list[int],
    heads: int,
) -> tuple[Layout, Hidden | None]:
    parted = zip(spans[::3], spans[1::3], spans[2::3], strict=True)
    layout = Layout(window, tuple(Span(side, step, bool(around)) for side, step, around in parted), heads)
    return layout, None if scores is None or kinds is None else Hidden(scores, kinds, score, beyond)


@torch.library.custom_op(
    "attnbench::attend_regions",
    mutates_args=(),
    schema=f"(Tensor qkv, Tensor[] pooled, Tensor bias, {_TOLD}) -> Tensor",
)
def _compiled(qkv: Tensor, pooled: list[Tensor], bias: Tensor, *told: Any) -> Tensor:
    layout, hidden = _understood(*told)
    return attend(qkv, pooled, layout, bias, hidden)


@torch.library.custom_op(
    "attnbench::attend_regions_backward",
    mutates_args=(),
    schema=f"(Tensor grad, Tensor qkv, Tensor[] pooled, Tensor bias, {_TOLD}) -> Tensor[]",
)
def _compiled_backward(grad: Tensor, qkv: Tensor, pooled: list[Tensor], bias: Tensor, *told: Any) -> list[Tensor]:
    layout, hidden = _understood(*told)
    to_qkv, to_bias, to_pooled = differentiate(grad, qkv, pooled, layout, bias, hidden)
    return [tensor.contiguous() for tensor in (to_qkv, to_bias, *to_pooled)]


@_compiled.register_fake
def _(qkv: Tensor, *_: Any) -> Tensor:
    return qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)


@_compiled_backward.register_fake
def _(_grad: Tensor, qkv: Tensor, pooled: list[Tensor], bias: Tensor, *_: Any) -> list[Tensor]:
    return [tensor.new_empty(tensor.shape) for tensor in (qkv, bias, *pooled)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001  # torch passes it by name
    qkv, pooled, bias, scores, kinds, *layout = inputs
    ctx.save_for_backward(qkv, bias, scores, kinds, *pooled)
    ctx.layout = layout


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    qkv, bias, scores, kinds, *pooled = ctx.saved_tensors
    to_qkv, to_bias, *to_pooled = _compiled_backward(grad, qkv, pooled, bias, scores, kinds, *ctx.layout)
    return to_qkv, to_pooled, to_bias, *(None,) * 7


_compiled.register_autograd(_differentiate, setup_context=_keep)
