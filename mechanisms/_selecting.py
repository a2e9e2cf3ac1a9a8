"""Tokens selected by number, which may be selected more than once.

In training under torch.compile on a CPU it is an operator: gradients of what was selected are added up in the order of
memory, which the compiler would do atomically, number by number, in five times the time.
"""

from typing import Any

import torch
from torch import Tensor

from attnbench.compiling import wanted


def select(x: Tensor, chosen: Tensor) -> Tensor:
    """Return the tokens (parts, n, D) of ``x`` (parts, N, D) that have the numbers ``chosen`` (n)."""
    if wanted(x) and torch.is_grad_enabled():
        compiled: Tensor = _compiled(x, chosen)
        return compiled
    return _select(x, chosen)


def _select(x: Tensor, chosen: Tensor) -> Tensor:
    return x.index_select(1, chosen)


def _add_up(grad: Tensor, chosen: Tensor, count: int) -> Tensor:
    return grad.new_zeros(grad.shape[0], count, grad.shape[2]).index_add_(1, chosen, grad)


_compiled = torch.library.custom_op(
    "attnbench::select", _select, mutates_args=(), schema="(Tensor x, Tensor chosen) -> Tensor"
)
_compiled_backward = torch.library.custom_op(
    "attnbench::select_backward", _add_up, mutates_args=(), schema="(Tensor grad, Tensor chosen, int count) -> Tensor"
)


@_compiled.register_fake
def _(x: Tensor, chosen: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], chosen.shape[0], x.shape[2])


@_compiled_backward.register_fake
def _(grad: Tensor, _: Tensor, count: int) -> Tensor:
    return grad.new_empty(grad.shape[0], count, grad.shape[2])


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG001  # torch passes it by name
    x, chosen = inputs
    ctx.save_for_backward(chosen)
    ctx.count = x.shape[1]


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return _compiled_backward(grad, *ctx.saved_tensors, ctx.count), None


_compiled.register_autograd(_differentiate, setup_context=_keep)
