"""What torch.compile calls on a CPU where it would unroll a loop over parts, and fuse nothing that counts."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnbench.layers import TOKENS, ConvMlp, Mlp, RectifiedConvMlp
from attnbench.parts import parts


def wanted(x: Tensor) -> bool:
    """Tell whether a graph for a CPU is being made, and not to be read by others, who know no operator of ours."""
    exporting = bool(getattr(torch.compiler, "is_exporting", bool)())  # which torch 2.5 lacks
    return torch.compiler.is_compiling() and not exporting and x.device.type == "cpu"


def fits(norm: nn.Module, mlp: nn.Module) -> bool:
    """Tell whether :func:`add_mlp` does what these do: layers may have been exchanged, and casts be automatic."""
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or type(norm) is not nn.LayerNorm:
        return False
    if type(mlp) not in (Mlp, ConvMlp, RectifiedConvMlp) or not isinstance(mlp, Mlp):
        return False
    linear = type(mlp.fc1) is type(mlp.fc2) is nn.Linear
    return linear and (not isinstance(mlp, ConvMlp) or type(mlp.dwconv) is nn.Conv2d)


def add_mlp(x: Tensor, norm: nn.LayerNorm, mlp: Mlp) -> Tensor:
    """Add ``mlp(norm(x))`` to ``x`` (B, ..., C), and return it; call only where they fit. Without a gradient."""
    first, second = (mlp.fc1.weight, mlp.fc1.bias), (mlp.fc2.weight, mlp.fc2.bias)
    mixing = (mlp.dwconv.weight, mlp.dwconv.bias) if isinstance(mlp, ConvMlp) else (None, None)
    _add_mlp(x, norm.weight, norm.bias, norm.eps, *first, *second, *mixing, isinstance(mlp, RectifiedConvMlp))
    return x


_WEIGHTS = "Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, Tensor? mixing, Tensor? mixing_bias, bool rectified"


@torch.library.custom_op(
    "attnbench::add_mlp",
    mutates_args=("x",),
    schema=f"(Tensor(a!) x, Tensor scale, Tensor shift, float eps, {_WEIGHTS}) -> ()",
)
def _add_mlp(x: Tensor, scale: Tensor, shift: Tensor, eps: float, *weights: Any) -> None:
    w1, b1, w2, b2, mixing, mixing_bias, rectified = weights
    whole = x.flatten(0, -2) if mixing is None else x
    for some in parts(len(whole), TOKENS // max(1, whole[:1, ..., 0].numel())):
        part = whole[some]
        inside = F.linear(F.layer_norm(part, scale.shape, scale, shift, eps), w1, b1)
        if mixing is not None:
            inside = (F.relu(inside) if rectified else inside).permute(0, 3, 1, 2)
            inside = F.conv2d(inside, mixing, mixing_bias, padding=1, groups=len(mixing)).permute(0, 2, 3, 1)
        part += F.linear(F.gelu(inside), w2, b2)
    if not x.is_contiguous():  # and what was flattened is a copy
        x.copy_(whole.view(x.shape))


@_add_mlp.register_fake
def _(*_: Any) -> None:
    pass
