"""A block's MLP with a depthwise convolution, in training on a CPU: some images and channels at a time.

A depthwise convolution mixes no channels, so those inside are taken group by group, and stay in the cache from the
first layer to the second and back again. What the first layer puts out is kept, one map where autograd keeps three;
what comes after it is cheaper to compute again than to fetch. Under torch.compile, which would turn gradients into
another order of axes, it is an operator.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnbench import products, training_mlp
from attnbench.compiling import wanted
from attnbench.parts import parts

TOKENS = 2048  # at once, at most, where an image has no more
INSIDE = 2**20  # numbers within, at once
GROUP = 64  # channels: of fewer at once, products and convolution take up to twice as long


def is_depthwise(convolution: nn.Module) -> bool:
    """Tell whether it is what ``nn.Conv2d`` makes for a ConvMlp: 3 x 3 places of a channel each, zeros around."""
    if type(convolution) is not nn.Conv2d or convolution.padding_mode != "zeros":
        return False
    form = convolution.kernel_size, convolution.stride, convolution.padding, convolution.dilation
    same = form == ((3, 3), (1, 1), (1, 1), (1, 1))
    return same and convolution.groups == convolution.out_channels == convolution.in_channels


def fits(x: Tensor, first: nn.Module, mixing: nn.Module, second: nn.Module) -> bool:
    """Tell whether :func:`transform` does what these do: layers may be exchanged or watched."""
    return x.numel() > 0 and is_depthwise(mixing) and training_mlp.suit(x, first, second, mixing)


def transform(x: Tensor, first: nn.Linear, mixing: nn.Conv2d, second: nn.Linear, rectified: bool) -> Tensor:
    """Map (B, H, W, C) to (B, H, W, C'), with ReLU before the convolution if ``rectified``; call where they fit."""
    given = x, first.weight, first.bias, mixing.weight, mixing.bias, second.weight, second.bias, rectified
    out: Tensor = _compiled(*given)[0] if wanted(x) else _Transform.apply(*given)
    return out


def _pieces(x: Tensor, channels: int) -> Iterator[tuple[slice, slice, slice]]:
    """Cut the map inside into images, channels of these, and where they are kept."""
    each = x[:1, ..., 0].numel()
    for images in parts(len(x), TOKENS // each):
        tokens = each * (images.stop - images.start)
        for group in parts(channels, INSIDE // tokens, GROUP):
            first = each * channels * images.start + tokens * group.start
            yield images, group, slice(first, first + tokens * (group.stop - group.start))


def _transform(x: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
    w1, b1, mixing, mixing_bias, w2, b2, rectified = given
    x = x.contiguous()
    out, inside = b2.repeat(*x.shape[:3], 1), x.new_empty(x[..., 0].numel() * len(w1))

    def take(images: slice, group: slice, kept: slice) -> None:
        tokens = x[images].flatten(0, 2)
        before = inside[kept].view(len(tokens), -1)
        products.to_output(tokens, w1[group], b1[group], before)
        after = mixed(_as_map(before, x), mixing[group], mixing_bias[group], rectified)
        products.add_output(_as_tokens(F.gelu(after)), w2[:, group], out[images].view(len(tokens), -1))

    for piece in _pieces(x, len(w1)):
        take(*piece)
    return out, inside


def mixed(before: Tensor, mixing: Tensor, bias: Tensor, rectified: bool) -> Tensor:
    """Return what the convolution makes of (n, channels, H, W)."""
    return F.conv2d(F.relu(before) if rectified else before, mixing, bias, padding=1, groups=len(mixing))


def _as_map(tokens: Tensor, like: Tensor) -> Tensor:
    """View (n * H * W, channels) as (n, channels, H, W), in channels-last order."""
    return tokens.view(-1, *like.shape[1:3], tokens.shape[1]).permute(0, 3, 1, 2)


def _as_tokens(x: Tensor) -> Tensor:
    """View (n, channels, H, W) in channels-last order as (n * H * W, channels)."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


class _Transform(torch.autograd.Function):
    """Keeps the input, and what the first layer puts out."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        """Return (B, H, W, C')."""
        out, inside = _transform(*given)
        ctx.rectified = given[-1]
        ctx.save_for_backward(*given[:-1], inside)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of what was given, with a graph of their own where they are to have gradients too."""
        *given, inside = ctx.saved_tensors
        learning = ctx.needs_input_grad[:-1]
        if torch.is_grad_enabled():
            return *training_mlp.by_autograd(_plain(ctx.rectified), grad, given, learning), None
        found = _Gradients(grad, given, ctx.rectified, inside, learning).found
        return *(tensor if needed else None for tensor, needed in zip(found, learning, strict=True)), None


def _plain(rectified: bool) -> Any:
    def call(x: Tensor, w1: Tensor, b1: Tensor, mixing: Tensor, mixing_bias: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        after = mixed(F.linear(x, w1, b1).permute(0, 3, 1, 2), mixing, mixing_bias, rectified)
        return F.linear(F.gelu(after.permute(0, 2, 3, 1)), w2, b2)

    return call


class _Gradients:
    """The gradients of input, first layer, convolution and second layer, added up piece by piece."""

    def __init__(
        self, grad: Tensor, given: list[Tensor], rectified: bool, inside: Tensor, learning: tuple[bool, ...]
    ) -> None:
        x, *self.parameters = given
        self.x, self.grad, self.inside = x.contiguous(), grad.contiguous(), inside
        self.rectified, self.learning = rectified, learning
        self.found = [torch.zeros_like(tensor, memory_format=torch.contiguous_format) for tensor in given]
        for piece in _pieces(x, len(self.parameters[0])):
            self._add(*piece)
        if learning[6]:
            torch.sum(self.grad, (0, 1, 2), out=self.found[6])

    def _add(self, images: slice, group: slice, kept: slice) -> None:
        w1, _, mixing, mixing_bias, w2, _ = self.parameters
        outer = self.grad[images].flatten(0, 2)
        before = _as_map(self.inside[kept].view(len(outer), -1), self.x)
        after = mixed(before, mixing[group], mixing_bias[group], self.rectified)
        if self.learning[5]:
            products.to_weight(outer, _as_tokens(F.gelu(after)), self.found[5][:, group])
        if not any(self.learning[:5]):
            return  # nothing before the second layer learns
        to_mixed = torch.ops.aten.gelu_backward(_as_map(products.to_input(outer, w2[:, group]), self.x), after)
        self._add_first(images, group, _as_tokens(self._add_mixing(group, to_mixed, before)), w1[group])

    def _add_mixing(self, group: slice, to_mixed: Tensor, before: Tensor) -> Tensor:
        """Add the convolution's gradients, and return that of what is before it."""
        mixing, channels = self.parameters[2][group], group.stop - group.start
        wanted = [any(self.learning[:3]), self.learning[3], self.learning[4]]
        taken = F.relu(before) if self.rectified else before
        form = [channels], [1, 1], [1, 1], [1, 1], False, [0, 0], channels
        found = torch.ops.aten.convolution_backward(to_mixed, taken, mixing, *form, wanted)
        for total, part in zip(self.found[3:5], found[1:], strict=True):
            if part is not None:
                total[group] += part
        if found[0] is None:
            return to_mixed  # of no use to anybody
        inner: Tensor = torch.ops.aten.threshold_backward(found[0], before, 0) if self.rectified else found[0]
        return inner

    def _add_first(self, images: slice, group: slice, inner: Tensor, w1: Tensor) -> None:
        if self.learning[1]:
            products.to_weight(inner, self.x[images].flatten(0, 2), self.found[1][group])
        if self.learning[2]:
            self.found[2][group] += inner.sum(0)
        if self.learning[0]:
            self.found[0][images].view(len(inner), -1).add_(products.to_input(inner, w1))


_PARAMETERS = "Tensor w1, Tensor b1, Tensor mixing, Tensor mixing_bias, Tensor w2, Tensor b2, bool rectified"
_compiled = torch.library.custom_op(
    "attnbench::transform_convolved",
    _transform,
    mutates_args=(),
    schema=f"(Tensor x, {_PARAMETERS}) -> (Tensor, Tensor)",
)


@torch.library.custom_op(
    "attnbench::transform_convolved_backward",
    mutates_args=(),
    schema=f"(Tensor grad, Tensor x, {_PARAMETERS}, Tensor inside, bool[] wanted) -> Tensor[]",
)
def _compiled_backward(grad: Tensor, *given: Any) -> list[Tensor]:
    *sources, rectified, inside, learning = given
    return _Gradients(grad, sources, rectified, inside, tuple(learning)).found


@_compiled.register_fake
def _(x: Tensor, w1: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(*x.shape[:-1], given[3].shape[0]), x.new_empty(x[..., 0].numel() * w1.shape[0])


@_compiled_backward.register_fake
def _(_grad: Tensor, *given: Any) -> list[Tensor]:
    return [tensor.new_empty(tensor.shape) for tensor in given[:7]]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.rectified = inputs[-1]
    ctx.save_for_backward(*inputs[:-1], output[1])
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    *given, inside = ctx.saved_tensors
    return *_compiled_backward(grad, *given, ctx.rectified, inside, ctx.needs_input_grad[:-1]), None


_compiled.register_autograd(_differentiate, setup_context=_keep)
