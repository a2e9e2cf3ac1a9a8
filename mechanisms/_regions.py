"""Attention of windows to regions of one or more maps, and how autograd and the compiler come by it."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ._region_products import Hidden, Layout, attend, differentiate
from ._spans import Span


def attend_regions(
    q: Tensor, levels: list[Tensor], layout: Layout, bias: Tensor, hidden: Hidden | None = None
) -> Tensor:
    """Attend the regions of every level from each window, under one softmax.

    Args:
        q: (B, H, W, C), H and W multiples of the window.
        levels: per level (B, rows, columns, 2C), keys then values; its first cells belong to the first windows.
        layout: the window, the levels' spans, the heads.
        bias: (heads, w², keys), added to the scores; keys level by level, and row-major within a level.
        hidden: what else is added to the scores of a window, or None.

    Returns:
        (B, H, W, C).
    """
    bias = bias.to(q.dtype)
    if torch.compiler.is_compiling() and not _is_exporting() and q.device.type == "cpu":
        return _compiled(q, levels, bias, *_told(layout, hidden))
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (q, bias, *levels)):
        out: Tensor = _Attend.apply(layout, hidden, q, bias, *levels)
        return out
    return attend(q, levels, layout, bias, hidden)


def _is_exporting() -> bool:
    """Tell whether the graph is to be read by others, who know no operator of ours."""
    return bool(getattr(torch.compiler, "is_exporting", bool)())  # which torch 2.5 lacks


class _Attend(torch.autograd.Function):
    """The forward pass keeps the maps alone; the backward pass gathers and multiplies again, chunk by chunk.

    PyTorch's fused kernels give no gradient of the mask, which the bias needs, and its other way keeps every score.
    A gradient of a gradient is refused.
    """

    @staticmethod
    def forward(ctx: Any, layout: Layout, hidden: Hidden | None, q: Tensor, bias: Tensor, *levels: Tensor) -> Tensor:
        """Return (B, H, W, C)."""
        ctx.layout, ctx.hidden = layout, hidden
        ctx.save_for_backward(q, bias, *levels)
        return attend(q, list(levels), layout, bias, hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of queries, bias and levels."""
        q, bias, *levels = ctx.saved_tensors
        to_q, to_bias, to_levels = differentiate(grad, q, levels, ctx.layout, bias, ctx.hidden)
        return None, None, to_q, to_bias, *to_levels


# What torch.compile calls: it would trace chunk after chunk, and fuse nothing that counts. Operators take tensors and
# numbers: of a Hidden its three parts, of a Layout its window, its spans' numbers in a row and its heads.
_TOLD = "Tensor? scores, Tensor? kinds, float score, int window, int[] spans, int heads"


def _told(layout: Layout, hidden: Hidden | None) -> tuple[Tensor | None, Tensor | None, float, int, list[int], int]:
    scores, kinds, score = (hidden.scores, hidden.kinds, hidden.score) if hidden else (None, None, 0.0)
    spans = [number for span in layout.spans for number in (span.side, span.step, span.around)]
    return scores, kinds, score, layout.window, spans, layout.heads


def _understood(
    scores: Tensor | None, kinds: Tensor | None, score: float, window: int, spans: list[int], heads: int
) -> tuple[Layout, Hidden | None]:
    parted = zip(spans[::3], spans[1::3], spans[2::3], strict=True)
    layout = Layout(window, tuple(Span(side, step, bool(around)) for side, step, around in parted), heads)
    return layout, None if scores is None or kinds is None else Hidden(scores, kinds, score)


@torch.library.custom_op(
    "attnbench::attend_regions",
    mutates_args=(),
    schema=f"(Tensor q, Tensor[] levels, Tensor bias, {_TOLD}) -> Tensor",
)
def _compiled(q: Tensor, levels: list[Tensor], bias: Tensor, *told: Any) -> Tensor:
    layout, hidden = _understood(*told)
    return attend(q, levels, layout, bias, hidden)


@torch.library.custom_op(
    "attnbench::attend_regions_backward",
    mutates_args=(),
    schema=f"(Tensor grad, Tensor q, Tensor[] levels, Tensor bias, {_TOLD}) -> Tensor[]",
)
def _compiled_backward(grad: Tensor, q: Tensor, levels: list[Tensor], bias: Tensor, *told: Any) -> list[Tensor]:
    layout, hidden = _understood(*told)
    to_q, to_bias, to_levels = differentiate(grad, q, levels, layout, bias, hidden)
    return [tensor.contiguous() for tensor in (to_q, to_bias, *to_levels)]


@_compiled.register_fake
def _(q: Tensor, *_: Any) -> Tensor:
    return q.new_empty(q.shape)


@_compiled_backward.register_fake
def _(_grad: Tensor, q: Tensor, levels: list[Tensor], bias: Tensor, *_: Any) -> list[Tensor]:
    return [tensor.new_empty(tensor.shape) for tensor in (q, bias, *levels)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001  # torch passes it by name
    q, levels, bias, scores, kinds, *layout = inputs
    ctx.save_for_backward(q, bias, scores, kinds, *levels)
    ctx.layout = layout


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    q, bias, scores, kinds, *levels = ctx.saved_tensors
    to_q, to_bias, *to_levels = _compiled_backward(grad, q, levels, bias, scores, kinds, *ctx.layout)
    return to_q, to_levels, to_bias, *(None,) * 6


_compiled.register_autograd(_differentiate, setup_context=_keep)
