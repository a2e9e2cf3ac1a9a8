from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attnbench
from attnbench.measure.audit import AGREEMENT, Audit, audit

COUNTS = Audit(1000, 1000, None, 1000, 900, 300, 500)


class Block(nn.Module):
    """Attention with an MLP of its own inside, and an MLP that is called twice; 8 x 8 linear layers on one token."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.Sequential()
        self.self_attn.add_module("mlp", nn.Linear(8, 8))
        self.self_attn.add_module("qkv", nn.Linear(8, 8))
        self.ffn = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])  # a list is never called itself
        self.last = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.self_attn(x.flatten(1))
        return self.last(self.ffn[1](self.ffn[0](self.ffn[0](x))))


def test_the_parts_of_a_backbone_are_those_of_its_formulas() -> None:
    with torch.device("meta"):
        model = attnbench.build_model("swin", resolution=(230, 101), num_classes=7)
    found = audit(model, (3, 230, 101))
    grids, dims = [(58, 26), (29, 13), (15, 7), (8, 4)], model.channels
    attention = mlp = 0
    for grid, blocks in zip(grids, model.blocks, strict=True):
        block: Any
        for block in blocks:  # type: ignore[attr-defined]
            attention += block.attn.macs(*grid)
            mlp += block.mlp.macs(grid[0] * grid[1])
    merging = sum(h * w * 4 * dims[i] * dims[i + 1] for i, (h, w) in enumerate(grids[1:]))
    rest = 58 * 26 * 16 * 3 * dims[0] + merging + dims[-1] * 7
    assert (found.attention, found.mlp, found.rest) == (attention, mlp, rest)
    assert found.traced == found.fvcore == found.closed_form == attention + mlp + rest
    assert found.ideal == model.ideal_macs(230, 101)
    assert found.ideal < found.traced
    assert found.fvcore_error is None
    assert found.disagreement == 0


def test_the_parts_of_a_vision_transformer_are_found_by_name() -> None:
    with torch.device("meta"):
        model = attnbench.create_model("timm:deit_tiny_patch16_224", depth=2)
    found, tokens, dim = audit(model, (3, 224, 224)), 197, 192
    assert found.attention == 2 * (4 * tokens * dim**2 + 2 * tokens**2 * dim)
    assert found.mlp == 2 * 8 * tokens * dim**2
    assert found.rest == 196 * 16 * 16 * 3 * dim + dim * 1000
    assert (found.closed_form, found.ideal) == (None, None)
    assert found.agrees


def test_what_mixes_nothing_has_attention_without_macs() -> None:
    with torch.device("meta"):
        model = attnbench.build_model("identity", resolution=(64, 64))
    assert audit(model, (3, 64, 64)).attention == 0


def test_a_module_inside_another_is_counted_once_and_a_call_every_time() -> None:
    found = audit(nn.Sequential(Block(), Block()), (8, 1, 1))
    assert (found.attention, found.mlp, found.rest) == (2 * 128, 2 * 192, 2 * 64)


def test_a_model_without_such_modules_has_no_such_parts() -> None:
    found = audit(nn.Conv2d(3, 4, 1), (3, 5, 5))
    assert (found.attention, found.mlp, found.rest) == (None, None, 300)


def test_a_model_that_fvcore_cannot_count_says_why() -> None:
    class Numbered(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, int]:  # torch.jit knows no output that is a number
            return x @ x.mT, 1

    found = audit(Numbered(), (1, 4, 4))
    assert (found.traced, found.fvcore) == (64, None)
    assert "cannot be counted by fvcore" in (found.fvcore_error or "")
    assert found.agrees


def test_a_head_without_a_formula_leaves_no_closed_form() -> None:
    with torch.device("meta"):
        model = attnbench.build_model("identity", resolution=(64, 64), head=lambda _: nn.Identity())
    found = audit(model, (3, 64, 64))
    assert (found.closed_form, found.ideal) == (None, None)


def test_a_model_that_cannot_be_traced_is_refused() -> None:
    with pytest.raises(attnbench.UserError, match="cannot be traced"):
        audit(nn.Linear(3, 4), (5, 6, 7))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"fvcore": 990}, 0.01),
        ({"closed_form": 2000}, 0.5),
        ({"fvcore": 950, "closed_form": 990}, 0.05),
        ({"fvcore": None, "closed_form": None}, 0.0),
        ({"ideal": 1}, 0.0),  # not the same quantity
        ({"traced": 0, "fvcore": 0, "closed_form": 0}, 0.0),
        ({"fvcore": 0}, 1.0),
    ],
    ids=str,
)
def test_disagreement_is_the_greatest_between_two_counts(counts: dict[str, Any], expected: float) -> None:
    assert replace(COUNTS, **counts).disagreement == pytest.approx(expected)


def test_counts_agree_up_to_half_a_percent() -> None:
    assert AGREEMENT == 0.005
    assert replace(COUNTS, fvcore=995).agrees
    assert not replace(COUNTS, fvcore=994).agrees
