import warnings
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnbench.errors import UserError
from attnbench.measure.macs import count_macs


class Tokens(nn.Module):
    """Feeds an image (B, C, H, W) as tokens (B, HW, C) to a function of tokens that may own parameters."""

    def __init__(self, forward: Callable[[Tensor], object], *owned: nn.Module) -> None:
        super().__init__()
        self.owned = nn.ModuleList(owned)
        self.run = forward

    def forward(self, images: Tensor) -> object:
        return self.run(images.flatten(2).transpose(1, 2))


def conv_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, groups=4, dilation=2),
        nn.ConvTranspose2d(12, 6, 2, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 10),
    )


def swin_macs(dim: int, depths: tuple[int, ...], side: int, window: int, classes: int) -> int:
    """Swin Transformer, arXiv 2103.14030, section 3: windows of window x window tokens, MLP ratio 4, no padding."""
    grid = side // 4
    total = grid**2 * (4 * 4 * 3) * dim
    for stage, depth in enumerate(depths):
        tokens, channels = (grid // 2**stage) ** 2, dim * 2**stage
        attention = 3 * tokens * channels**2 + 2 * tokens * window**2 * channels + tokens * channels**2
        total += depth * (attention + 2 * tokens * channels * 4 * channels)
        if stage < len(depths) - 1:
            total += tokens // 4 * (4 * channels) * (2 * channels)
    return total + (dim << len(depths) - 1) * classes


def vit_macs(dim: int, depth: int, side: int, classes: int) -> int:
    """ViT, arXiv 2010.11929, section 3.1: patches of 16 x 16, a class token, MLP ratio 4."""
    patches = (side // 16) ** 2
    tokens = patches + 1
    block = 4 * tokens * dim**2 + 2 * tokens**2 * dim + 8 * tokens * dim**2
    return patches * (16 * 16 * 3) * dim + depth * block + dim * classes


def test_swin_tiny_equals_its_closed_form() -> None:
    with torch.device("meta"):
        model = timm.create_model("swin_tiny_patch4_window7_224")
    assert count_macs(model, (3, 224, 224)) == swin_macs(96, (2, 2, 6, 2), 224, 7, 1000)


@pytest.mark.parametrize("side", [224, 896])
def test_vit_small_equals_its_closed_form_attention_included(side: int) -> None:
    with torch.device("meta"):
        model = timm.create_model("vit_small_patch16_224", dynamic_img_size=True)
    assert count_macs(model, (3, side, side)) == vit_macs(384, 12, side, 1000)


def test_convolutions_equal_fvcore() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fvcore traces with torch.jit, which is deprecated
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(conv_net().eval(), torch.zeros(1, 3, 33, 47))
        counts = analysis.by_operator()  # batch norm and pooling too, which are no sums of products
    assert count_macs(conv_net(), (3, 33, 47)) == counts["conv"] + counts["linear"]


@pytest.mark.parametrize("side", [3, 6])
@pytest.mark.parametrize(
    "options", [{}, {"is_causal": True}, {"masked": True}, {"enable_gqa": True}], ids=lambda options: str(options)
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_fused_attention_counts_its_two_matmuls(side: int, options: dict[str, bool], dtype: torch.dtype) -> None:
    heads, width, tokens = 4, 2, side * side
    more: dict[str, object] = {name: value for name, value in options.items() if name != "masked"}
    groups = 2 if options.get("enable_gqa") else heads

    def attend(x: Tensor) -> Tensor:
        q = x.reshape(1, tokens, heads, width).transpose(1, 2).to(dtype)
        kv = q[:, :groups]
        mask = torch.zeros(tokens, tokens, dtype=dtype, device=x.device) if options.get("masked") else None
        return F.scaled_dot_product_attention(q, kv, kv, attn_mask=mask, **more)  # type: ignore[arg-type]

    assert count_macs(Tokens(attend), (heads * width, side, side)) == 2 * heads * tokens**2 * width


@pytest.mark.parametrize("frozen", [False, True])
def test_encoder_layer_does_not_take_the_uncounted_fast_path(frozen: bool) -> None:
    dim, hidden, tokens = 8, 20, 15
    layer = nn.TransformerEncoderLayer(dim, 2, hidden, batch_first=True).requires_grad_(not frozen)
    with torch.no_grad():
        counted = count_macs(Tokens(layer, layer), (dim, 3, 5))
    assert counted == 4 * tokens * dim**2 + 2 * tokens**2 * dim + 2 * tokens * dim * hidden
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(
    ("product", "expected"),
    [
        (lambda x: x[0] @ x[0, 0], 15 * 4),
        (lambda x: torch.dot(x[0, 0], x[0, 1]), 4),
        (lambda x: torch.vdot(x[0, 0], x[0, 1]), 4),
        (lambda x: torch.addmv(x[0, :, 0], x[0], x[0, 0]), 15 * 4),
        (lambda x: torch.addbmm(x.new_zeros(15, 15), x, x.mT), 15 * 4 * 15),
        (lambda x: torch.baddbmm(x.new_zeros(1, 15, 15), x, x.mT), 15 * 4 * 15),
        (lambda x: torch.einsum("bnc,bmc->bnm", x, x), 15 * 4 * 15),
    ],
    ids=["mv", "dot", "vdot", "addmv", "addbmm", "baddbmm", "einsum"],
)
def test_every_kind_of_product_is_counted(product: Callable[[Tensor], Tensor], expected: int) -> None:
    assert count_macs(Tokens(product), (4, 3, 5)) == expected


def test_model_is_left_as_it_was() -> None:
    model = conv_net().train()
    model[3].weight.requires_grad_(False)
    seen: list[object] = []
    model[0].register_forward_hook(lambda *_: seen.append(None))
    tensors = list(model.state_dict(keep_vars=True).values())
    before = [(id(item), item.device, item.requires_grad, item._version, item.clone()) for item in tensors]
    hooks = [dict(module._forward_hooks) for module in model.modules()]
    count_macs(model, (3, 32, 32))
    assert all(module.training for module in model.modules())
    assert [dict(module._forward_hooks) for module in model.modules()] == hooks
    after = list(model.state_dict(keep_vars=True).values())
    for item, (identity, device, requires_grad, version, values) in zip(after, before, strict=True):
        assert (id(item), item.device, item.requires_grad, item._version) == (identity, device, requires_grad, version)
        assert torch.equal(item, values)
        assert item.grad is None


def test_weights_are_not_copied() -> None:
    linear = nn.Linear(1, 1, bias=False)
    outputs = 2**40  # a copy would take 12 x 4 TiB; here one number is seen everywhere
    linear.weight = nn.Parameter(torch.zeros(1).expand(outputs, 12))
    assert count_macs(nn.Sequential(nn.Flatten(), linear), (3, 2, 2)) == 12 * outputs


def test_twins_keep_ties_classes_and_gradient_flags() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
            self.second.weight = self.first.weight
            self.first.bias.requires_grad_(False)
            self.register_buffer("table", torch.zeros(2))
            self.alias = self.table

        def forward(self, images: Tensor) -> Tensor:
            assert self.first.weight is self.second.weight
            assert self.alias is self.table
            assert isinstance(self.first.weight, nn.Parameter)
            assert self.first.weight.is_meta
            assert self.first.weight.requires_grad
            assert not self.first.bias.requires_grad
            return self.second(self.first(images.flatten(2).transpose(1, 2)))

    assert count_macs(Tied(), (3, 2, 2)) == 2 * 4 * 9


def test_tensors_that_are_not_registered_are_traced_too() -> None:
    scale = nn.Parameter(torch.ones(4))
    tables = {"bias": torch.zeros(15, 15), "computed": scale * 2}

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables = [tables]
            self.scale = scale

        def forward(self, images: Tensor) -> Tensor:
            x = images.flatten(2).transpose(1, 2) * self.tables[0]["computed"]
            self.tables[0]["computed"] += 1
            return torch.baddbmm(self.tables[0]["bias"], x, x.mT)

    assert count_macs(Hidden(), (4, 3, 5)) == 15 * 4 * 15
    assert {table.device.type for table in tables.values()} == {"cpu"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_count_does_not_depend_on_dtype(dtype: torch.dtype) -> None:
    assert count_macs(conv_net().to(dtype), (3, 32, 32)) == count_macs(conv_net(), (3, 32, 32))


def test_count_is_the_same_on_meta_and_in_inference_mode() -> None:
    expected = count_macs(conv_net(), (3, 32, 32))
    with torch.device("meta"):
        assert count_macs(conv_net(), (3, 32, 32)) == expected
    with torch.inference_mode():
        assert count_macs(conv_net(), (3, 32, 32)) == expected
        assert torch.is_inference_mode_enabled()


def test_parametrised_weights_are_counted() -> None:
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    assert count_macs(conv, (3, 8, 8)) == 6 * 6 * 4 * 27


def test_model_that_needs_values_is_refused_in_one_line() -> None:
    model = Tokens(lambda x: float(x.sum()))
    with pytest.raises(UserError, match=r"^MACs of Tokens at \(3, 8, 8\) cannot be traced on meta: RuntimeError: .+$"):
        count_macs(model, (3, 8, 8))


def test_wrong_image_size_is_named() -> None:
    with torch.device("meta"):
        model = timm.create_model("vit_tiny_patch16_224")
    with pytest.raises(UserError, match=r"AssertionError: Input height \(225\) doesn't match model"):
        count_macs(model, (3, 225, 224))
