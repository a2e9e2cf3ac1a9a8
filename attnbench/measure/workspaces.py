"""What operators of a CPU allocate within themselves and free, which no ledger of tensors sees."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FLOAT = 4  # B, of the numbers that flash attention accumulates

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Call:
    """One operator as it ran."""

    args: Sequence[Any]
    out: Any
    threads: int


def _convolution(call: Call) -> int:
    """Return the bytes of the input turned to channels last; else of oneDNN's blocks, from which maps are written."""
    return _turned(call.args[0]) if _is_channels_last(call.out) else _bytes(call.out)


def _convolution_backward(call: Call) -> int:
    """Return the bytes of the input turned; else of the output's gradient as the output was, and in oneDNN's blocks."""
    return _turned(call.args[1]) if _is_channels_last(call.args[0]) else 2 * _bytes(call.args[0])


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


def _turned(x: Tensor) -> int:
    return 0 if _is_channels_last(x) else _bytes(x)


def _contiguous_input(call: Call) -> int:
    """Return the bytes of the copy that a kernel for contiguous maps reads."""
    return 0 if call.args[0].is_contiguous() else _bytes(call.args[0])


def _empty_rows(call: Call) -> int:
    """Return the bytes of the mask of entries that are -inf."""
    return int(call.args[0].numel())


def _roll_per_dimension(call: Call) -> int:
    """Return the bytes of the map rolled along its first dimensions, when there is one more."""
    dims = call.args[2] if len(call.args) > 2 else ()  # without any, the map is rolled flat
    return _bytes(call.out) if len(dims) > 1 else 0


def _flash(call: Call) -> int:
    """Return the bytes of every thread's scores of one tile, row sums and maxima, and outputs."""
    rows, columns = _tile(call.args[0], call.args[1])
    return call.threads * rows * (columns + 2 + int(call.args[0].shape[-1])) * FLOAT


def _flash_backward(call: Call) -> int:
    """Return the bytes of every thread's weights of one tile and their gradients."""
    rows, columns = _tile(call.args[1], call.args[2])
    return call.threads * 2 * rows * columns * FLOAT


# What an operator allocates within itself and frees: call to bytes. Read off the allocations of each operator, and off
# ATen's sources: native/cpu/FlashAttentionKernel.cpp, native/TensorTransformations.cpp.
WORKSPACES: Mapping[Any, Callable[[Call], int]] = {
    aten.convolution.default: _convolution,
    aten.convolution_backward.default: _convolution_backward,
    aten.native_layer_norm.default: _contiguous_input,
    aten.native_layer_norm_backward.default: _contiguous_input,
    aten._safe_softmax.default: _empty_rows,
    aten.roll.default: _roll_per_dimension,
    aten._scaled_dot_product_flash_attention_for_cpu.default: _flash,
    aten._scaled_dot_product_flash_attention_for_cpu_backward.default: _flash_backward,
}


def _tile(queries: Tensor, keys: Tensor) -> tuple[int, int]:
    """Return the rows and columns of the scores (B, heads, N, D) that flash attention holds at a time."""
    rows = next(rows for rows, least in ((256, 768), (64, 192), (32, 0)) if queries.shape[2] >= least)
    return min(rows, int(queries.shape[2])), min(512, int(keys.shape[2]))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
