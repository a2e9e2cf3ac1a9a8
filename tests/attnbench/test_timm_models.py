"""The published models as timm's own scripts use them."""

import importlib
from typing import Any

import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import group_parameters
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

import attnbench.timm_models
from attnbench import UserError, models
from attnbench.backbone import Backbone

NAMES = ["focal_tiny", "focal_fast_tiny_conv_embed", "swin_tiny", "pvt_tiny", "pvt_v2_b0", "pvt_v2_b2_li"]
BLOCKS = {"depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
CHANNELS = [8, 16, 32, 64]


def narrow(name: str) -> dict[str, Any]:
    """Return the arguments of a small model of the same family."""
    return BLOCKS | ({"embed_dims": CHANNELS} if name.startswith("pvt") else {"embed_dim": CHANNELS[0]})


def made(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(f"attnbench_{name}", img_size=64, **narrow(name), **options).eval()


def images(side: int = 64) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def plain(name: str, model: Any) -> Backbone:
    """Return the model of attnbench with the weights of timm's."""
    backbone = models.create_model(name, (64, 64), model.num_classes, **narrow(name))
    assert isinstance(backbone, Backbone)
    state = {key.removeprefix("backbone."): value for key, value in model.state_dict().items()}
    state = {key.replace("norm.", "head.norm.") if key.startswith("norm.") else key: v for key, v in state.items()}
    head = {f"head.fc.{key}": state.pop(f"head.{key}") for key in ("weight", "bias")}
    backbone.load_state_dict(state | head)
    return backbone.eval()


def test_timm_lists_every_published_model_once_however_often_they_are_registered() -> None:
    importlib.reload(attnbench.timm_models)
    assert sorted(timm.list_models("attnbench_*")) == sorted(f"attnbench_{name}" for name in models.names())


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_stages_are_those_of_the_model_itself(name: str) -> None:
    model = made(name, num_classes=10)
    own = plain(name, model)
    with torch.inference_mode():
        assert torch.equal(model(images()), own(images()))
        features = model.forward_features(images())
        assert torch.equal(model.forward_head(features), own(images()))
        seen = model.forward_head(features, pre_logits=True)
        assert torch.equal(model.get_classifier()(seen), own(images()))
        final, maps = model.forward_intermediates(images())
        assert torch.equal(final, features)
        for stage, (found, expected) in enumerate(zip(maps, own.stages(images()), strict=True)):
            if name.startswith("pvt_v2"):  # whose norms belong to the stages
                expected = (*own.norms, own.head.norm)[stage](expected)
            assert torch.equal(found, expected.permute(0, 3, 1, 2))
    assert model.num_features == own.channels[-1]


@pytest.mark.parametrize("name", NAMES)
def test_features_are_maps_at_strides_4_to_32(name: str) -> None:
    model = made(name, features_only=True, out_indices=(0, 1, 2, 3)).train()
    maps = model(images(96))
    assert [tuple(each.shape) for each in maps] == [(2, 8, 24, 24), (2, 16, 12, 12), (2, 32, 6, 6), (2, 64, 3, 3)]
    assert model.feature_info.channels() == CHANNELS
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    sum(each.square().mean() for each in maps).backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("name", models.names())
def test_whole_models_tell_their_channels(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(f"attnbench_{name}", features_only=True)
        own = models.create_model(name)
    assert model.feature_info.channels() == list(own.channels)  # type: ignore[arg-type]
    assert model.feature_info.reduction() == [4, 8, 16, 32]


@pytest.mark.parametrize("name", ["swin_tiny", "pvt_tiny", "pvt_v2_b0"])
@pytest.mark.parametrize("indices", [(1,), (0, 2), (-1,)], ids=str)
def test_stages_that_nobody_asked_for_are_left_out(name: str, indices: tuple[int, ...]) -> None:
    model = made(name, features_only=True, out_indices=indices)
    whole = made(name, features_only=True)
    with torch.inference_mode():
        expected = [whole(images())[index] for index in indices]
        for found, map_ in zip(model(images()), expected, strict=True):
            assert torch.equal(found, map_)
    assert model.feature_info.channels() == [each.shape[1] for each in expected]
    last = max(index % 4 for index in indices)
    assert not [key for key in model.state_dict() if f"blocks.{last + 1}" in key or "head" in key]
    model.train()
    sum(each.square().mean() for each in model(images())).backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("name", ["swin_tiny", "pvt_tiny", "pvt_v2_b0"])
def test_the_classifier_can_be_left_out_and_replaced(name: str) -> None:
    model = made(name, num_classes=0)
    with torch.inference_mode():
        pooled = model(images())
        assert pooled.shape == (2, model.num_features)
        model.reset_classifier(5)
        assert torch.equal(model(images()), model.get_classifier()(pooled))
        assert (model.num_classes, model.get_classifier().out_features) == (5, 5)
        model.reset_classifier(0, "")
        assert torch.equal(model(images()), model.forward_features(images()))


def test_pooling_is_the_mean_of_the_map_or_the_class_token() -> None:
    token, mean = made("pvt_tiny", num_classes=0), made("pvt_tiny", num_classes=0, global_pool="avg")
    swin = made("swin_tiny", num_classes=0)
    with torch.inference_mode():
        features = token.forward_features(images())  # (2, 1 + 4, C)
        assert torch.equal(token(images()), features[:, 0])
        torch.testing.assert_close(mean(images()), features[:, 1:].mean(1))
        assert torch.equal(swin(images()), swin.forward_features(images()).mean((1, 2)))
    with pytest.raises(UserError, match="global_pool must be one of 'avg', '', not 'token'"):
        made("swin_tiny", global_pool="token")


def test_timms_data_configuration_is_the_papers() -> None:
    config = resolve_model_data_config(made("focal_tiny"))
    assert config["input_size"] == (3, 224, 224)
    assert (config["crop_pct"], config["interpolation"]) == (0.875, "bicubic")
    assert config["mean"] == (0.485, 0.456, 0.406)
    assert config["std"] == (0.229, 0.224, 0.225)


def test_timms_optimiser_decays_neither_positions_nor_tables() -> None:
    for name, exempt in (("pvt_tiny", "backbone.positions.0"), ("focal_tiny", "to_windows.0")):
        model = made(name)
        groups = create_optimizer_v2(model, opt="adamw", weight_decay=0.05).param_groups
        kept = {id(parameter) for group in groups if not group["weight_decay"] for parameter in group["params"]}
        decayed = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
        named = {key: id(parameter) for key, parameter in model.named_parameters()}
        assert all(named[key] in kept for key in named if key.endswith(exempt))
        assert any(key.endswith(exempt) for key in named)
        assert named["head.weight"] in decayed
        assert kept | decayed == set(named.values())


def test_layers_are_ordered_from_the_stem_to_the_head() -> None:
    model = made("pvt_v2_b0")
    order = group_parameters(model, model.group_matcher(), reverse=True)
    path = ["backbone.stem.proj.weight", *(f"backbone.blocks.{stage}.0.mlp.fc1.weight" for stage in range(4))]
    assert [order[key] for key in path] == [0, 1, 2, 3, 4]
    for before, key in (("blocks.0.0", "norms.0"), ("blocks.0.0", "merging.0.proj"), ("blocks.2.0", "merging.2.proj")):
        assert order[f"backbone.{key}.weight"] == order[f"backbone.{before}.norm1.weight"]
    assert order["head.weight"] == order["norm.weight"] == 4
    assert set(order) == {key for key, _ in model.named_parameters()}


def test_drop_path_and_drop_rate_are_passed_on() -> None:
    model = made("swin_tiny", drop_path_rate=0.4, drop_rate=0.25)
    assert model.head_drop.p == 0.25
    assert model.backbone.blocks[3][0].drop_path.drop_prob == pytest.approx(0.4)
    assert isinstance(made("swin_tiny", drop_path_rate=0.0).backbone.blocks[3][0].drop_path, nn.Identity)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pretrained": True}, "nothing is downloaded"),
        ({"in_chans": 1}, "in_chans=1"),
        ({"imgsize": 224}, "did you mean 'img_size'"),
        ({"img_size": 16}, "at least 32"),
    ],
    ids=str,
)
def test_what_is_not_built_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        timm.create_model("attnbench_pvt_v2_b0", **options)
    with pytest.raises(UserError, match="checkpointing"):
        made("pvt_v2_b0").set_grad_checkpointing()
