"""Every registered mechanism against every clause of the contract: a new mechanism is tested by existing."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import attnbench
from attnbench.contract import STAGES, Slot

NAMES = attnbench.MECHANISMS.names()
GRIDS = [(28, 28), (13, 17), (1, 1)]
SLOTS = [
    Slot(dim=16 * 2**stage, heads=2**stage, stage=stage, block=block, grid=(28, 28))
    for stage in range(STAGES)
    for block in (0, 1)
]


def slot_id(slot: Slot) -> str:
    return f"stage{slot.stage}-block{slot.block}"


@pytest.fixture(params=[(name, slot) for name in NAMES for slot in SLOTS], ids=lambda p: f"{p[0]}-{slot_id(p[1])}")
def module(request: pytest.FixtureRequest) -> nn.Module:
    name, slot = request.param
    torch.manual_seed(0)
    module = attnbench.MECHANISMS[name].build(slot)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.2)
    module.slot_dim = slot.dim
    return module


def image_map(module: nn.Module, grid: tuple[int, int], batch: int = 2) -> Tensor:
    dim: Any = module.slot_dim
    return torch.randn(batch, *grid, dim)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_shape_is_kept(module: nn.Module, grid: tuple[int, int]) -> None:
    x = image_map(module, grid)
    assert module(x).shape == x.shape


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_images_of_a_batch_do_not_see_each_other(module: nn.Module, grid: tuple[int, int]) -> None:
    x = image_map(module, grid, batch=3)
    with torch.no_grad():
        alone = torch.cat([module(image[None]) for image in x])
        torch.testing.assert_close(module(x), alone, atol=1e-5, rtol=1e-5)


def test_a_batch_of_no_image_comes_back_as_one(module: nn.Module) -> None:
    with torch.no_grad():
        assert module(image_map(module, (13, 17), batch=0)).shape[:3] == (0, 13, 17)


def test_the_input_is_not_written_to(module: nn.Module) -> None:
    x = image_map(module, (13, 17))
    before = x.clone()
    module(x)
    assert torch.equal(x, before)


def test_every_parameter_gets_a_gradient(module: nn.Module) -> None:
    output = module(image_map(module, (13, 17)).requires_grad_())
    (output * torch.randn_like(output)).sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_it_runs_on_meta_and_its_closed_form_equals_the_trace(module: nn.Module, grid: tuple[int, int]) -> None:
    with FlopCounterMode(display=False) as counter:
        output = module.to("meta")(image_map(module, grid, batch=1).to("meta"))
    assert output.is_meta
    assert 2 * module.macs(*grid) == counter.get_total_flops()  # type: ignore[operator]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_ideal_macs_leave_out_what_macs_count(module: nn.Module, grid: tuple[int, int]) -> None:
    macs: Any = module.macs
    ideal: Any = getattr(module, "ideal_macs", macs)
    assert 0 <= ideal(*grid) <= macs(*grid)
    assert isinstance(ideal(*grid), int)


def test_the_output_is_the_same_twice(module: nn.Module) -> None:
    x = image_map(module.eval(), (13, 17))
    assert torch.equal(module(x), module(x))


def test_bfloat16_stays_bfloat16_and_near_float32(module: nn.Module) -> None:
    x = image_map(module.eval(), (13, 17))
    with torch.no_grad():
        exact = module(x)
        rounded = module.bfloat16()(x.bfloat16())
    assert rounded.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits: the error of a few chained products, relative to the output's scale.
    assert (rounded.float() - exact).abs().max() < 0.06 * exact.abs().max()


def test_weights_trained_at_one_size_serve_another_after_inference_mode(module: nn.Module) -> None:
    with torch.inference_mode():
        module(image_map(module, (9, 11)))
    output = module(image_map(module, (9, 11)).requires_grad_())
    output.sum().backward()  # a constant made under inference mode could not be saved for this
    assert output.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_a_mechanism_cites_its_paper_and_states_its_complexity(name: str) -> None:
    mechanism = attnbench.MECHANISMS[name]
    assert mechanism.paper is not None
    assert mechanism.paper.title
    assert len(mechanism.paper.arxiv.split(".")) == 2
    assert mechanism.complexity


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("resolution", [(224, 224), (33, 95)], ids=str)
def test_a_whole_model_has_the_macs_of_its_closed_form(name: str, resolution: tuple[int, int]) -> None:
    with torch.device("meta"):
        model = attnbench.build_model(name, resolution=resolution, num_classes=7)
    assert attnbench.count_macs(model, (3, *resolution)) == model.macs(*resolution)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu(module: nn.Module) -> None:
    x = image_map(module.eval(), (13, 17))
    with torch.no_grad():
        torch.testing.assert_close(module.cuda()(x.cuda()).cpu(), module.cpu()(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"focal_window": 2}, "odd"),
        ({"pool": "sum"}, "one of fc, conv, mean, max"),
        ({"levels": 0}, "at least 1"),
        ({"expand": -1}, "at least 0"),
    ],
)
def test_focal_refuses_settings_that_have_no_meaning(settings: dict[str, object], message: str) -> None:
    with pytest.raises(attnbench.UserError, match=message):
        attnbench.MECHANISMS["focal"].configure(**settings)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(attnbench.UserError, match="7 does not divide into 2 heads"):
        Slot(dim=7, heads=2, stage=0, block=0, grid=(8, 8))


@pytest.fixture(params=[name for name in NAMES if attnbench.MECHANISMS[name].prefix])
def prefixed(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    module = attnbench.MECHANISMS[request.param].build(Slot(dim=24, heads=3, stage=1, block=0, grid=(9, 6)))
    module.slot_dim = 24  # type: ignore[assignment]
    return module.double().eval()


def test_without_prefix_tokens_nothing_changes(prefixed: nn.Module) -> None:
    x = image_map(prefixed, (9, 6)).double()
    torch.testing.assert_close(prefixed(x, x.new_empty(2, 0, 24))[0], prefixed(x))


def test_prefix_tokens_come_back_mapped_whatever_their_order(prefixed: nn.Module) -> None:
    x, prefix = image_map(prefixed, (9, 6)).double(), torch.randn(2, 3, 24, dtype=torch.double)
    mapped, tokens = prefixed(x, prefix)
    assert mapped.shape == x.shape
    assert tokens.shape == prefix.shape
    again, flipped = prefixed(x, prefix.flip(1))
    torch.testing.assert_close(again, mapped)
    torch.testing.assert_close(flipped, tokens.flip(1))


def test_macs_with_prefix_tokens_equal_the_trace(prefixed: nn.Module) -> None:
    x, prefix = image_map(prefixed, (9, 6), batch=1).double(), torch.randn(1, 3, 24, dtype=torch.double)
    with FlopCounterMode(display=False) as counter:
        prefixed.to("meta")(x.to("meta"), prefix.to("meta"))
    assert 2 * prefixed.macs(9, 6, 3) == counter.get_total_flops()  # type: ignore[operator]
