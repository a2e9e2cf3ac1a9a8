"""The MLP of a block in training on a CPU, a part of the map at a time, with GELU taken again in the backward pass.

Of what is four times as wide inside, one map is kept where two were, and gradients never leave the cache: for a large
map, fresh memory takes longer to get than GELU to compute. Under torch.compile, which would keep both, it is an
operator.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from attnbench import products
from attnbench.compiling import wanted
from attnbench.devices import on_cpu
from attnbench.hooks import are_watched
from attnbench.linear import is_linear
from attnbench.parts import part, parts

TOKENS = 2048  # of a part, at most; a map of no more is left to autograd


def fits(x: Tensor, first: nn.Module, second: nn.Module) -> bool:
    """Tell whether :func:`transform` does what these do, and gains: layers may be exchanged or watched."""
    return x.numel() > TOKENS * x.shape[-1] and suit(x, first, second)


def suit(x: Tensor, first: nn.Module, second: nn.Module, *others: nn.Module) -> bool:
    """Tell whether two linear layers and others train here, with numbers that formulas of ours are for."""
    if not torch.is_grad_enabled() or not on_cpu(x) or not is_linear(first) or not is_linear(second):
        return False
    if x.dtype not in (torch.float32, torch.float64) or torch.is_autocast_enabled("cpu"):  # sums of parts are rounded
        return False
    layers = first, second, *others
    if any(layer.bias is None or layer.weight.dtype != x.dtype for layer in layers) or are_watched(*layers):
        return False
    if torch.compiler.is_compiling():
        return wanted(x)
    if torch._C._is_tracing():  # into a graph that others read
        return False
    # The formulas are for backward.
    return not torch._C._are_functorch_transforms_active() and forward_ad._current_level < 0


def transform(x: Tensor, first: nn.Linear, second: nn.Linear) -> Tensor:
    """Map (..., C) to (..., C'): two linear layers with GELU between; call only where they fit."""
    given = x, first.weight, first.bias, second.weight, second.bias
    out: Tensor = _compiled(*given)[0] if wanted(x) else _Transform.apply(*given)
    return out


def _transform(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> tuple[Tensor, Tensor]:
    tokens = x.reshape(-1, x.shape[-1])
    inside, out = tokens.new_empty(len(tokens), len(w1)), tokens.new_empty(len(tokens), len(w2))
    for some in parts(len(tokens), TOKENS):
        products.to_output(tokens[some], w1, b1, inside[some])
        products.to_output(F.gelu(inside[some]), w2, b2, out[some])
    return out.view(*x.shape[:-1], -1), inside


class _Transform(torch.autograd.Function):
    """Keeps the input, and what the first layer puts out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        """Return (..., C')."""
        out, inside = _transform(x, w1, b1, w2, b2)
        ctx.save_for_backward(x, w1, b1, w2, b2, inside)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of what was given, with a graph of their own where they are to have gradients too."""
        *given, inside = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        if torch.is_grad_enabled():
            return tuple(by_autograd(_plain, grad, given, wanted))
        found = _in_parts(grad, given, inside, wanted)
        return tuple(tensor if needed else None for tensor, needed in zip(found, wanted, strict=True))


def _in_parts(grad: Tensor, given: list[Tensor], inside: Tensor, wanted: tuple[bool, ...]) -> tuple[Tensor, ...]:
    x, w1, b1, w2, _ = given
    tokens, outer = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
    to_tokens, to_w1, to_b1, to_w2 = torch.empty_like(tokens), *(torch.zeros_like(weight) for weight in (w1, b1, w2))
    room = inside.new_empty(part(len(inside), TOKENS), inside.shape[1])
    for some in parts(len(inside), TOKENS):
        here, before = room[: some.stop - some.start], inside[some]
        if wanted[3]:
            products.to_weight(outer[some], torch.ops.aten.gelu.out(before, out=here), to_w2)
        if not any(wanted[:3]):
            continue  # nothing before the second layer learns
        products.to_input(outer[some], w2, here)
        torch.ops.aten.gelu_backward.grad_input(here, before, grad_input=here)
        if wanted[1]:
            products.to_weight(here, tokens[some], to_w1)
        to_b1 += here.sum(0)
        if wanted[0]:
            products.to_input(here, w1, to_tokens[some])
    return to_tokens.view(x.shape), to_w1, to_b1, to_w2, outer.sum(0)


def _plain(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    return F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2)


def by_autograd(
    call: Callable[..., Tensor], grad: Tensor, given: list[Tensor], wanted: tuple[bool, ...]
) -> Iterator[Tensor | None]:
    """Yield the gradients of what was given to ``call``, with a graph of their own; None where not wanted."""
    sources = [tensor for tensor, needed in zip(given, wanted, strict=True) if needed]
    found = iter(torch.autograd.grad(call(*given), sources, grad, create_graph=True))
    return (next(found) if needed else None for needed in wanted)


_compiled = torch.library.custom_op(
    "attnbench::transform",
    _transform,
    mutates_args=(),
    schema="(Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor b2) -> (Tensor, Tensor)",
)


@torch.library.custom_op(
    "attnbench::transform_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor inside, bool[] wanted)"
    " -> Tensor[]",
)
def _compiled_backward(grad: Tensor, *given: Any) -> list[Tensor]:
    *sources, inside, learning = given
    return list(_in_parts(grad, sources, inside, tuple(learning)))


@_compiled.register_fake
def _(x: Tensor, w1: Tensor, _b1: Tensor, w2: Tensor, _b2: Tensor) -> tuple[Tensor, Tensor]:
    tokens = x.numel() // x.shape[-1]
    return x.new_empty(*x.shape[:-1], w2.shape[0]), x.new_empty(tokens, w1.shape[0])


@_compiled_backward.register_fake
def _(_grad: Tensor, *given: Any) -> list[Tensor]:
    return [tensor.new_empty(tensor.shape) for tensor in given[:5]]


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor, ...]:
    return tuple(_compiled_backward(grad, *ctx.saved_tensors, ctx.needs_input_grad))


_compiled.register_autograd(_differentiate, setup_context=_keep)
