"""Where the authors' weights go: a table per kind, from their keys to ours. Data, standard library only."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from attnbench.published.catalogue import Kind

Reading = Literal["as it is", "map", "map after the first", "first"]


@dataclass(frozen=True, slots=True)
class Rule:
    """The authors' key and ours, with the same placeholders, and how the tensor is read.

    ``map``: (1, H * W, C) is (1, H, W, C). ``first`` and ``map after the first``: the class token comes before it.
    """

    theirs: str
    ours: str
    reading: Reading = "as it is"


_WINDOWED = (
    Rule("absolute_pos_embed", "positions.0", "map"),
    Rule("patch_embed.{rest}", "stem.{rest}"),
    Rule("layers.{stage}.downsample.{rest}", "merging.{stage}.{rest}"),
    Rule("layers.{stage}.blocks.{block}.pool_layers.{rest}", "blocks.{stage}.{block}.attn.pool_layers.{rest}"),
    Rule("layers.{stage}.blocks.{block}.gamma_{branch}", "blocks.{stage}.{block}.scale{branch}.gamma"),
    Rule("layers.{stage}.blocks.{block}.{rest}", "blocks.{stage}.{block}.{rest}"),
    Rule("norm.{rest}", "head.norm.{rest}"),
    Rule("head.{rest}", "head.fc.{rest}"),
)
_PYRAMID = (
    Rule("patch_embed1.{rest}", "stem.{rest}"),
    Rule("patch_embed2.{rest}", "merging.0.{rest}"),
    Rule("patch_embed3.{rest}", "merging.1.{rest}"),
    Rule("patch_embed4.{rest}", "merging.2.{rest}"),
)
_PYRAMID_BLOCKS = (
    Rule("block1.{block}.{rest}", "blocks.0.{block}.{rest}"),
    Rule("block2.{block}.{rest}", "blocks.1.{block}.{rest}"),
    Rule("block3.{block}.{rest}", "blocks.2.{block}.{rest}"),
    Rule("block4.{block}.{rest}", "blocks.3.{block}.{rest}"),
    Rule("head.{rest}", "head.fc.{rest}"),
)
_PVT = (
    *_PYRAMID,
    *_PYRAMID_BLOCKS,
    Rule("pos_embed1", "positions.0", "map"),
    Rule("pos_embed2", "positions.1", "map"),
    Rule("pos_embed3", "positions.2", "map"),
    Rule("pos_embed4", "positions.3", "map after the first"),
    Rule("pos_embed4", "class_position", "first"),
    Rule("cls_token", "class_token"),
    Rule("norm.{rest}", "head.norm.{rest}"),
)
_PVT_V2 = (
    *_PYRAMID,
    Rule("block1.{block}.mlp.dwconv.dwconv.{rest}", "blocks.0.{block}.mlp.dwconv.{rest}"),
    Rule("block2.{block}.mlp.dwconv.dwconv.{rest}", "blocks.1.{block}.mlp.dwconv.{rest}"),
    Rule("block3.{block}.mlp.dwconv.dwconv.{rest}", "blocks.2.{block}.mlp.dwconv.{rest}"),
    Rule("block4.{block}.mlp.dwconv.dwconv.{rest}", "blocks.3.{block}.mlp.dwconv.{rest}"),
    *_PYRAMID_BLOCKS,
    Rule("norm1.{rest}", "norms.0.{rest}"),
    Rule("norm2.{rest}", "norms.1.{rest}"),
    Rule("norm3.{rest}", "norms.2.{rest}"),
    Rule("norm4.{rest}", "head.norm.{rest}"),
)
RULES: Mapping[Kind, tuple[Rule, ...]] = {
    "focal": _WINDOWED,
    "focal_fast": _WINDOWED,
    "swin": _WINDOWED,
    "pvt": _PVT,
    "pvt_v2": _PVT_V2,
}
PLACEHOLDERS: Mapping[str, str] = {"stage": r"\d", "block": r"\d+", "branch": "[12]", "rest": ".+"}
# Buffers of real checkpoints: index tables and masks, which we make for ourselves.
BUFFERS = re.compile(
    r"(.+\.)?(relative_position_index|attn_mask|valid_ind_|topk_|window_coords|unfold)[^.]*(\..+)?", re.IGNORECASE
)


def ours(kind: Kind, key: str) -> list[tuple[str, Reading]]:
    """Return where the authors' ``key`` goes and how it is read; nothing for a key that no rule knows."""
    for rule in RULES[kind]:
        found = _match(rule.theirs, key)
        if found is not None:
            same = (other for other in RULES[kind] if other.theirs == rule.theirs)
            return [(other.ours.format(**found), other.reading) for other in same]
    return []


def theirs(kind: Kind, name: str) -> str:
    """Return the authors' key of our ``name``."""
    for rule in RULES[kind]:
        found = _match(rule.ours, name)
        if found is not None:
            return rule.theirs.format(**found)
    return name


def _match(template: str, key: str) -> dict[str, str] | None:
    match = _pattern(template).fullmatch(key)
    return match.groupdict() if match else None


@cache
def _pattern(template: str) -> re.Pattern[str]:
    pattern = re.escape(template)
    for name, expression in PLACEHOLDERS.items():
        pattern = pattern.replace(rf"\{{{name}\}}", f"(?P<{name}>{expression})")
    return re.compile(pattern)
