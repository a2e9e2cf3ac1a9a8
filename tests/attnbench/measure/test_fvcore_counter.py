import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attnbench
from attnbench.errors import UserError
from attnbench.measure.fvcore_counter import _Traceable, count_macs_fvcore
from attnbench.measure.macs import count_macs

TOKENS, DIM = 15, 4  # of an image (4, 3, 5)


class Tokens(nn.Module):
    """Feeds an image (B, C, H, W) as tokens (B, HW, C) to a function of tokens that may own parameters."""

    def __init__(self, forward: Callable[[Tensor], object], *owned: nn.Module) -> None:
        super().__init__()
        self.owned = nn.ModuleList(owned)
        self.run = forward

    def forward(self, images: Tensor) -> object:
        return self.run(images.flatten(2).transpose(1, 2))


class Gram(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor, scale: float) -> Tensor:
        return scale * x @ x.mT

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        raise NotImplementedError


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return Gram.apply(x, 1.0) + Gram.apply(x, 2.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        raise NotImplementedError


def of_tokens(product: Callable[[Tensor], object]) -> int:
    return count_macs_fvcore(Tokens(product), (DIM, 3, 5))


@pytest.mark.parametrize("name", attnbench.MECHANISMS.names())
def test_every_mechanism_equals_torchs_counter(name: str) -> None:
    with torch.device("meta"):
        model = attnbench.build_model(name, resolution=(225, 301))
    assert count_macs_fvcore(model, (3, 225, 301)) == count_macs(model, (3, 225, 301))


@pytest.mark.parametrize(
    ("name", "depth", "resolution"),
    [
        ("focal_tiny_conv_embed", {"depths": [1, 1, 1, 2]}, (224, 224)),
        ("swin_tiny", {"depths": [1, 1, 2, 1]}, (448, 672)),
        ("pvt_tiny", {"depths": [1, 1, 1, 1]}, (256, 320)),
        ("pvt_v2_b0", {"depths": [1, 1, 1, 1]}, (231, 301)),
        ("timm:deit_tiny_patch16_224", {"depth": 2}, (448, 672)),
        ("timm:cait_xxs24_224", {"depth": 2}, (224, 224)),
        ("timm:edgenext_xx_small", {"depths": (1, 2, 2, 2)}, (256, 256)),
    ],
    ids=str,
)
def test_models_of_the_literature_equal_torchs_counter(
    name: str, depth: dict[str, Any], resolution: tuple[int, int]
) -> None:
    with torch.device("meta"):
        model = attnbench.create_model(name, resolution, **depth)
    assert count_macs_fvcore(model, (3, *resolution)) == count_macs(model, (3, *resolution))


def test_a_cell_that_no_memory_holds_is_counted() -> None:
    with torch.device("meta"):
        model = attnbench.build_model("full", resolution=(1792, 1792))  # scores alone: 150 GB
    assert count_macs_fvcore(model, (3, 1792, 1792)) == model.macs(1792, 1792)


@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_fused_attention_counts_its_two_products(rank: int, masked: bool) -> None:
    def attend(x: Tensor) -> Tensor:
        q = x.reshape(1, TOKENS, 2, 2).transpose(1, 2)  # (1, heads, N, D)
        q = q if rank == 4 else q[0]
        k = q[..., :7, :]
        mask = x.new_zeros(TOKENS, 7) if masked else None
        return F.scaled_dot_product_attention(q, k, torch.cat([k, k, k], -1), attn_mask=mask)

    assert of_tokens(attend) == 2 * TOKENS * 7 * (2 + 6)


def test_grouped_queries_are_all_counted() -> None:
    def attend(x: Tensor) -> Tensor:
        q = x.unflatten(-1, (4, 1)).transpose(1, 2)
        return F.scaled_dot_product_attention(q, q[:, :2], q[:, :2], enable_gqa=True)

    assert of_tokens(attend) == 4 * TOKENS**2 * 2


@pytest.mark.parametrize("need_weights", [False, True])
def test_multihead_attention_hides_nothing(need_weights: bool) -> None:
    class Attending(nn.MultiheadAttention):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x, x, x, need_weights=need_weights)[0]

    attending = Attending(DIM, 2, batch_first=True)
    with torch.no_grad():
        counted = count_macs_fvcore(Tokens(attending), (DIM, 3, 5))
    assert counted == 4 * TOKENS * DIM**2 + 2 * TOKENS**2 * DIM
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("nested", [False, True])
def test_encoder_layer_does_not_take_the_fast_path(nested: bool) -> None:
    layer = nn.TransformerEncoderLayer(DIM, 2, 20, batch_first=True).requires_grad_(False)
    layer = nn.TransformerEncoder(layer, 1) if nested else layer  # type: ignore[assignment]
    assert of_tokens(layer) == 4 * TOKENS * DIM**2 + 2 * TOKENS**2 * DIM + 2 * TOKENS * DIM * 20


@pytest.mark.parametrize(
    ("product", "expected"),
    [
        (lambda x: x @ x.mT, TOKENS**2 * DIM),
        (lambda x: x[0, :2] @ x.mT, 2 * TOKENS * DIM),  # a matrix before a batch of them
        (lambda x: x[0, 0] @ x.mT, TOKENS * DIM),  # a vector before a batch of matrices
        (lambda x: x.expand(2, 3, -1, -1) @ x[0].T, 6 * TOKENS**2 * DIM),
        (lambda x: x[0] @ x[0, 0], TOKENS * DIM),
        (lambda x: torch.dot(x[0, 0], x[0, 1]), DIM),
        (lambda x: torch.vdot(x[0, 0], x[0, 1]), DIM),
        (lambda x: torch.inner(x, x), TOKENS**2 * DIM),
        (lambda x: torch.mm(x[0], x[0].T), TOKENS**2 * DIM),
        (lambda x: torch.bmm(x, x.mT), TOKENS**2 * DIM),
        (lambda x: torch.addmv(x[0, :, 0], x[0], x[0, 0]), TOKENS * DIM),
        (lambda x: torch.addmm(x.new_zeros(1), x[0], x[0].T), TOKENS**2 * DIM),
        (lambda x: x.new_zeros(TOKENS, TOKENS).addmm_(x[0], x[0].T), TOKENS**2 * DIM),
        (lambda x: torch.baddbmm(x.new_zeros(1, TOKENS, TOKENS), x, x.mT), TOKENS**2 * DIM),
        (lambda x: torch.addbmm(x.new_zeros(TOKENS, TOKENS), *[torch.cat([x, x]), torch.cat([x, x]).mT]), 1800),
        (lambda x: torch.tensordot(x, x, dims=([2], [2])), TOKENS**2 * DIM),
        (lambda x: F.linear(x, x[0, :7]), TOKENS * DIM * 7),
        (lambda x: F.linear(x, x[0, 0]), TOKENS * DIM),
        (lambda x: Gram.apply(x, 2.0), TOKENS**2 * DIM),
        (lambda x: Twice.apply(x), 2 * TOKENS**2 * DIM),
    ],
)
def test_every_kind_of_product_is_counted(product: Callable[[Tensor], Tensor], expected: int) -> None:
    assert of_tokens(product) == expected


@pytest.mark.parametrize(
    ("equation", "operands", "expected"),
    [
        ("bnc,bmc->bnm", 2, TOKENS**2 * DIM),
        ("b n c, b m c -> b n m", 2, TOKENS**2 * DIM),
        ("...nc,...mc->...nm", 2, TOKENS**2 * DIM),
        ("bnc,bmc", 2, TOKENS**2 * DIM),  # b n c m left over once each: the output is implied
        ("bnc,bnc->bnc", 2, 0),
        ("bnc,bmd->bnm", 2, 0),  # c and d are summed first; what is left is an outer product
        ("bnc,bmc,bmd->bnd", 3, TOKENS**2 * DIM + TOKENS**2 * DIM),
    ],
)
def test_einsum_counts_what_torchs_counter_does(equation: str, operands: int, expected: int) -> None:
    def contract(x: Tensor) -> Tensor:
        return torch.einsum(equation, *[x] * operands)

    assert count_macs(Tokens(contract), (DIM, 3, 5)) == expected
    assert of_tokens(contract) == expected


CONVOLUTIONS: list[tuple[nn.Module, tuple[int, ...], int]] = [  # expected: kernel times places
    (nn.Conv1d(4, 6, 3, stride=2, padding=1), (1, 4, 9), 4 * 6 * 3 * 5),
    (nn.Conv2d(4, 6, 3, groups=2, dilation=2), (1, 4, 9, 11), 2 * 6 * 9 * 5 * 7),
    (nn.Conv2d(4, 6, (2, 3), padding="same"), (1, 4, 9, 11), 4 * 6 * 6 * 99),
    (nn.Conv2d(4, 6, (2, 3), padding="valid", bias=False), (1, 4, 9, 11), 4 * 6 * 6 * 8 * 9),
    (nn.Conv2d(4, 6, 1), (4, 9, 11), 4 * 6 * 99),  # a single image
    (nn.Conv3d(4, 6, 2), (1, 4, 3, 5, 7), 4 * 6 * 8 * 2 * 4 * 6),
    (nn.ConvTranspose1d(4, 6, 3, stride=2), (1, 4, 9), 4 * 6 * 3 * 9),
    (nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2, output_padding=1), (1, 4, 9, 11), 4 * 3 * 4 * 99),
    (nn.ConvTranspose3d(4, 6, 2), (1, 4, 2, 2, 2), 4 * 6 * 8 * 8),
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # it is what is tested
@pytest.mark.parametrize(("layer", "shape", "expected"), CONVOLUTIONS, ids=lambda value: str(value))
def test_a_convolution_is_counted_and_stays_what_it_is(layer: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    class Reshaped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.reshape(shape))

    size = torch.Size(shape).numel()
    assert count_macs_fvcore(Reshaped(), (1, 1, size)) == expected
    x = torch.randn(shape)
    expected_output = layer(x)
    with _Traceable():
        torch.testing.assert_close(layer(x), expected_output)


def test_what_is_no_sum_of_products_counts_nothing() -> None:
    model = nn.Sequential(
        nn.GroupNorm(2, 4), nn.BatchNorm2d(4), nn.InstanceNorm2d(4), nn.LayerNorm(5), nn.GELU(), nn.Softmax(1),
        nn.Upsample(scale_factor=2, mode="bilinear"), nn.AdaptiveAvgPool2d(3), nn.MaxPool2d(2), nn.Flatten(),
    )  # fmt: skip
    assert count_macs_fvcore(model, (4, 3, 5)) == 0


def test_sizes_that_a_model_computes_with_are_numbers() -> None:
    def forward(x: Tensor) -> Tensor:
        kinds = {type(x.shape[1]), type(x.size(1)), type(x.numel()), type(len(x))}
        assert kinds == {int}
        return x @ x.mT

    assert of_tokens(forward) == TOKENS**2 * DIM


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    model[0].weight.requires_grad_(False)
    tensors = list(model.state_dict(keep_vars=True).values())
    before = [(id(item), item.device, item.requires_grad, item._version, item.clone()) for item in tensors]
    count_macs_fvcore(model, (3, 8, 8))
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    after = list(model.state_dict(keep_vars=True).values())
    for item, (identity, device, requires_grad, version, values) in zip(after, before, strict=True):
        assert (id(item), item.device, item.requires_grad, item._version) == (identity, device, requires_grad, version)
        assert torch.equal(item, values)


def test_nothing_is_logged_and_no_logger_is_changed(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("fvcore.nn.jit_analysis")
    before = (logger.level, logger.disabled, list(logger.filters), list(logger.handlers))
    with caplog.at_level(logging.DEBUG):
        count_macs_fvcore(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Softmax(1)), (3, 8, 8))
    assert not caplog.records
    assert (logger.level, logger.disabled, list(logger.filters), list(logger.handlers)) == before


@pytest.mark.parametrize(
    "forward",
    [lambda x: x @ x, lambda x: x if x.sum() > 0 else -x, lambda x: (x, 1)],
    ids=["shapes", "data", "output"],
)
def test_what_cannot_be_traced_is_the_users_error_and_ends_the_trace(forward: Callable[[Tensor], object]) -> None:
    with pytest.raises(UserError, match=r"MACs of Tokens at \(4, 3, 5\) cannot be counted by fvcore: \w+"):
        of_tokens(forward)
    assert torch._C._get_tracing_state() is None
    assert of_tokens(lambda x: x @ x.mT) == TOKENS**2 * DIM


def test_the_callers_mode_does_not_matter() -> None:
    with torch.inference_mode():
        assert of_tokens(lambda x: x @ x.mT) == TOKENS**2 * DIM
