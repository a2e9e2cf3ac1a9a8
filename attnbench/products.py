"""The three products of a linear layer on a CPU: its output, and the gradients of its input and of its weight.

PyTorch brings two libraries and multiplies float32 by MKL, which has one kernel for all AMD processors, of AVX2: of two
EPYCs with AVX-512, products took 0.67 to 0.94 of the time by oneDNN on one, and about half on the other, and 0.77 to
0.88 on that one with AVX-512 hidden. PyTorch has no operator for gradients of a linear layer by oneDNN, but they are
those of a 1 x 1 convolution.
"""

import platform
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from attnbench.devices import on_cpu
from attnbench.parts import parts

PLAIN = (Tensor, nn.Parameter)  # and no subclass, which might store something else
LEAST = 2**23  # MACs, below which oneDNN's preparations take longer than is gained
LEAST_MAP = 20_481  # numbers of a single image, of fewer of which PyTorch gives oneDNN no convolution
# Tokens, and weights at once, of which oneDNN takes a weight's gradient faster. Of fewer tokens, bringing the gradient
# into its order and back takes longer than is gained; of more weights, what it allocates for that goes back to the
# system with every call, and the next one fetches it page by page.
LEAST_ROWS, MOST_WEIGHTS = 128, 3 * 2**19
VECTOR = 16  # numbers


def _serves_better() -> bool:
    """Tell whether the processor is one of AMD with AVX2, and PyTorch multiplies by MKL."""
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512") or not torch.backends.mkl.is_available():
        return False
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "AuthenticAMD" in platform.processor()


SERVES_BETTER = _serves_better()
# Without, MKL takes weights' gradients as fast, or faster where there are many weights.
HAS_AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"


def suit(macs: int, *given: Tensor) -> bool:
    """Tell whether oneDNN takes so many products of these numbers faster than PyTorch does, and as exactly."""
    if not SERVES_BETTER or macs < LEAST:
        return False
    return all(x.dtype == torch.float32 and on_cpu(x) and type(x) in PLAIN for x in given)


def are_observed() -> bool:
    """Tell whether more than numbers is asked for: who watches operators, or transforms them, knows PyTorch's."""
    if torch._C._len_torch_dispatch_stack() or torch._C._are_functorch_transforms_active() or torch._C._is_tracing():
        return True
    return forward_ad._current_level >= 0 or not torch.backends.mkldnn.enabled


def would_be_by_onednn(x: Tensor, weight: Tensor) -> bool:
    """Tell a ledger whether, unobserved, a product of (N, C) and (C, C') would be oneDNN's, if a layer's it is."""
    return SERVES_BETTER and x.dtype == torch.float32 and x.numel() * weight.shape[1] >= LEAST


def by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Map (..., C) to (..., C'), with weights (C', C), contiguous, and a bias (C'); call only where they suit."""
    # For weights that are a part of wider rows it takes two hundred times as long.
    out: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
    return out


def to_output(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> Tensor:
    """Put the products of (n, C) and weights (C', C), and a bias (C'), into ``out`` (n, C'), and return it."""
    if suit(x.numel() * len(weight), x, weight, bias) and not are_observed():
        return out.copy_(by_onednn(x, weight.contiguous(), bias))
    return torch.addmm(bias, x, weight.T, out=out)


def add_output(x: Tensor, weight: Tensor, total: Tensor) -> Tensor:
    """Add the products of (n, C) and weights (C', C) to ``total`` (n, C'), and return it."""
    if suit(x.numel() * len(weight), x, weight) and not are_observed():
        return total.add_(by_onednn(x, weight.contiguous(), None))
    return total.addmm_(x, weight.T)


def to_input(grad: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    """Return the gradient (n, C) of the input, given the output's (n, C'); it is in ``out``, if that is given."""
    if not _suit_convolution(len(grad) * weight.shape[1], grad, weight):
        return torch.mm(grad, weight, out=out)
    unread = grad.new_empty(len(grad), weight.shape[1]) if out is None else out  # what has the shape of an input
    found = _of_convolution(_as_map(grad), _as_map(unread), weight, (True, False, False)).permute(0, 2, 3, 1)[0, 0]
    return found if out is None else out.copy_(found)


def to_weight(grad: Tensor, x: Tensor, total: Tensor | None = None) -> Tensor:
    """Return the gradient (C', C) of the weight, given the output's (n, C') and the input (n, C).

    It is added to ``total``, if that is given, and the sum returned.
    """
    if not HAS_AVX512 or len(x) < LEAST_ROWS or not _suit_convolution(x.numel(), grad, x):
        return torch.mm(grad.T, x) if total is None else total.addmm_(grad.T, x)
    if total is None:
        if grad.shape[1] * x.shape[1] <= MOST_WEIGHTS:
            return _to_weight(grad, x)
        total = grad.new_zeros(grad.shape[1], x.shape[1])
    for some in parts(grad.shape[1], MOST_WEIGHTS // x.shape[1], VECTOR):
        total[some].add_(_to_weight(grad[:, some], x))
    return total


def _to_weight(grad: Tensor, x: Tensor) -> Tensor:
    unread = grad.new_empty(grad.shape[1], x.shape[1])  # what has the shape of the weight
    return _of_convolution(_as_map(grad), _as_map(x), unread, (False, True, False)).flatten(1)


def _suit_convolution(inputs: int, grad: Tensor, other: Tensor) -> bool:
    """Tell whether oneDNN is to take a product with the output's gradient as one of a convolution of so many inputs."""
    return inputs >= LEAST_MAP and suit(inputs * grad.shape[1], grad, other) and not are_observed()


def _as_map(tokens: Tensor) -> Tensor:
    """View (n, C) as a map of one row, (1, C, 1, n), channels last.

    As a column, or as several images, odd numbers of tokens take five times as long.
    """
    return tokens[None, None].permute(0, 3, 1, 2)


def _of_convolution(grad: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool, bool]) -> Tensor:
    """Return the one gradient that is wanted of a 1 x 1 convolution: of its input, its weight or its bias."""
    # A single place is the same dilated, but what is not is PyTorch's own where there is one thread.
    form = None, [1, 1], [0, 0], [2, 2], False, [0, 0], 1
    found = torch.ops.aten.convolution_backward.default(grad, x, weight[:, :, None, None], *form, wanted)
    gradient: Tensor = found[wanted.index(True)]
    return gradient
