"""The MLP of a block in inference on a CPU, a part of the map at a time and in place; under torch.compile an operator.

What is four times as wide inside stays in the cache, and its memory is used again, where fresh memory for a whole map
takes as long to get as the products to compute. The compiler would unroll the loop and fuse nothing that counts.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnbench import products
from attnbench.compiling import is_exporting, wanted
from attnbench.devices import on_cpu
from attnbench.hooks import are_watched
from attnbench.layers import ConvMlp, Mlp, RectifiedConvMlp
from attnbench.linear import is_linear, linear
from attnbench.norms import LayerNorm
from attnbench.parts import parts
from attnbench.training_conv_mlp import GROUP, is_depthwise, mixed

TOKENS = 2048  # of a part of a map, at most: fewer read the weights too often, more leave the cache
# Numbers at once within a ConvMlp, which takes whole images and some of their channels: of more, what a turn frees goes
# back to the system, and the next one fetches it page by page.
INSIDE = 2**19


def fits(x: Tensor, norm: nn.Module, mlp: nn.Module) -> bool:
    """Tell whether :func:`add_mlp` does what these do: layers may be exchanged or watched, and casts be automatic."""
    if torch.is_grad_enabled() or not on_cpu(x) or torch.is_autocast_enabled("cpu") or is_exporting():
        return False
    if type(mlp) not in (Mlp, ConvMlp, RectifiedConvMlp) or not isinstance(mlp, Mlp):
        return False
    layers = [norm, mlp.fc1, mlp.fc2, *([mlp.dwconv] if isinstance(mlp, ConvMlp) else [])]
    if type(norm) not in (nn.LayerNorm, LayerNorm) or not is_linear(mlp.fc1) or not is_linear(mlp.fc2):
        return False
    if any(layer.weight is None or layer.bias is None for layer in layers):
        return False
    if isinstance(mlp, ConvMlp) and not is_depthwise(mlp.dwconv):
        return False
    return not are_watched(mlp, *layers)


def add_mlp(x: Tensor, norm: nn.LayerNorm, mlp: Mlp) -> Tensor:
    """Add ``mlp(norm(x))`` to ``x`` (B, ..., C), and return the sum; call only where they fit. ``x`` is lost."""
    first, second = (mlp.fc1.weight, mlp.fc1.bias), (mlp.fc2.weight, mlp.fc2.bias)
    mixing = (mlp.dwconv.weight, mlp.dwconv.bias) if isinstance(mlp, ConvMlp) else (None, None)
    given = norm.weight, norm.bias, norm.eps, *first, *second, *mixing, isinstance(mlp, ConvMlp) and mlp.rectified
    x = x.contiguous()
    (_compiled if wanted(x) else _add)(x, *given)
    return x


def _add(x: Tensor, *given: Any) -> None:
    (scale, shift, eps, w1, b1, w2, b2), convolution = given[:7], given[7]
    if convolution is not None:
        _add_convolved(x, *given)
        return
    tokens = x.view(-1, x.shape[-1])
    for some in parts(len(tokens), TOKENS):
        part = tokens[some]
        part += linear(F.gelu(linear(F.layer_norm(part, scale.shape, scale, shift, eps), w1, b1)), w2, b2)


def _add_convolved(x: Tensor, *given: Any) -> None:
    """Take the channels inside group by group: a depthwise convolution mixes none."""
    scale, shift, eps, w1, b1, w2, b2, mixing, mixing_bias, rectified = given
    each = max(1, x[:1, ..., 0].numel())
    for some in parts(len(x), TOKENS // each):
        part = x[some]
        normed = F.layer_norm(part, scale.shape, scale, shift, eps)
        part += b2
        for group in parts(len(w1), INSIDE // max(1, normed[..., 0].numel()), GROUP):
            inside = linear(normed, w1[group], b1[group]).permute(0, 3, 1, 2)
            inside = mixed(inside, mixing[group], mixing_bias[group], rectified)
            hidden = F.gelu(inside.permute(0, 2, 3, 1)).flatten(0, 2)
            products.add_output(hidden, w2[:, group], part.view(-1, part.shape[-1]))


_MLP = "Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor? mixing, Tensor? mixing_bias, bool rectified"
_compiled = torch.library.custom_op(
    "attnbench::add_mlp",
    _add,
    mutates_args=("x",),
    schema=f"(Tensor(a!) x, Tensor scale, Tensor shift, float eps, {_MLP}) -> ()",
)


@_compiled.register_fake
def _(*_: Any) -> None:
    pass
