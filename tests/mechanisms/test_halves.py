"""Attention in half precision on a CPU: the numbers of float32 for the same maps, rounded once."""

from importlib import import_module

import pytest
import torch
from torch import Tensor

boxes = import_module("attnbench.mechanisms._boxes")  # by name: a type checker does not see plug-ins
hidden_keys = import_module("attnbench.mechanisms._hidden")
regions = import_module("attnbench.mechanisms._regions")
spans = import_module("attnbench.mechanisms._spans")

HEADS, DIM, WINDOW, SIDE = 2, 16, 4, 12  # three windows along
LAYOUT = boxes.Layout(WINDOW, (spans.Span(6, WINDOW), spans.Span(3, 1)), HEADS)  # fine tokens about, and pooled ones


def maps(dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = (2, SIDE, SIDE, 3 * DIM), (2, 3, 3, 2 * DIM), (HEADS, WINDOW**2, LAYOUT.keys)
    return [torch.randn(shape).to(dtype) for shape in shapes]


def attended(dtype: torch.dtype, given: list[Tensor]) -> list[Tensor]:
    """Return what inference and training put out, and gradients; biases are float32, as under autocast."""
    qkv, pooled, bias = (x.detach().to(dtype) for x in given)
    sources = [x.requires_grad_() for x in (qkv, pooled, bias.float())]
    visible = torch.arange(LAYOUT.keys).remainder(5).ne(0).repeat(9, 1, 1).numpy()
    hidden = hidden_keys.Hidden.where_not(visible, float("-inf"), 3, torch.device("cpu"))
    with torch.inference_mode():
        inferred = regions.attend_regions(qkv, [pooled], LAYOUT, sources[2], hidden)
    out = regions.attend_regions(qkv, [pooled], LAYOUT, sources[2], hidden)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(dtype)
    return [inferred, out, *torch.autograd.grad(out, sources, weight)]


@pytest.mark.parametrize("chunk", [1, 2**20])
@pytest.mark.parametrize("dtype", boxes.HALVES, ids=str)
def test_numbers_are_those_of_float32_rounded_once(
    dtype: torch.dtype, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boxes, "HAS_AMX", False)
    monkeypatch.setattr(boxes, "CHUNK", chunk)
    given = maps(torch.bfloat16)  # which both halves hold
    found, expected = attended(dtype, given), attended(torch.float32, given)
    assert [x.dtype for x in found] == [dtype] * 4 + [torch.float32]
    for half, whole in zip(found[:4], expected, strict=False):
        torch.testing.assert_close(half, whole.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)  # or the next number
    torch.testing.assert_close(found[4], expected[4], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", boxes.HALVES, ids=str)
def test_where_half_precision_is_fast_it_is_kept(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boxes, "HAS_AMX", True)
    x = torch.empty(1, dtype=dtype)
    assert boxes.held_in(x) == dtype
    monkeypatch.setattr(boxes, "HAS_AMX", False)
    assert boxes.held_in(x) == torch.float32
    assert boxes.held_in(x.to("meta")) == dtype  # whatever is not on a CPU
    assert boxes.held_in(x.double()) == torch.float64
