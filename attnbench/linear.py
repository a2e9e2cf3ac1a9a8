"""Linear layers, by the library that multiplies fastest here; see :mod:`attnbench.products`."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnbench import products
from attnbench.compiling import wanted


class Linear(nn.Linear):
    """Multiply by a matrix, and add a bias."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C')."""
        return linear(x, self.weight, self.bias)


def is_linear(module: nn.Module) -> bool:
    """Tell whether a module does what ``nn.Linear`` does, and not more, as one of a class derived from it might."""
    return type(module) in (nn.Linear, Linear)


def adopt(module: nn.Module) -> None:
    """Make a module that is just an ``nn.Linear`` a :class:`Linear`, whoever wrote what it is part of."""
    if type(module) is nn.Linear:
        module.__class__ = Linear


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Map (..., C) to (..., C'), with weights (C', C) and a bias (C')."""
    if not _suit(x, weight, bias):
        return F.linear(x, weight, bias)
    if torch.compiler.is_compiling():
        compiled: Tensor = _compiled(x, weight, bias)
        return compiled
    if torch.is_grad_enabled() and not products.are_observed():
        learning: Tensor = _Learning.apply(x, weight, bias)
        return learning
    return _multiply(x, weight, bias)


def _suit(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Tell whether oneDNN is to do what PyTorch's operator would."""
    given = (x, weight) if bias is None else (x, weight, bias)
    if not products.suit(x.numel() * len(weight), *given) or torch.is_autocast_enabled("cpu"):
        return False
    if (torch.compiler.is_compiling() and not wanted(x)) or not weight.is_contiguous():
        return False
    return x.shape[-1:] == weight.shape[1:] and (bias is None or bias.shape == weight.shape[:1])


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight, bias) if products.are_observed() else products.by_onednn(x, weight, bias)


class _Learning(torch.autograd.Function):
    """Keeps the input for a weight that learns, and the weight for an input that does, as PyTorch's layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return (..., C')."""
        _keep(ctx, (x, weight), None)
        return _multiply(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of what was given, with a graph of their own where they are to have gradients too."""
        x, weight = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return _learnt(ctx, grad, _gradients(grad, x, weight))
        outer = _as_rows(grad)
        to_x = [] if weight is None else [grad @ weight]
        to_weight = [] if x is None else [outer.T @ _as_rows(x)]
        return _learnt(ctx, grad, [*to_x, *to_weight])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor | None) -> None:  # noqa: ARG001  # torch passes it by name
    x, weight = inputs[:2]
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight if ctx.needs_input_grad[0] else None)


def _gradients(grad: Tensor, x: Tensor | None, weight: Tensor | None) -> list[Tensor]:
    """Return the gradient of the input if there is a weight, and that of the weight if there is an input."""
    outer = _as_rows(grad)
    to_x = [] if weight is None else [products.to_input(outer, weight).view(*grad.shape[:-1], weight.shape[1])]
    to_weight = [] if x is None else [products.to_weight(outer, _as_rows(x))]
    return [*to_x, *to_weight]


def _as_rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _learnt(ctx: Any, grad: Tensor, found: list[Tensor]) -> tuple[Tensor | None, ...]:
    """Return the gradients of input, weight and bias, None of what does not learn."""
    gradients = iter(found)
    learns = ctx.needs_input_grad
    to_x, to_weight = (next(gradients) if learning else None for learning in learns[:2])
    return to_x, to_weight, _as_rows(grad).sum(0) if learns[2] else None


_compiled = torch.library.custom_op(
    "attnbench::linear",
    _multiply,
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
)
_compiled_backward = torch.library.custom_op(
    "attnbench::linear_backward",
    _gradients,
    mutates_args=(),
    schema="(Tensor grad, Tensor? x, Tensor? weight) -> Tensor[]",
)


@_compiled.register_fake
def _(x: Tensor, weight: Tensor, _: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


@_compiled_backward.register_fake
def _(grad: Tensor, x: Tensor | None, weight: Tensor | None) -> list[Tensor]:
    to_x = [] if weight is None else [grad.new_empty(*grad.shape[:-1], weight.shape[1])]
    to_weight = [] if x is None else [grad.new_empty(grad.shape[-1], x.shape[-1])]
    return [*to_x, *to_weight]


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _learnt(ctx, grad, _compiled_backward(grad, *ctx.saved_tensors))


_compiled.register_autograd(_differentiate, setup_context=_keep)
