"""Identity: the output is the input, and nothing is computed."""

from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import attnbench
from attnbench.contract import Attention

DIM, HEADS = 12, 3
SIZES = [(14, 14), (13, 17), (1, 1), (7, 21), (3, 30), (8, 8)]


def oracle(x: Tensor) -> Tensor:
    return x


def build(stage: int = 0, block: int = 0) -> nn.Module:
    slot = attnbench.Slot(dim=DIM, heads=HEADS, stage=stage, block=block, grid=(14, 14))
    return attnbench.MECHANISMS["identity"].build(slot)


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("stage", "block"), [(0, 0), (0, 1), (3, 1)])
def test_output_equals_the_oracle(size: tuple[int, int], stage: int, block: int) -> None:
    x = noise(2, *size, DIM)
    kept = x.clone()
    assert torch.equal(build(stage, block)(x), oracle(kept))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_equals_the_oracle_in_lower_precision(dtype: torch.dtype) -> None:
    x = noise(2, 5, 7, DIM).to(dtype)
    output = build()(x)
    assert output.dtype == dtype
    assert torch.equal(output, oracle(x))


def test_gradient_of_the_input_is_the_gradient_of_the_output() -> None:
    x, upstream = noise(2, 5, 7, DIM).requires_grad_(), noise(2, 5, 7, DIM, seed=2)
    (gradient,) = torch.autograd.grad(build().train()(x), x, upstream)
    assert torch.equal(gradient, upstream)


def test_there_are_no_parameters() -> None:
    assert build().state_dict() == {}


@pytest.mark.parametrize("size", SIZES)
def test_closed_form_macs_equal_traced_macs_and_are_zero(size: tuple[int, int]) -> None:
    module = build().to("meta")
    with FlopCounterMode(display=False) as counter:
        module(torch.empty(1, *size, DIM, device="meta"))
    assert cast(Attention, module).macs(*size) == counter.get_total_flops() // 2 == 0
