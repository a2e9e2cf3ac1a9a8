"""MACs of one image, traced on the ``meta`` device: exact for matmul, convolution and attention, and without memory.

On CPU the same counter reads 0 for fused attention, because the fused kernel is one operator without a formula; on
``meta`` attention falls apart into its two matmuls. Masks and causality are not subtracted: what is multiplied and
then masked was executed. Operators that are no sum of products (FFT, grid sampling, element-wise products) count 0.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from attnbench.errors import UserError
from attnbench.measure.twins import meta_twin

FLOPS_PER_MAC = 2


def count_macs(model: nn.Module, input_size: tuple[int, int, int]) -> int:
    """Count the MACs of one image of ``input_size`` (C, H, W) in ``eval()``; 1 MAC = 2 FLOPs.

    The model stays as it is and where it is, and its weights are not copied. Hooks on its modules run, on the copy:
    some weights are made by hooks. The input has the dtype of the model's
    first floating-point parameter. A model that cannot be copied or cannot run on ``meta`` is a ``UserError``.
    """
    counter = FlopCounterMode(display=False, custom_mapping=dict(FORMULAS))
    # Some models assert under no_grad on meta (timm's cait, pit), and inference tensors refuse to be saved for
    # backward: whatever the caller's mode, the trace runs as a plain forward with gradients.
    with torch.inference_mode(False), torch.enable_grad(), no_fast_path():
        try:
            twin = meta_twin(model).eval()
            image = torch.empty(1, *input_size, dtype=input_dtype(model), device="meta")
            with counter:
                twin(image)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"MACs of {type(model).__name__} at {input_size} cannot be traced on meta: {first_line(error)}"
            ) from error
    return int(counter.get_total_flops()) // FLOPS_PER_MAC


def input_dtype(model: nn.Module) -> torch.dtype:
    """Return the dtype of the first floating-point parameter or buffer: what its images must have."""
    tensors = chain(model.parameters(), model.buffers())
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.get_default_dtype())


@contextmanager
def no_fast_path() -> Iterator[None]:
    """Keep ``nn.MultiheadAttention`` and ``nn.TransformerEncoderLayer`` from running as one uncounted operator."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def first_line(error: Exception) -> str:
    """Return the kind of an error and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _matrix_vector(matrix: torch.Size, *_: Any, **__: Any) -> int:
    return FLOPS_PER_MAC * prod(matrix)


def _sum_matrix_vector(_total: torch.Size, matrix: torch.Size, *_: Any, **__: Any) -> int:
    return FLOPS_PER_MAC * prod(matrix)


def _sum_batch(_total: torch.Size, left: torch.Size, right: torch.Size, **__: Any) -> int:
    return FLOPS_PER_MAC * prod(left) * right[-1]  # (B, M, K) x (B, K, N)


# Products that torch's counter has no formula for; it calls a formula with shapes in the place of tensors.
FORMULAS: Mapping[Any, Callable[..., int]] = {
    torch.ops.aten.mv: _matrix_vector,
    torch.ops.aten.dot: _matrix_vector,
    torch.ops.aten.vdot: _matrix_vector,
    torch.ops.aten.addmv: _sum_matrix_vector,
    torch.ops.aten.addbmm: _sum_batch,
}
