"""Weights that do not fit are refused by the authors' key; configurations by their argument."""

from typing import Any

import pytest
import torch
from torch import Tensor

import attnbench
from attnbench import models
from attnbench.published.catalogue import KINDS, Kind
from attnbench.published.families import design
from attnbench.published.keys import BUFFERS, ours, theirs
from attnbench.published.load import build, translate

BLOCKS = {"depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
SMALL: dict[str, dict[str, Any]] = {
    kind: BLOCKS | ({"embed_dims": [8, 8, 16, 16]} if kind.startswith("pvt") else {"embed_dim": 8}) for kind in KINDS
}
RESOLUTION = (64, 96)


def weights(kind: Kind, **config: Any) -> dict[str, Tensor]:
    """Return random weights of a small model under the authors' keys."""
    torch.manual_seed(0)
    state = build(kind, SMALL[kind] | config, RESOLUTION).state_dict()
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith("positions."):
            found[theirs(kind, name)] = tensor.flatten(1, 2)
        elif name != "class_position":
            found[theirs(kind, name)] = tensor
    if "class_position" in state:
        found["pos_embed4"] = torch.cat([state["class_position"], found["pos_embed4"]], dim=1)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_name_of_ours_has_a_key_of_theirs_and_back(kind: Kind) -> None:
    more = {"use_layerscale": True, "ape": True} if kind == "focal" else {}
    state = build(kind, SMALL[kind] | more, RESOLUTION).state_dict()
    for name in state:
        assert name in [target for target, _ in ours(kind, theirs(kind, name))]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_go_where_they_belong(kind: Kind) -> None:
    given = weights(kind)
    model = attnbench.from_published(kind, SMALL[kind], given, RESOLUTION)
    again = attnbench.from_published(kind, SMALL[kind], dict(reversed(given.items())), RESOLUTION)
    images = torch.randn(1, 3, *RESOLUTION)
    with torch.inference_mode():
        assert torch.equal(model(images), again(images))
    assert torch.equal(model.state_dict()["head.fc.weight"], given["head.weight"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_an_unexpected_and_a_misshapen_key_are_named(kind: Kind) -> None:
    given = weights(kind)
    expected = {name: tuple(tensor.shape) for name, tensor in build(kind, SMALL[kind], RESOLUTION).state_dict().items()}
    for key in given:
        without = {name: given[name] for name in given if name != key}
        with pytest.raises(attnbench.UserError, match=f"missing: {key}$"):
            translate(kind, without, expected)
        if given[key].numel() > 1:
            with pytest.raises(attnbench.UserError, match=rf"model; misshapen: {key} is \("):
                translate(kind, given | {key: given[key].flatten()[:-1]}, expected)
    with pytest.raises(attnbench.UserError, match=r"model; unexpected: layers\.0\.surprise$"):
        translate(kind, given | {"layers.0.surprise": torch.zeros(1)}, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_models_without_biases_of_queries_keys_and_values_are_built_too(kind: Kind) -> None:
    given = weights(kind, qkv_bias=False)
    assert not [key for key in given if key.endswith(("qkv.bias", "q.bias", "kv.bias"))]
    plain = attnbench.from_published(kind, SMALL[kind] | {"qkv_bias": False}, given, RESOLUTION)
    zeros = build(kind, SMALL[kind] | {"qkv_bias": True}, RESOLUTION)
    zeros.load_state_dict(plain.state_dict(), strict=False)  # their biases begin as zeros
    images = torch.randn(1, 3, *RESOLUTION)
    with torch.inference_mode():
        torch.testing.assert_close(plain(images), zeros.eval()(images), atol=1e-6, rtol=1e-6)


def test_an_absolute_position_embedding_is_added_after_the_stem() -> None:
    given = weights("swin", ape=True)
    model = attnbench.from_published("swin", SMALL["swin"] | {"ape": True}, given, RESOLUTION)
    without = {key: value for key, value in given.items() if key != "absolute_pos_embed"}
    without["patch_embed.norm.bias"] = torch.ones(8)
    same = given | {"absolute_pos_embed": torch.ones_like(given["absolute_pos_embed"])}
    images = torch.randn(1, 3, *RESOLUTION)
    shifted = attnbench.from_published("swin", SMALL["swin"], without, RESOLUTION)
    constant = attnbench.from_published("swin", SMALL["swin"] | {"ape": True}, same, RESOLUTION)
    with torch.inference_mode():
        torch.testing.assert_close(constant(images), shifted(images), atol=1e-6, rtol=1e-6)
        assert not torch.equal(model(images), constant(images))


def test_many_faults_are_told_in_one_line() -> None:
    with pytest.raises(attnbench.UserError, match=r"missing: .*, .*, .* and \d+ more; unexpected: x, y$"):
        attnbench.from_published("swin", SMALL["swin"], {"x": torch.zeros(1), "y": torch.zeros(1)}, RESOLUTION)
    with pytest.raises(attnbench.UserError, match=r"norm\.weight.* are str, not a tensor under a name"):
        attnbench.from_published("swin", SMALL["swin"], {"norm.weight": "x"}, RESOLUTION)  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "buffer",
    [
        "layers.0.blocks.1.attn_mask",
        "layers.0.blocks.0.attn.relative_position_index",
        "layers.0.blocks.0.attn.relative_position_index_to_neighbors",
        "layers.0.blocks.0.attn.relative_position_index_k",
        "layers.0.blocks.0.attn.valid_ind_rolled",
        "layers.2.blocks.0.attn.topk_cords_k_0",
        "layers.2.blocks.0.attn.topK_fine",
        "layers.0.blocks.0.window_coords",
        "layers.0.blocks.0.attn.unfolds.0.kernel",
        "layers.0.blocks.0.attn.unfold.0",
    ],
)
def test_index_tables_of_real_checkpoints_are_ignored(buffer: str) -> None:
    given = weights("focal")
    model = attnbench.from_published("focal", SMALL["focal"], given | {buffer: torch.zeros(3, 4)}, RESOLUTION)
    assert torch.equal(model.state_dict()["head.fc.weight"], given["head.weight"])


def test_no_weight_looks_like_a_buffer() -> None:
    for kind in KINDS:
        assert not [key for key in weights(kind) if BUFFERS.fullmatch(key)]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"windowsize": 7}, "did you mean 'window_size'"),
        ({"window_size": "7"}, "window_size must be int"),
        ({"depths": [2, 2, 2]}, "depths must be 4 numbers"),
        ({"depths": [2, 2, 4.0, 2]}, "depths must be a list of whole numbers"),
        ({"depths": [2, 2, 0, 2]}, "depths must all be at least 1"),
        ({"expand_sizes": [3, 3, -1, 3]}, "expand_sizes must all be at least 0"),
        ({"num_classes": -1}, "num_classes must be at least 1"),
        ({"window_size": 0}, "window_size must be at least 1"),
        ({"mlp_ratio": -1.0}, "mlp_ratio must be at least"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio must be at least"),
        ({"drop_path_rate": 2.0}, "drop_path_rate must lie between 0 and 1"),
        ({"num_heads": [3, 6, 12, 7]}, "does not divide into 7 heads"),
        (None, "must be a mapping"),
        ([("window_size", 7)], "must be a mapping"),
        ({"patch_size": 2}, "patch_size=2"),
        ({"use_shift": 1}, "use_shift must be bool"),
        ({"focal_pool": "median"}, "pool must be one of"),
        ({"expand_layer": "none"}, "expand_layer must be one of"),
        ({"focal_windows": [7, 5, 3, 2]}, "focal_window must be odd"),
        ({"window_size": 1, "focal_levels": [3, 2, 2, 2]}, "fewer levels"),
    ],
    ids=str,
)
def test_a_configuration_that_is_not_understood_is_refused(config: Any, message: str) -> None:
    with pytest.raises(attnbench.UserError, match=message):
        build("focal", config, (224, 224))


def test_arguments_that_change_no_output_are_taken() -> None:
    idle = {"img_size": 224, "use_checkpoint": True, "fused_window_process": False, "patch_size": (4, 4)}
    assert design("swin", idle) == design("swin", {})


def test_weights_that_are_no_tensors_by_name_are_refused() -> None:
    for wrong in (None, [torch.zeros(1)], {3: torch.zeros(1)}):
        with pytest.raises(attnbench.UserError, match=r"must be a mapping|not a tensor under a name"):
            attnbench.from_published("swin", SMALL["swin"], wrong, RESOLUTION)  # type: ignore[arg-type]


def test_an_unknown_kind_and_an_unknown_model_are_refused() -> None:
    with pytest.raises(attnbench.UserError, match="did you mean 'swin'"):
        design("swim", {})
    for name in ("focal_tinny", "timm:swin_tin_patch4_window7_224", "uniform:focal", "uniform:focl_nano"):
        with pytest.raises(attnbench.UserError, match=r"did you mean|uniform:<mechanism>_<size>"):
            models.create_model(name)


def test_models_by_name_are_what_they_say() -> None:
    uniform = models.create_model("uniform:pvt_nano", (64, 64), 5)
    published = models.create_model("pvt_v2_b0", (64, 64), 5)
    context = models.create_model("timm:deit_tiny_patch16_224", (64, 96), 5)
    images = torch.randn(1, 3, 64, 96)
    assert published(images).shape == context(images).shape == (1, 5)
    assert uniform(images).shape == (1, 5)


def test_a_model_runs_at_another_resolution_than_it_was_built_for() -> None:
    model = models.create_model("pvt_tiny", (64, 64), 5).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 96, 128)).isfinite().all()


def test_a_changed_argument_is_an_ablation() -> None:
    with torch.device("meta"):
        plain = models.create_model("focal_tiny")
        local = models.create_model("focal_tiny", focal_levels=[1, 1, 1, 1])
        shallow = models.create_model("focal_tiny", depths=[2, 2, 2, 2])
    counts = [sum(item.numel() for item in model.parameters()) for model in (plain, local, shallow)]
    assert counts[0] > counts[1] > counts[2]
