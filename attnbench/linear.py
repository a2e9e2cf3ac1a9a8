"""Linear layers in inference, by the faster one of the two libraries that PyTorch brings for a CPU.

PyTorch multiplies float32 by MKL, which leaves speed unused on AMD processors with AVX-512: on an EPYC the layers of
Swin-T took 0.67 to 0.94 of the time by oneDNN. With both held to AVX2 there, a whole Focal-T gained nothing.
"""

import platform
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from attnbench.compiling import wanted
from attnbench.devices import on_cpu

PLAIN = (Tensor, nn.Parameter)  # and no subclass, which might store something else
LEAST = 2**23  # MACs, below which oneDNN's preparations take longer than is gained


def _serves_better() -> bool:
    """Tell whether the processor is one of AMD with AVX-512, and PyTorch multiplies by MKL."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkl.is_available():
        return False
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "AuthenticAMD" in platform.processor()


SERVES_BETTER = _serves_better()


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
    if not SERVES_BETTER or not _suit(x, weight, bias):
        return F.linear(x, weight, bias)
    if torch.compiler.is_compiling():
        compiled: Tensor = _compiled(x, weight, bias)
        return compiled
    return _by_onednn(x, weight, bias) if _is_observed_by_none() else F.linear(x, weight, bias)


def would_be_by_onednn(x: Tensor, weight: Tensor) -> bool:
    """Tell a ledger whether, unobserved, a product of (N, C) and (C, C') would be oneDNN's, if a layer's it is."""
    if not SERVES_BETTER or torch.is_grad_enabled() or x.dtype != torch.float32:
        return False
    return x.numel() * weight.shape[1] >= LEAST


def _suit(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Tell whether these are numbers that oneDNN multiplies as PyTorch does, and enough of them."""
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or not on_cpu(x) or x.numel() * len(weight) < LEAST:
        return False
    if torch.compiler.is_compiling() and not wanted(x):
        return False
    for given in (x, weight) if bias is None else (x, weight, bias):
        if given.dtype != torch.float32 or given.device.type != "cpu" or type(given) not in PLAIN:
            return False
    if not weight.is_contiguous():  # for a part of wider rows oneDNN takes two hundred times as long
        return False
    return x.shape[-1:] == weight.shape[1:] and (bias is None or bias.shape == weight.shape[:1])


def _is_observed_by_none() -> bool:
    """Tell whether numbers are all that is asked for: who watches operators, or transforms them, knows PyTorch's."""
    if torch._C._len_torch_dispatch_stack() or torch._C._are_functorch_transforms_active() or torch._C._is_tracing():
        return False
    return forward_ad._current_level < 0 and bool(torch.backends.mkldnn.enabled)


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
    return out


_compiled = torch.library.custom_op(
    "attnbench::linear",
    linear,
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
)


@_compiled.register_fake
def _(x: Tensor, weight: Tensor, _: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])
