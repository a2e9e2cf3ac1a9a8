"""The published models, as data: a kind, and a configuration by its authors' argument names. Standard library only.

Sources: microsoft/Focal-Transformer configs/, microsoft/Swin-Transformer configs/, whai362/PVT classification/pvt.py
and pvt_v2.py; drop path is a matter of training and follows those files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from attnbench.errors import unknown

Kind = Literal["focal", "focal_fast", "swin", "pvt", "pvt_v2"]
KINDS: tuple[Kind, ...] = get_args(Kind)

Config = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Published:
    """One published model."""

    kind: Kind
    config: Config


# Width, depths, heads and drop path of the sizes that Swin introduced and Focal took over.
_SIZES: Mapping[str, Config] = {
    "tiny": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "drop_path_rate": 0.2},
    "small": {"embed_dim": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24], "drop_path_rate": 0.3},
    "base": {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "drop_path_rate": 0.5},
    "large": {"embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48], "drop_path_rate": 0.5},
}
_FOCAL: Config = {
    "window_size": 7,
    "focal_pool": "fc",
    "focal_levels": [2, 2, 2, 2],
    "focal_windows": [7, 5, 3, 1],
    "expand_sizes": [3, 3, 3, 3],
}
_PVT: Config = {"num_heads": [1, 2, 5, 8], "mlp_ratios": [8, 8, 4, 4], "sr_ratios": [8, 4, 2, 1], "qkv_bias": True}
_PVT_DEPTHS: Mapping[str, list[int]] = {
    "tiny": [2, 2, 2, 2],
    "small": [3, 4, 6, 3],
    "medium": [3, 4, 18, 3],
    "large": [3, 8, 27, 3],
}
_PVT_V2: Mapping[str, Config] = {
    "b0": {"embed_dims": [32, 64, 160, 256], "depths": [2, 2, 2, 2]},
    "b1": {"embed_dims": [64, 128, 320, 512], "depths": [2, 2, 2, 2]},
    "b2": {"embed_dims": [64, 128, 320, 512], "depths": [3, 4, 6, 3]},
    "b2_li": {"embed_dims": [64, 128, 320, 512], "depths": [3, 4, 6, 3], "linear": True},
    "b3": {"embed_dims": [64, 128, 320, 512], "depths": [3, 4, 18, 3]},
    "b4": {"embed_dims": [64, 128, 320, 512], "depths": [3, 8, 27, 3]},
    "b5": {"embed_dims": [64, 128, 320, 512], "depths": [3, 6, 40, 3], "mlp_ratios": [4, 4, 4, 4]},
}


def _models() -> dict[str, Published]:
    found: dict[str, Published] = {}
    for size in ("tiny", "small", "base"):
        found[f"focal_{size}"] = Published("focal", _SIZES[size] | _FOCAL)
        found[f"focal_{size}_conv_embed"] = Published("focal", _SIZES[size] | _FOCAL | {"use_conv_embed": True})
        fast = _SIZES[size] | _FOCAL | {"focal_topK": 128, "use_conv_embed": True}
        found[f"focal_fast_{size}_conv_embed"] = Published("focal_fast", fast)
    for size, config in _SIZES.items():
        found[f"swin_{size}"] = Published("swin", config | {"window_size": 7})
    for size, depths in _PVT_DEPTHS.items():
        widths: Config = {"patch_size": 4, "embed_dims": [64, 128, 320, 512], "depths": depths}
        found[f"pvt_{size}"] = Published("pvt", _PVT | widths)
    for size, config in _PVT_V2.items():
        found[f"pvt_v2_{size}"] = Published("pvt_v2", _PVT | config)
    return found


MODELS: Mapping[str, Published] = _models()


def published(name: str) -> Published:
    """Return the published model of that name; an unknown one is a ``UserError``."""
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    return MODELS[name]
