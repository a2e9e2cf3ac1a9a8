"""Weights at another resolution, window or number of classes; weights of another model."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attnbench
from attnbench import models
from attnbench.published.adapt import load
from attnbench.published.catalogue import MODELS, Config, Kind, Published
from attnbench.published.load import build

AsPublished = Callable[[Kind, nn.Module], dict[str, Tensor]]
BLOCKS: Config = {"depths": [1, 1, 1, 2], "num_heads": [1, 1, 2, 2]}
SMALL: dict[Kind, Config] = {
    "pvt": BLOCKS | {"embed_dims": [8, 8, 16, 16], "sr_ratios": [4, 2, 1, 1]},
    "pvt_v2": BLOCKS | {"embed_dims": [8, 8, 16, 16]},
    "swin": BLOCKS | {"embed_dim": 8, "window_size": 7},
    "focal": BLOCKS | {"embed_dim": 8},
    "focal_fast": BLOCKS | {"embed_dim": 8, "focal_topK": 16},
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, as_published: AsPublished) -> Callable[..., dict[str, Tensor]]:
    """Return a function that makes the small model of a kind a published one, and returns weights for it."""

    def make(kind: Kind, resolution: tuple[int, int], **config: Any) -> dict[str, Tensor]:
        monkeypatch.setitem(MODELS, "small", Published(kind, SMALL[kind]))
        torch.manual_seed(0)
        model = build(kind, SMALL[kind] | {"num_classes": 7} | config, resolution)
        for name, parameter in model.named_parameters():
            if "position" in name:
                nn.init.normal_(parameter)
        return as_published(kind, model)

    return make


def logits(model: nn.Module, resolution: tuple[int, int]) -> Tensor:
    images = torch.randn(1, 3, *resolution, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        out: Tensor = model(images)
    return out


@pytest.mark.parametrize("kind", SMALL)
def test_at_their_own_resolution_weights_are_taken_as_they_are(
    kind: Kind, small: Callable[..., dict[str, Tensor]]
) -> None:
    weights = small(kind, (224, 224))
    loaded = load("small", weights, (224, 224))
    expected = attnbench.from_published(kind, SMALL[kind] | {"num_classes": 7}, weights, (224, 224))
    assert loaded.adapted == ()
    assert loaded.num_classes == 7
    assert not loaded.model.training
    assert torch.equal(logits(loaded.model, (224, 224)), logits(expected, (224, 224)))


def test_position_embeddings_are_interpolated_as_the_backbone_itself_does(
    small: Callable[..., dict[str, Tensor]],
) -> None:
    weights = small("pvt", (64, 64))
    loaded = load("small", weights, (96, 160))
    expected = attnbench.from_published("pvt", SMALL["pvt"] | {"num_classes": 7}, weights, (64, 64))
    torch.testing.assert_close(logits(loaded.model, (96, 160)), logits(expected, (96, 160)), atol=1e-6, rtol=0)
    assert torch.equal(loaded.model.get_parameter("class_position"), weights["pos_embed4"][:, :1])
    assert loaded.adapted[0] == "pos_embed1: from 16 x 16 to 24 x 40 tokens"
    assert loaded.adapted[3] == "pos_embed4: from 2 x 2 to 3 x 5 tokens"
    assert len(loaded.adapted) == 4


def test_a_map_that_is_not_square_is_known_by_the_wanted_proportions(small: Callable[..., dict[str, Tensor]]) -> None:
    weights = small("pvt", (64, 96))
    loaded = load("small", weights, (128, 192))
    assert loaded.adapted[0] == "pos_embed1: from 16 x 24 to 32 x 48 tokens"
    expected = attnbench.from_published("pvt", SMALL["pvt"] | {"num_classes": 7}, weights, (64, 96))
    torch.testing.assert_close(logits(loaded.model, (128, 192)), logits(expected, (128, 192)), atol=1e-6, rtol=0)
    with pytest.raises(attnbench.UserError, match="pos_embed1 has 384 positions, which is no square map"):
        load("small", weights, (128, 128))


def test_a_table_is_interpolated_to_a_smaller_window(small: Callable[..., dict[str, Tensor]]) -> None:
    weights = small("swin", (224, 224))
    loaded = load("small", weights, (192, 192))
    table = weights["layers.3.blocks.1.attn.relative_position_bias_table"]  # (13², heads)
    wide = table.T.reshape(1, 2, 13, 13)
    expected = F.interpolate(wide, size=(11, 11), mode="bicubic", align_corners=False).reshape(2, 121).T
    found = loaded.model.get_parameter("blocks.3.1.attn.relative_position_bias_table")
    assert torch.equal(found, expected)
    assert loaded.adapted == ("relative_position_bias_table: from 13 x 13 to 11 x 11 offsets, in 2 blocks",)
    assert logits(loaded.model, (192, 192)).shape == (1, 7)


def test_a_table_interpolated_to_its_own_size_times_an_odd_number_keeps_its_values_in_between() -> None:
    from attnbench.published.adapt import _table

    table = torch.randn(3, 25, generator=torch.Generator().manual_seed(0))
    note, wide = _table(table, 15**2)
    assert note == "from 5 x 5 to 15 x 15 offsets"
    assert torch.allclose(wide.reshape(3, 15, 15)[:, 1::3, 1::3], table.reshape(3, 5, 5), atol=1e-6)


def test_the_window_is_that_of_the_tables(small: Callable[..., dict[str, Tensor]]) -> None:
    weights = small("swin", (384, 384), window_size=12)
    loaded = load("small", weights, (384, 384))
    assert loaded.adapted == ("window_size: 12 as in the weights, not 7",)
    config = SMALL["swin"] | {"num_classes": 7, "window_size": 12}
    expected = attnbench.from_published("swin", config, weights, (384, 384))
    assert torch.equal(logits(loaded.model, (384, 384)), logits(expected, (384, 384)))


@pytest.mark.parametrize(("made_for", "wanted"), [(224, 448), (448, 224), (224, 192)])
def test_focal_keeps_the_structure_of_its_weights_where_the_wanted_one_has_other_parameters(
    made_for: int, wanted: int, small: Callable[..., dict[str, Tensor]]
) -> None:
    weights = small("focal", (made_for, made_for))
    ring = "layers.3.blocks.0.attn.relative_position_bias_table_to_neighbors"
    assert (ring in weights) is (made_for == 448)
    loaded = load("small", weights, (wanted, wanted))
    assert loaded.adapted == (f"the structure is kept that the model has at {made_for} x {made_for} pixels",)
    expected = attnbench.from_published("focal", SMALL["focal"] | {"num_classes": 7}, weights, (made_for, made_for))
    assert torch.equal(logits(loaded.model, (wanted, wanted)), logits(expected, (wanted, wanted)))


def test_focal_tables_of_pooled_windows_are_interpolated_where_pooling_has_no_weights(
    small: Callable[..., dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = small("focal", (224, 224), focal_pool="mean")
    monkeypatch.setitem(MODELS, "small", Published("focal", SMALL["focal"] | {"focal_pool": "mean"}))
    loaded = load("small", weights, (192, 192))
    key = "layers.3.blocks.0.attn.relative_position_bias_table_to_windows.0"
    old, new = (int(tensor.shape[1] ** 0.5) for tensor in (weights[key], pooled(loaded.model)))
    assert new == old - 1
    wide = weights[key].reshape(1, 2, old, old)
    expected = F.interpolate(wide, size=(new, new), mode="bicubic", align_corners=False).reshape(2, new**2)
    assert torch.equal(pooled(loaded.model), expected)
    assert f"relative_position_bias_table_to_windows: from {old} x {old} to {new} x {new} offsets, in 2 blocks" in (
        loaded.adapted
    )


def pooled(model: nn.Module) -> Tensor:
    return model.get_parameter("blocks.3.0.attn.relative_position_bias_table_to_windows.0")


@pytest.mark.parametrize(("given", "asked"), [("swin_small", "swin_tiny"), ("pvt_v2_b2", "pvt_v2_b2_li")])
def test_weights_of_another_model_are_named(given: str, asked: str, as_published: AsPublished) -> None:
    with torch.device("meta"):
        weights = as_published(MODELS[given].kind, models.create_model(given, num_classes=5))
    with pytest.raises(attnbench.UserError, match=f"do not fit .*; they are weights of {given}$"):
        load(asked, weights, (224, 224))


def test_a_missing_weight_and_an_unknown_one_are_named(small: Callable[..., dict[str, Tensor]]) -> None:
    weights = small("pvt_v2", (224, 224))
    without = {key: tensor for key, tensor in weights.items() if key != "block1.0.norm1.bias"}
    with pytest.raises(attnbench.UserError, match=r"missing: block1\.0\.norm1\.bias$"):
        load("small", without, (224, 224))
    with pytest.raises(attnbench.UserError, match=r"unexpected: more$"):
        load("small", weights | {"more": torch.ones(1)}, (224, 224))


def test_timms_own_layout_is_recognised() -> None:
    with torch.device("meta"):
        weights = timm.create_model("swin_tiny_patch4_window7_224").state_dict()
    with pytest.raises(attnbench.UserError, match=r"for a model of timm give --model timm:NAME$"):
        load("swin_tiny", weights, (224, 224))
