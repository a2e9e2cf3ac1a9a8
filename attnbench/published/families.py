"""Published configurations in their authors' words, and the architecture and mechanism that each of them means."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from attnbench.architecture import Architecture, Convolution, Merging
from attnbench.contract import STAGES
from attnbench.errors import UserError, unknown
from attnbench.layers import ClassificationHead, ClassTokenHead, ConvMlp, Mlp, RectifiedConvMlp
from attnbench.published.catalogue import KINDS, Config

STD = 0.02  # of initial linear weights in all of these models
EVERY = [0, 1, 2, 3]


@dataclass(frozen=True, slots=True)
class Design:
    """What a configuration means here."""

    architecture: Architecture
    mechanism: str
    settings: dict[str, Any]
    num_classes: int
    drop_path: float


# Arguments that are one thing in every published model; another value would be another model.
FIXED: Mapping[str, Any] = {
    "patch_size": 4,
    "in_chans": 3,
    "qk_scale": None,
    "patch_norm": True,
    "drop_rate": 0.0,
    "attn_drop_rate": 0.0,
    "num_stages": 4,
}
# Arguments that change no output: the resolution is given on its own, and checkpointing is a matter of training.
IDLE = ("img_size", "use_checkpoint", "fused_window_process", "pretrained", "norm_layer", "F4")

# The least value of an argument; of the entries of a list it is 1 otherwise.
LEAST: Mapping[str, float] = {
    "embed_dim": 1,
    "num_classes": 1,
    "window_size": 1,
    "focal_topK": 1,
    "mlp_ratio": 0.01,
    "mlp_ratios": 0.01,
    "expand_sizes": 0,
}


@dataclass(frozen=True)
class Focal:
    """Arguments of FocalTransformer, microsoft/Focal-Transformer, with their defaults there."""

    embed_dim: int = 96
    depths: list[int] = field(default_factory=lambda: [2, 2, 6, 2])
    num_heads: list[int] = field(default_factory=lambda: [3, 6, 12, 24])
    num_classes: int = 1000
    window_size: int = 7
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    ape: bool = False  # an absolute position embedding after the stem
    drop_path_rate: float = 0.1
    use_shift: bool = False
    focal_stages: list[int] = field(default_factory=lambda: EVERY)
    focal_levels: list[int] = field(default_factory=lambda: [2, 2, 2, 2])
    focal_windows: list[int] = field(default_factory=lambda: [7, 5, 3, 1])
    focal_pool: str = "fc"
    expand_stages: list[int] = field(default_factory=lambda: EVERY)
    expand_sizes: list[int] = field(default_factory=lambda: [3, 3, 3, 3])
    expand_layer: str = "all"
    use_conv_embed: bool = False
    use_layerscale: bool = False
    layerscale_value: float = 1e-4
    use_pre_norm: bool = False

    def levels(self) -> list[int]:
        """Return the levels of every stage, the fine one included."""
        pooled = self.focal_pool != "none"
        return [level if pooled and stage in self.focal_stages else 1 for stage, level in enumerate(self.focal_levels)]

    def expansions(self) -> list[int]:
        """Return the ring of every stage."""
        return [expand if stage in self.expand_stages else 0 for stage, expand in enumerate(self.expand_sizes)]

    def architecture(self) -> Architecture:
        """Return what surrounds the attention."""
        stem, merging = (Convolution(7, 4, 2), (3, 2, 1)) if self.use_conv_embed else (Convolution(4, 4), (2, 2, 0))
        return Architecture(
            tuple(self.embed_dim * 2**stage for stage in range(STAGES)),
            tuple(self.depths),
            tuple(self.num_heads),
            mlp_ratios=(self.mlp_ratio,) * STAGES,
            stem=stem,
            merging=Convolution(*merging, pre_norm=self.use_pre_norm),
            layer_scale=self.layerscale_value if self.use_layerscale else None,
            positions=(0,) if self.ape else (),
            weight_std=STD,
        )

    def design(self) -> Design:
        """Return what the configuration means here."""
        settings = {
            "window": self.window_size,
            "expand": self.expansions(),
            "levels": self.levels(),
            "focal_window": self.focal_windows,
            "pool": "fc" if self.focal_pool == "none" else self.focal_pool,
            "shift": self.use_shift,
            "expand_layer": self.expand_layer,
            "border": "wrapped",
            "qkv_bias": self.qkv_bias,
        }
        return Design(self.architecture(), "focal", settings, self.num_classes, self.drop_path_rate)


@dataclass(frozen=True)
class FocalFast(Focal):
    """Arguments of the second version of FocalTransformer, which has neither ring nor shift."""

    focal_topK: int = 128  # noqa: N815 (the authors' spelling)

    def design(self) -> Design:
        """Return what the configuration means here."""
        if self.use_shift:
            raise UserError("use_shift=True: the second version of Focal shifts no windows")
        settings = {
            "window": self.window_size,
            "topk": self.focal_topK,
            "levels": self.levels(),
            "pool": "fc" if self.focal_pool == "none" else self.focal_pool,
            "border": "attended",
            "qkv_bias": self.qkv_bias,
        }
        return Design(self.architecture(), "focal_fast", settings, self.num_classes, self.drop_path_rate)


@dataclass(frozen=True)
class Swin:
    """Arguments of SwinTransformer, microsoft/Swin-Transformer, with their defaults there."""

    embed_dim: int = 96
    depths: list[int] = field(default_factory=lambda: [2, 2, 6, 2])
    num_heads: list[int] = field(default_factory=lambda: [3, 6, 12, 24])
    num_classes: int = 1000
    window_size: int = 7
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    ape: bool = False  # an absolute position embedding after the stem
    drop_path_rate: float = 0.1
    use_shift: bool = True  # not an argument there: windows always shift; False is the paper's ablation

    def design(self) -> Design:
        """Return what the configuration means here."""
        architecture = Architecture(
            tuple(self.embed_dim * 2**stage for stage in range(STAGES)),
            tuple(self.depths),
            tuple(self.num_heads),
            mlp_ratios=(self.mlp_ratio,) * STAGES,
            stem=Convolution(4, 4),
            merging=Merging(),
            positions=(0,) if self.ape else (),
            weight_std=STD,
        )
        settings = {"window": self.window_size, "shift": self.use_shift, "border": "shrunk", "qkv_bias": self.qkv_bias}
        return Design(architecture, "swin", settings, self.num_classes, self.drop_path_rate)


@dataclass(frozen=True)
class Pvt:
    """Arguments of PyramidVisionTransformer, whai362/PVT, with their defaults there."""

    embed_dims: list[int] = field(default_factory=lambda: [64, 128, 256, 512])
    depths: list[int] = field(default_factory=lambda: [3, 4, 6, 3])
    num_heads: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    mlp_ratios: list[float] = field(default_factory=lambda: [4, 4, 4, 4])
    sr_ratios: list[int] = field(default_factory=lambda: [8, 4, 2, 1])
    qkv_bias: bool = False
    num_classes: int = 1000
    drop_path_rate: float = 0.0

    def architecture(self, **more: Any) -> Architecture:
        """Return what surrounds the attention."""
        return Architecture(
            tuple(self.embed_dims),
            tuple(self.depths),
            tuple(self.num_heads),
            mlp_ratios=tuple(self.mlp_ratios),
            norm_eps=1e-6,
            weight_std=STD,
            **more,
        )

    def design(self) -> Design:
        """Return what the configuration means here."""
        shape = {
            "stem": Convolution(4, 4),
            "merging": Convolution(2, 2),
            "positions": (0, 1, 2, 3),
            "class_token": True,
        }
        architecture = self.architecture(**shape, head=ClassTokenHead)
        settings = {"sr_ratio": self.sr_ratios, "border": "dropped", "qkv_bias": self.qkv_bias}
        return Design(architecture, "pvt", settings, self.num_classes, self.drop_path_rate)


@dataclass(frozen=True)
class PvtV2(Pvt):
    """Arguments of PyramidVisionTransformerV2, whai362/PVT, with their defaults there."""

    linear: bool = False

    def design(self) -> Design:
        """Return what the configuration means here."""
        mlp: type[Mlp] = RectifiedConvMlp if self.linear else ConvMlp
        shape = {"stem": Convolution(7, 4, 3), "merging": Convolution(3, 2, 1), "stage_norms": True}
        architecture = self.architecture(**shape, mlp=mlp, head=ClassificationHead)
        if self.linear:
            return Design(
                architecture, "pvt_linear", {"qkv_bias": self.qkv_bias}, self.num_classes, self.drop_path_rate
            )
        settings = {"sr_ratio": self.sr_ratios, "border": "dropped", "qkv_bias": self.qkv_bias}
        return Design(architecture, "pvt", settings, self.num_classes, self.drop_path_rate)


FAMILIES: Mapping[str, type[Focal | Swin | Pvt]] = {
    "focal": Focal,
    "focal_fast": FocalFast,
    "swin": Swin,
    "pvt": Pvt,
    "pvt_v2": PvtV2,
}


def design(kind: str, config: Mapping[str, Any]) -> Design:
    """Return what a configuration of ``kind``, by its authors' argument names, means here.

    Raises:
        UserError: an unknown kind or argument, a value of the wrong type, or one that no published model has.
    """
    if kind not in FAMILIES:
        raise unknown("kind", str(kind), KINDS)
    if not isinstance(config, Mapping):
        raise UserError(f"{kind}: the configuration must be a mapping from argument to value, not {config!r}")
    family = FAMILIES[kind]
    defaults = {item.name: item for item in fields(family)}
    arguments: Config = {}
    for name, value in config.items():
        if name in defaults:
            arguments[name] = _checked(kind, name, value, asdict(family())[name])
        elif name in FIXED:
            if value not in (FIXED[name], (FIXED[name],) * 2, [FIXED[name]] * 2):
                raise UserError(
                    f"{kind} with {name}={value!r} is not built here; published models have {FIXED[name]!r}"
                )
        elif name not in IDLE:
            raise unknown(f"argument of {kind}", name, [*defaults, *FIXED, *IDLE])
    return family(**arguments).design()


def _checked(kind: str, name: str, value: Any, default: Any) -> Any:
    """Return ``value`` in the type of ``default``; a list has as many entries as there are stages."""
    if isinstance(default, list):
        return _checked_list(kind, name, value)
    right = type(value) in (int, float) if isinstance(default, float) else type(value) is type(default)
    if not right:
        raise UserError(f"{kind}: {name} must be {type(default).__name__}, not {value!r}")
    if name in LEAST and not LEAST[name] <= value < math.inf:
        raise UserError(f"{kind}: {name} must be at least {LEAST[name]}, not {value!r}")
    if name == "drop_path_rate" and not 0 <= value < 1:
        raise UserError(f"{kind}: drop_path_rate must lie between 0 and 1, not {value!r}")
    return float(value) if isinstance(default, float) else value


def _checked_list(kind: str, name: str, value: Any) -> list[Any]:
    number = (int, float) if name == "mlp_ratios" else (int,)
    if not isinstance(value, list | tuple) or any(type(item) not in number for item in value):
        raise UserError(f"{kind}: {name} must be a list of {'' if len(number) > 1 else 'whole '}numbers, not {value!r}")
    if name in ("focal_stages", "expand_stages"):
        return list(value)
    if len(value) != STAGES:
        raise UserError(f"{kind}: {name} must be {STAGES} numbers, one per stage, not {value!r}")
    if not all(LEAST.get(name, 1) <= item < math.inf for item in value):
        raise UserError(f"{kind}: {name} must all be at least {LEAST.get(name, 1)}, not {value!r}")
    return list(value)
