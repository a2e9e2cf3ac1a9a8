"""From the model keys of the reported numbers to the names under which attnbench builds the models."""

from typing import Any, Final

TIMM_PREFIX: Final = "timm:"
REFERENCE: Final = "swin_tiny"  # what throughput ratios are taken to

# Context models that timm has: not this project's, but measured with the same counters.
_TIMM: Final = {
    "deit_tiny": "deit_tiny_patch16_224",
    "deit_small": "deit_small_patch16_224",
    "deit_base": "deit_base_patch16_224",
    "vit_small": "vit_small_patch16_224",
    "vit_base": "vit_base_patch16_224",
    "vit_large": "vit_large_patch16_224",
    "resnet_50": "resnet50",
    "resnet_101": "resnet101",
    "resnet_152": "resnet152",
    **{
        f"twins_{kind}_{size}": f"twins_{kind}_{size}"
        for kind in ("pcpvt", "svt")
        for size in ("small", "base", "large")
    },
    **{
        f"focalnet_{size}_{kind}": f"focalnet_{size}_{kind}"
        for size in ("tiny", "small", "base")
        for kind in ("srf", "lrf")
    },
}
# Models that this project builds and no source here prints under that name: how they are called on paper.
_UNPRINTED: Final = {"swin_large": "Swin-Large"}
_FAST: Final = "focal_fast_"
# At these input sides the published model has other settings than its namesake at 224.
_CHANGES: Final[dict[tuple[str, int], dict[str, Any]]] = {("swin_base", 384): {"window_size": 12}}
# One key, two architectures: this source lists a model of 48.8 M parameters, twice what timm builds under the name.
_UNLIKE: Final = {("vit_small", "as cited in PVT"): "vit_small_as_cited_in_pvt"}


def model_name(model_key: str, variant: str = "") -> str:
    """Return the name of a row's model: one that attnbench builds, or ``timm:...``, or else the key itself."""
    if (model_key, variant) in _UNLIKE:
        return _UNLIKE[model_key, variant]
    if model_key in _TIMM:
        return TIMM_PREFIX + _TIMM[model_key]
    if model_key.startswith(_FAST):  # the authors released the second version with convolutional embedding only
        return f"{model_key}_conv_embed"
    if model_key.startswith("focal_") and _has_conv_embed(variant):
        return f"{model_key}_conv_embed"
    return model_key.replace("pvtv2_", "pvt_v2_")


def model_label(model: str, model_key: str, variant: str = "", pretrain: str | None = "ImageNet-1K") -> str:
    """Return how a row's model is called on paper, with what sets it apart from its namesakes."""
    details = []
    if _has_conv_embed(variant):
        details.append("conv embed")
    if model_key.startswith("vil_") and "relative" in variant:
        details.append("relative bias")
    if (model_key, variant) in _UNLIKE:
        details.append(variant)
    if pretrain not in (None, "ImageNet-1K"):
        details.append(f"from {pretrain}")
    # Two sources spell one ViT differently; rows are joined by label.
    return ", ".join([model.replace("ViT-B/16", "ViT-Base/16").replace("ViT-L/16", "ViT-Large/16"), *details])


def is_context(name: str) -> bool:
    """Tell whether a name says how to build a model that is none of the published ones: ``timm:`` or ``uniform:``."""
    return name.startswith((TIMM_PREFIX, "uniform:"))


def label_of(name: str) -> str:
    """Return how a model without a printed row is called."""
    return _UNPRINTED.get(name, name)


def changes_at(name: str, side: int) -> dict[str, Any]:
    """Return the settings that the published model has at this input side, where they differ from those at 224."""
    return dict(_CHANGES.get((name, side), {}))


def _has_conv_embed(variant: str) -> bool:
    return "conv embed" in variant and "no conv embed" not in variant
