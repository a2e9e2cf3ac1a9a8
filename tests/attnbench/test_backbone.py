"""The backbone: its shapes at any size, and timm's Swin as the oracle of its arithmetic and its parameter counts."""

import re
from itertools import product
from typing import Any, cast

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import attnbench
from attnbench.backbone import Backbone, Block
from attnbench.layers import ConvMlp, PatchEmbedding
from attnbench.models import create_model
from attnbench.norms import LayerNorm
from attnbench.operators import add_mlp
from attnbench.sizes import SIZES


def from_timm(key: str) -> str:
    """Turn timm's name of a Swin weight into ours: stages that begin with merging, and a head of two parts."""
    key = re.sub(r"^layers\.(\d)\.downsample", lambda match: f"merging.{int(match[1]) - 1}", key)
    key = re.sub(r"^layers\.(\d)\.blocks", r"blocks.\1", key)
    return re.sub(r"^norm\.", "head.norm.", key.replace("patch_embed", "stem"))


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_swin_has_the_parameters_of_timms(size: str) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(f"swin_{size}_patch4_window7_224")
        ours = attnbench.build_model("swin", size, resolution=(224, 224))
    count = sum(parameter.numel() for parameter in ours.parameters())
    assert count == sum(parameter.numel() for parameter in theirs.parameters())


def test_swin_computes_what_timms_does_with_the_same_weights() -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("swin_tiny_patch4_window7_224", num_classes=10).eval()
    ours = attnbench.build_model("swin", "tiny", resolution=(224, 224), num_classes=10).eval()
    weights = {from_timm(key): value for key, value in theirs.state_dict().items() if "attn_mask" not in key}
    assert set(ours.state_dict()) == set(weights)
    ours.load_state_dict(weights)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        features = theirs.forward_intermediates(images, intermediates_only=True, norm=False, output_fmt="NCHW")
        torch.testing.assert_close(ours(images), theirs(images), atol=2e-5, rtol=1e-4)
        for own, reference in zip(ours.stages(images), features, strict=True):
            torch.testing.assert_close(own, reference.permute(0, 2, 3, 1), atol=1e-4, rtol=1e-4)


@given(height=st.integers(32, 90), width=st.integers(32, 90))
@settings(max_examples=15, deadline=None)
def test_stage_maps_have_the_stated_shapes_at_any_size(height: int, width: int) -> None:
    with torch.device("meta"):
        model = attnbench.build_model("identity", resolution=(height, width), num_classes=3)
    images = torch.empty(2, 3, height, width, device="meta")
    expected = [(2, -(-height // 2 ** (i + 2)), -(-width // 2 ** (i + 2)), 32 * 2**i) for i in range(4)]
    assert [tuple(item.shape) for item in model.stages(images)] == expected
    assert model(images).shape == (2, 3)


@pytest.mark.parametrize("resolution", [224, (224,), (224.0, 224), "224", None])
def test_what_is_no_pair_of_sides_is_refused(resolution: Any) -> None:
    with pytest.raises(attnbench.UserError, match=r"resolution must be \(H, W\)"):
        attnbench.build_model("identity", resolution=resolution)


@pytest.mark.parametrize("num_classes", [0, -1, 2.0, None])
def test_a_number_of_classes_that_no_classifier_has_is_refused(num_classes: Any) -> None:
    with pytest.raises(attnbench.UserError, match="num_classes must be a whole number of at least 1"):
        attnbench.build_model("identity", resolution=(64, 64), num_classes=num_classes)


@pytest.mark.parametrize("resolution", [(31, 64), (64, 31)])
def test_a_side_under_32_is_refused(resolution: tuple[int, int]) -> None:
    with pytest.raises(attnbench.UserError, match="at least 32"):
        attnbench.build_model("identity", resolution=resolution)
    with pytest.raises(attnbench.UserError, match="at least 32"):
        attnbench.build_model("identity", resolution=(64, 64))(torch.zeros(1, 3, *resolution))


def test_only_the_attention_differs_between_mechanisms() -> None:
    def rest(name: str) -> dict[str, torch.Size]:
        with torch.device("meta"):
            state = attnbench.build_model(name, resolution=(64, 64)).state_dict()
        return {key: value.shape for key, value in state.items() if ".attn." not in key}

    floor = rest("identity")
    assert all(rest(name) == floor for name in attnbench.MECHANISMS)


def test_identity_never_mixes_patches_of_32_pixels() -> None:
    torch.manual_seed(0)
    model = attnbench.build_model("identity", resolution=(96, 96), num_classes=2).eval()
    images = torch.randn(1, 3, 96, 96)
    changed = images.clone()
    changed[:, :, 32:64, 32:64] += 1
    with torch.no_grad():
        difference = (model.stages(images)[-1] - model.stages(changed)[-1]).abs().amax(-1)[0] > 0
    assert difference.nonzero().tolist() == [[1, 1]]


@pytest.mark.parametrize(("size", "depth"), [(name, sum(size.depths)) for name, size in SIZES.items()])
def test_drop_path_rises_linearly_to_its_value(size: str, depth: int) -> None:
    with torch.device("meta"):
        model = attnbench.build_model("identity", size, resolution=(64, 64), drop_path=0.3)
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0.3 * index / (depth - 1) for index in range(depth)])


def test_settings_reach_the_stages() -> None:
    model = attnbench.build_model("focal", resolution=(64, 64), window=5, focal_window=[5, 3, 3, 1])
    sides = [[region[0] for region in blocks[0].attn.regions] for blocks in model.blocks]  # type: ignore[index]
    assert sides == [[5], [3], [3], [1]]
    assert all(blocks[0].attn.window == 5 for blocks in model.blocks)  # type: ignore[index]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"windw": 7}, "did you mean 'window'"),
        ({"window": "7"}, "must be int"),
        ({"window": True}, "must be int"),
        ({"window": [7, 7]}, "4, one per stage"),
        ({"window": 0}, "at least 1"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_would_be_right(settings: dict[str, object], message: str) -> None:
    with pytest.raises(attnbench.UserError, match=message):
        attnbench.build_model("swin", resolution=(64, 64), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("mechanism", "size"), [("swn", "nano"), ("swin", "nan")])
def test_an_unknown_name_gets_the_nearest_known_one(mechanism: str, size: str) -> None:
    with pytest.raises(attnbench.UserError, match=r"did you mean .(swin|nano)."):
        attnbench.build_model(mechanism, size, resolution=(64, 64))


@pytest.mark.parametrize("shape", [(6, 30, 35), (2, 90, 100)], ids=str)  # one part is an image, or some of its channels
@pytest.mark.parametrize("name", ["uniform", "pvt_v2_b0", "pvt_v2_b2_li"])
def test_the_mlp_takes_a_map_in_parts_as_it_would_whole(name: str, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    if name == "uniform":
        model = attnbench.build_model("identity", "nano", resolution=(224, 224))
    else:
        model = cast(Backbone, create_model(name, (224, 224), 10))
    block = model.eval().blocks[0][0]  # type: ignore[index]
    x = torch.randn(*shape, model.channels[0])
    with torch.no_grad():
        attended = x + block.attn(block.norm1(x))
        expected = attended + block.mlp(block.norm2(attended))
        torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("inside", [100, 256])  # channels: the last of them are fewer than others; they are not
def test_an_mlp_with_a_convolution_takes_any_number_of_channels_in_groups(inside: int) -> None:
    torch.manual_seed(0)
    norm, mlp = LayerNorm(20), ConvMlp(20, inside / 20)
    x = torch.randn(1, 90, 100, 20)
    with torch.no_grad():
        expected = x + mlp(norm(x))
        torch.testing.assert_close(add_mlp(x.clone(), norm, mlp), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("where", ["norm2", "fc1", "everywhere"])
def test_who_watches_a_layer_of_the_mlp_sees_the_whole_map(where: str) -> None:
    model = attnbench.build_model("identity", "nano", resolution=(224, 224)).eval()
    block = model.blocks[0][0]  # type: ignore[index]
    x, seen = torch.randn(2, 40, 40, model.channels[0]), []

    def watch(module: torch.nn.Module, *_: object) -> None:
        if module in (block.norm2, block.mlp.fc1):
            seen.append(module)

    watched = {"norm2": block.norm2, "fc1": block.mlp.fc1}.get(where)
    register = watched.register_forward_hook if watched else torch.nn.modules.module.register_module_forward_hook
    with torch.inference_mode():
        expected = block(x)
        handle = register(watch)
        try:
            torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)
        finally:
            handle.remove()
    assert seen == ([watched] if watched else [block.norm2, block.mlp.fc1])


def test_stochastic_depth_drops_the_mlp_of_whole_images() -> None:
    class Nothing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(x)

    torch.manual_seed(0)
    model = attnbench.build_model("identity", "nano", resolution=(224, 224), drop_path=0.5).train()
    block = model.blocks[3][-1]  # type: ignore[index]
    block.attn = Nothing()
    x = torch.randn(16, 30, 35, model.channels[3])
    with torch.no_grad():
        added, branch = block(x) - x, 2 * block.mlp(block.norm2(x))  # what is kept counts twice, half being dropped
    kept = [torch.allclose(one, other, atol=1e-5) for one, other in zip(added, branch, strict=True)]
    dropped = [not one.any() for one in added]
    assert all(one != other for one, other in zip(kept, dropped, strict=True))
    assert any(kept)
    assert any(dropped)


@pytest.mark.parametrize("size", list(product([(3, 4, 4, 0), (3, 7, 4, 3), (5, 2, 2, 0)], [(1, 8, 8), (2, 13, 9)])))
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_patch_embedding_puts_out_channels_last_maps_of_images_in_any_order(
    size: tuple[tuple[int, int, int, int], tuple[int, int, int]], order: torch.memory_format
) -> None:
    (channels, kernel, stride, padding), (batch, height, width) = size
    torch.manual_seed(0)
    embedding = PatchEmbedding(channels, 6, kernel, stride, padding).double()
    plain = nn.Conv2d(channels, 6, kernel, stride, padding).double()
    plain.load_state_dict(embedding.proj.state_dict())
    assert embedding.proj.weight.is_contiguous()  # as files of weights want it
    images = torch.randn(batch, channels, height, width, dtype=torch.float64).contiguous(memory_format=order)
    found, expected = embedding.proj(images), plain(images)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = [
        torch.autograd.grad(out.square().sum(), list(layer.parameters()))
        for out, layer in ((found, embedding.proj), (expected, plain))
    ]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
