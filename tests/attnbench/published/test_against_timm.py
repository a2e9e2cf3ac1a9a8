"""Swin and PVTv2 compute what timm's own implementations do: same random weights, same logits."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import attnbench
from attnbench import models
from attnbench.backbone import Backbone
from attnbench.published.catalogue import Kind
from attnbench.published.load import translate

CLASSES = 10
TOLERANCE = 2e-5
# All heads at half the width, and two blocks per stage, so that windows shift.
SMALLER = {"embed_dim": 48, "depths": [2, 2, 2, 2]}
SWIN = models.configuration("swin_tiny") | SMALLER | {"num_classes": CLASSES}


def drawn(model: nn.Module) -> nn.Module:
    """Draw weights that keep the variance of what they read, and large biases and tables: a wrong index shows."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith("table"):
            nn.init.normal_(parameter, std=0.5)
        elif parameter.ndim == 1:
            nn.init.normal_(parameter, float(name.endswith("weight")), std=0.2)  # of norms around 1, biases around 0
        else:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model.eval()


def swin_keys(key: str) -> str:
    """Return the authors' key: they merge at the end of a stage, timm at the beginning."""
    key = re.sub(r"layers\.(\d)\.downsample", lambda found: f"layers.{int(found[1]) - 1}.downsample", key)
    return key.replace("head.fc.", "head.")


def pvt_v2_keys(key: str) -> str:
    """Return the authors' key: they number stages from 1 and do not nest them."""
    key = key.replace("mlp.dwconv.", "mlp.dwconv.dwconv.")
    key = re.sub(r"^patch_embed\.", "patch_embed1.", key)
    key = re.sub(r"^stages\.(\d)\.downsample", lambda found: f"patch_embed{int(found[1]) + 1}", key)
    key = re.sub(r"^stages\.(\d)\.blocks", lambda found: f"block{int(found[1]) + 1}", key)
    return re.sub(r"^stages\.(\d)\.norm", lambda found: f"norm{int(found[1]) + 1}", key)


def ours(kind: str, config: dict[str, Any], other: nn.Module, renamed: Callable[[str], str], side: int) -> Backbone:
    weights = {renamed(key): tensor for key, tensor in other.state_dict().items()}
    return attnbench.from_published(kind, config, weights, (side, side))


def pictures(side: int) -> Tensor:
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))


def agree(own: Backbone, other: nn.Module, side: int) -> None:
    with torch.inference_mode():
        logits = own(pictures(side))
        torch.testing.assert_close(logits, other(pictures(side)), atol=TOLERANCE, rtol=0)
    assert logits.std() > 1000 * TOLERANCE


@pytest.mark.parametrize("side", [112, 192, 224, 256, 448])
def test_swin_is_timms_where_the_window_shrinks_fits_pads_and_shifts_in_the_last_stage(side: int) -> None:
    other = timm.create_model("swin_tiny_patch4_window7_224", **SMALLER, img_size=side, num_classes=CLASSES)
    own = ours("swin", SWIN, drawn(other), swin_keys, side)
    agree(own, other, side)
    table = own.get_parameter("blocks.3.1.attn.relative_position_bias_table")
    with torch.inference_mode():
        maps = own.stages(pictures(side))
        for mine, theirs in zip(
            maps, other.forward_intermediates(pictures(side), intermediates_only=True), strict=True
        ):
            torch.testing.assert_close(mine, theirs.permute(0, 2, 3, 1), atol=TOLERANCE, rtol=0)
        table.copy_(table.roll(1, dims=0))
        assert (own.stages(pictures(side))[3] - maps[3]).abs().max() > 1000 * TOLERANCE


@pytest.mark.parametrize("side", [224, 240])
@pytest.mark.parametrize("name", ["pvt_v2_b0", "pvt_v2_b2_li"])
def test_pvt_v2_is_timms_where_maps_divide_and_where_they_do_not(name: str, side: int) -> None:
    config = models.configuration(name) | {"depths": [2, 1, 2, 1], "num_classes": CLASSES}
    other = drawn(timm.create_model(name, depths=config["depths"], num_classes=CLASSES))
    agree(ours("pvt_v2", config, other, pvt_v2_keys, side), other, side)


@pytest.mark.parametrize("name", ["swin_small", "swin_base", "swin_large", "pvt_v2_b0", "pvt_v2_b2_li", "pvt_v2_b5"])
def test_whole_models_have_timms_tensors_under_the_authors_keys(name: str) -> None:
    kind: Kind = "swin" if name.startswith("swin") else "pvt_v2"
    renamed = swin_keys if kind == "swin" else pvt_v2_keys
    known = f"{name}_patch4_window7_224" if kind == "swin" else name
    with torch.device("meta"):
        other = timm.create_model(known).state_dict()
        own = models.create_model(name).state_dict()
    expected = {key: tuple(tensor.shape) for key, tensor in own.items()}
    found = translate(kind, {renamed(key): tensor for key, tensor in other.items()}, expected)
    assert found.keys() == own.keys()
