"""Which parameters decay, and how fast each depth learns, over every registered mechanism."""

from typing import Any

import pytest
import torch
from torch import nn

import attnbench
from attnbench.errors import UserError
from attnbench.layers import ClassificationHead
from attnbench.recipe import Recipe
from attnbench.training.optimizer import groups, make_optimizer, set_rate

NAMES = attnbench.MECHANISMS.names()
KERNELS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def decayed(model: nn.Module, recipe: Recipe) -> set[str]:
    by_identity = {id(parameter): name for name, parameter in model.named_parameters()}
    found = groups(model, recipe)
    everything = [id(parameter) for group in found for parameter in group["params"]]
    assert sorted(everything) == sorted(by_identity)  # each once
    return {by_identity[id(one)] for group in found if group["weight_decay"] for one in group["params"]}


@pytest.mark.parametrize("mechanism", NAMES)
def test_what_decays_are_the_weights_of_linear_layers_convolutions_and_learned_pools(
    mechanism: str, make_model: Any
) -> None:
    model = make_model(mechanism)
    expected = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, KERNELS) or type(module).__name__ == "WindowPool"
    }
    assert decayed(model, Recipe()) == expected


def test_positions_and_the_class_token_of_the_published_pvt_do_not_decay() -> None:
    model = attnbench.create_model("pvt_tiny")
    tables = {name for name, _ in model.named_parameters() if "position" in name or "class_token" in name}
    assert len(tables) == 6  # of four stages, the token and its position
    assert not tables & decayed(model, Recipe())


def test_what_a_model_of_timm_exempts_does_not_decay() -> None:
    import timm

    model = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    assert not {"pos_embed", "cls_token"} & decayed(model, Recipe())
    assert "patch_embed.proj.weight" in decayed(model, Recipe())


def test_without_layer_decay_there_are_two_groups_at_the_full_rate(make_model: Any) -> None:
    found = groups(make_model(), Recipe(weight_decay=0.3))
    assert sorted((group["weight_decay"], group["scale"]) for group in found) == [(0.0, 1.0), (0.3, 1.0)]


def test_parameters_that_do_not_learn_are_left_out(make_model: Any) -> None:
    model = make_model()
    model.stem.requires_grad_(requires_grad=False)
    frozen = {id(parameter) for parameter in model.stem.parameters()}
    assert not frozen & {id(one) for group in groups(model, Recipe()) for one in group["params"]}


def test_each_block_learns_slower_than_the_next_by_the_layer_decay() -> None:
    model = attnbench.create_model("pvt_tiny")  # two blocks in each stage, and positions in all four
    scales = {id(one): group["scale"] for group in groups(model, Recipe(layer_decay=0.5)) for one in group["params"]}
    found = {name: scales[id(parameter)] for name, parameter in model.named_parameters()}

    def below_head(prefix: str) -> set[float]:
        return {scale for name, scale in found.items() if name.startswith(prefix)}

    assert below_head("head") == {1.0}
    assert below_head("stem") == {0.5**9}
    for stage in range(4):
        for block in range(2):
            assert below_head(f"blocks.{stage}.{block}.") == {0.5 ** (8 - 2 * stage - block)}
        assert below_head(f"positions.{stage}") == {0.5 ** (9 - 2 * stage)}
    for merging in range(3):
        assert below_head(f"merging.{merging}.") == {0.5 ** (7 - 2 * merging)}
    assert below_head("class_token") == {0.5**3}


def test_layer_decay_of_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(UserError, match="layer_decay"):
        groups(nn.Linear(2, 2), Recipe(layer_decay=0.9))


def test_the_rate_of_a_group_is_its_share_of_the_schedule(make_model: Any) -> None:
    optimizer = make_optimizer(make_model(), Recipe(layer_decay=0.5))
    set_rate(optimizer, 0.25)
    assert {group["lr"] for group in optimizer.param_groups} == {0.25 * 0.5**power for power in range(10)}


def test_a_step_is_that_of_adamw_by_its_formula() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(model, Recipe(learning_rate=0.1, weight_decay=0.3))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        kept = start[name] * (1 - 0.1 * (0.3 if name == "weight" else 0.0))
        # After one step both moments, corrected for their start, are those of the gradient itself.
        moved = kept - 0.1 * parameter.grad / (parameter.grad.abs() + 1e-8)
        torch.testing.assert_close(parameter.detach(), moved, rtol=1e-12, atol=1e-12)


def test_a_head_s_own_layers_count_as_the_head(make_model: Any) -> None:
    model = make_model()
    assert isinstance(model.head, ClassificationHead)
    found = groups(model, Recipe(layer_decay=0.9))
    top = {id(one) for group in found if group["scale"] == 1 for one in group["params"]}
    assert top == {id(parameter) for parameter in model.head.parameters()}
