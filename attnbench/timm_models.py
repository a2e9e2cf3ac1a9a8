"""The published models among timm's: after ``import attnbench.timm_models`` each is ``attnbench_<name>`` there.

``timm.create_model("attnbench_focal_tiny", img_size=512, features_only=True)`` gives maps (B, C, H, W) at strides 4, 8,
16 and 32. The image size is the one that a model is built for; it runs at others too.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, is_model, register_model
from timm.models._features import feature_take_indices
from timm.models._manipulate import MATCH_PREV_GROUP
from torch import Tensor, nn

from attnbench import models
from attnbench.backbone import Backbone
from attnbench.contract import STAGES
from attnbench.errors import UserError

PREFIX = "attnbench_"
STRIDES = (4, 8, 16, 32)
POOLS = {True: ("token", "avg", ""), False: ("avg", "")}  # with a class token, without
# Parameters whose size is no measure of what they do; the authors exempt them from weight decay.
UNDECAYED = ("positions.", "class_token", "class_position", "relative_position_bias_table")


class TimmModel(nn.Module):
    """A published model as timm expects one: features, pooling, a classifier that can be replaced.

    Args:
        name: a published model.
        img_size: side, or (H, W), in pixels that it is built for.
        num_classes: outputs of the classifier; 0 for none.
        in_chans: 3; another number is a ``UserError``.
        global_pool: ``avg``, ``token`` where there is a class token, or empty for none.
        drop_rate: of dropout before the classifier.
        drop_path_rate: of the last block's stochastic depth; None for the published one.
        changes: other values for arguments of the published configuration, by the authors' names.
    """

    output_fmt = "NHWC"  # of forward_features, tokens (B, 1 + N, C) aside

    def __init__(
        self,
        name: str,
        img_size: int | tuple[int, int] = 224,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float | None = None,
        **changes: Any,
    ) -> None:
        super().__init__()
        if in_chans != 3:
            raise UserError(f"in_chans={in_chans}: the published models take images of 3 channels")
        resolution = (img_size, img_size) if isinstance(img_size, int) else (img_size[0], img_size[1])
        rate = {} if drop_path_rate is None else {"drop_path": drop_path_rate}
        backbone = cast(Backbone, models.create_model(name, resolution, max(num_classes, 1), **rate, **changes))
        self.feature_info = [
            {"num_chs": channels, "reduction": stride, "module": f"backbone.blocks.{stage}"}
            for stage, (channels, stride) in enumerate(zip(backbone.channels, STRIDES, strict=True))
        ]
        self.num_features = self.head_hidden_size = backbone.channels[-1]
        self.has_token = backbone.architecture.class_token
        self.normed_stages = backbone.architecture.stage_norms
        self.num_classes = num_classes
        self.global_pool = self._pool(global_pool)
        published = cast(Any, backbone.head)
        self.norm: nn.Module = published.norm
        self.head_drop = nn.Dropout(drop_rate)
        self.head: nn.Module = published.fc if num_classes > 0 else nn.Identity()
        backbone.head = nn.Identity()
        self.backbone = backbone

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Map images (B, 3, H, W) to the maps (B, C_i, H_i, W_i) of the stages, and what forward_features gives.

        PVTv2's norms belong to its stages, so its maps are normalised in any case; ``norm`` normalises the last stage's
        map elsewhere. ``stop_early`` saves nothing here; stages that are not needed can be pruned.
        """
        del stop_early
        if output_fmt not in ("NCHW", "NHWC"):
            raise UserError(f"output_fmt must be NCHW or NHWC, not {output_fmt!r}")
        taken, _ = feature_take_indices(len(self.backbone.blocks), indices)
        maps, token = self.backbone.features(x)
        chosen = [self._normed(stage, maps[stage], norm) for stage in range(len(maps)) if stage in taken]
        if output_fmt == "NCHW":
            chosen = [each.permute(0, 3, 1, 2).contiguous() for each in chosen]
        return chosen if intermediates_only else (self._final(maps, token), chosen)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last of ``indices``, and what else is not needed for them; return them."""
        taken, last = feature_take_indices(len(self.backbone.blocks), indices)
        shortened = last < STAGES - 1
        for name, count in (("blocks", last + 1), ("merging", last), ("positions", last + 1), ("norms", last + 1)):
            setattr(self.backbone, name, getattr(self.backbone, name)[:count])
        if shortened and self.has_token:
            del self.backbone.class_token, self.backbone.class_position
        if shortened or (prune_norm and not self.normed_stages):
            self.norm = nn.Identity()
        if shortened:
            self.num_features = self.head_hidden_size = self.backbone.channels[last]
        if shortened or prune_head:
            self.reset_classifier(0)
        return cast(list[int], taken)

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to the normalised last map (B, H', W', C), or with a class token (B, 1 + N, C)."""
        return self._final(*self.backbone.features(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map what forward_features gives to logits (B, num_classes), or to what the classifier sees."""
        if self.global_pool == "token":
            x = x[:, 0]
        elif self.global_pool:
            x = x[:, 1:].mean(1) if self.has_token else x.mean((1, 2))
        x = self.head_drop(x)
        out: Tensor = x if pre_logits else self.head(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """Return the last linear layer, or an identity."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new classifier in place; 0 classes for none."""
        self.num_classes = num_classes
        self.global_pool = self.global_pool if global_pool is None else self._pool(global_pool)
        like = next(self.parameters())
        new = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype) if num_classes else None
        if new is not None and not like.is_meta:
            nn.init.trunc_normal_(new.weight, std=self.backbone.architecture.weight_std or 0.02)
            nn.init.zeros_(new.bias)
        self.head = new or nn.Identity()

    def no_weight_decay(self) -> set[str]:
        """Return the names of position embeddings, class tokens and relative position tables."""
        return {name for name, _ in self.named_parameters() if any(part in name for part in UNDECAYED)}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return how parameters fall into layers, from the stem up, for learning rates that decay with depth."""
        stem = r"^backbone\.(?:stem|class_)"
        if coarse:
            return {"stem": stem, "blocks": r"^backbone\.(?:blocks|positions|norms|merging)\.(\d+)"}
        blocks = [(r"^backbone\.blocks\.(\d+)\.(\d+)", None), (r"^backbone\.positions\.(\d+)", (0,))]
        after = [(r"^backbone\.(?:norms|merging)\.(\d+)", MATCH_PREV_GROUP), (r"^(?:norm|head)", MATCH_PREV_GROUP)]
        return {"stem": stem, "blocks": blocks + after}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Refuse what is not built here."""
        if enable:
            raise UserError("gradient checkpointing is not built for attnbench's models")

    def _pool(self, wanted: str | None) -> str:
        pools = POOLS[self.has_token]
        if wanted is not None and wanted not in pools:
            raise UserError(f"global_pool must be one of {', '.join(map(repr, pools))}, not {wanted!r}")
        return pools[0] if wanted is None else wanted

    def _normed(self, stage: int, x: Tensor, norm: bool) -> Tensor:
        last = stage == STAGES - 1
        if self.normed_stages and not last:
            return cast(Tensor, self.backbone.norms[stage](x))
        return cast(Tensor, self.norm(x)) if last and (norm or self.normed_stages) else x

    def _final(self, maps: list[Tensor], token: Tensor | None) -> Tensor:
        final = maps[-1] if token is None else torch.cat([token, maps[-1].flatten(1, 2)], dim=1)
        return cast(Tensor, self.norm(final))


def _entry_point(name: str) -> Callable[..., nn.Module]:
    """Return the function that timm calls to make ``attnbench_<name>``."""

    def create(pretrained: bool = False, **options: Any) -> nn.Module:
        if pretrained:
            raise UserError(
                f"{PREFIX}{name}: nothing is downloaded here; load the authors' file with attnbench.from_published"
            )
        features = {"out_indices": tuple(range(STAGES)), "feature_cls": "getter"}
        variant = PREFIX + name
        made: nn.Module = build_model_with_cfg(TimmModel, variant, False, feature_cfg=features, name=name, **options)
        return made

    create.__name__ = create.__qualname__ = PREFIX + name
    create.__doc__ = f"Make {name}, see :class:`TimmModel`."
    return create


default_cfgs = generate_default_cfgs(
    {
        PREFIX + name: {
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "min_input_size": (3, 32, 32),
            "fixed_input_size": False,
            "pool_size": (7, 7),
            "crop_pct": 0.875,
            "interpolation": "bicubic",
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "first_conv": "backbone.stem.proj",
            "classifier": "head",
        }
        for name in models.names()
    }
)

for _name in models.names():
    if not is_model(PREFIX + _name):  # another import under the same name, by reload, changes nothing
        globals()[PREFIX + _name] = register_model(_entry_point(_name))
