"""Channels-last building blocks of the backbone: patch embeddings, patch merging, MLPs, layer scale, heads."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnbench import training_conv_mlp, training_mlp
from attnbench.linear import Linear
from attnbench.norms import GroupNorm, LayerNorm


class Convolution(nn.Conv2d):
    """A convolution that puts out channels-last maps, of images in any order: what follows need not turn them."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not x.is_contiguous(memory_format=torch.channels_last):
            weight = weight.contiguous(memory_format=torch.channels_last)
        out: Tensor = super()._conv_forward(x, weight, bias)
        return out


class PatchEmbedding(nn.Module):
    """Embed patches by a strided convolution, then normalise them; patches that do not fit the map are left out.

    ViT, arXiv 2010.11929, equation 1; overlapping patches: PVTv2, arXiv 2106.13797, section 3.2. ``pre_norm``
    normalises the map first, over tokens and channels together, as Focal's authors do.
    """

    def __init__(self, channels: int, dim: int, kernel: int, stride: int, padding: int, pre_norm: bool = False) -> None:
        super().__init__()
        self.pre_norm = GroupNorm(1, channels) if pre_norm else nn.Identity()
        self.proj = Convolution(channels, dim, kernel, stride=stride, padding=padding)
        self.norm = LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, channels) to (B, H', W', C)."""
        # A channels-last map seen as NCHW is what the convolution takes without a copy, and so are images seen as BHWC.
        tokens: Tensor = self.norm(self.proj(self.pre_norm(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1))
        return tokens


class WholePatchEmbedding(PatchEmbedding):
    """Embed patches that do not overlap; the map is zero-padded at the bottom and right, so that none is left out."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, channels) to (B, ceil(H / stride), ceil(W / stride), C)."""
        return super().forward(pad_to_multiple(x, self.proj.stride[0]))


class PatchMerging(nn.Module):
    """Join 2 x 2 tokens into one (Swin Transformer, arXiv 2103.14030, section 3.1)."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.norm = LayerNorm(4 * channels)
        self.reduction = Linear(4 * channels, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, ceil(H / 2), ceil(W / 2), C'); an odd map is zero-padded at the bottom and right."""
        padded = pad_to_multiple(x, 2)
        batch, height, width, dim = padded.shape
        quads = padded.reshape(batch, height // 2, 2, width // 2, 2, dim)
        # The published order of the four: columns outside, rows inside.
        joined = quads.permute(0, 1, 3, 4, 2, 5).flatten(3)  # (B, H/2, W/2, 4C)
        merged: Tensor = self.reduction(self.norm(joined))
        return merged


class Mlp(nn.Module):
    """Two linear layers with GELU between, ``ratio`` times as wide inside."""

    def __init__(self, dim: int, ratio: float) -> None:
        super().__init__()
        # Others may be put in their place.
        self.fc1: nn.Linear = Linear(dim, int(ratio * dim))
        self.fc2: nn.Linear = Linear(int(ratio * dim), dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        if training_mlp.fits(x, self.fc1, self.fc2):
            return training_mlp.transform(x, self.fc1, self.fc2)
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out

    def macs(self, tokens: int) -> int:
        """Return the MACs of ``tokens`` tokens."""
        return 2 * tokens * self.fc1.in_features * self.fc1.out_features


class ConvMlp(Mlp):
    """An MLP with a depthwise 3 x 3 convolution before its GELU (PVTv2, arXiv 2106.13797, section 3.3)."""

    rectified = False

    def __init__(self, dim: int, ratio: float) -> None:
        super().__init__(dim, ratio)
        self.dwconv = nn.Conv2d(
            self.fc1.out_features, self.fc1.out_features, 3, padding=1, groups=self.fc1.out_features
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        if training_conv_mlp.fits(x, self.fc1, self.dwconv, self.fc2):
            return training_conv_mlp.transform(x, self.fc1, self.dwconv, self.fc2, self.rectified)
        inside = F.relu(self.fc1(x)) if self.rectified else self.fc1(x)
        mixed = self.dwconv(inside.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out: Tensor = self.fc2(F.gelu(mixed))
        return out

    def macs(self, tokens: int) -> int:
        """Return the MACs of ``tokens`` tokens."""
        return super().macs(tokens) + 9 * tokens * self.fc1.out_features


class RectifiedConvMlp(ConvMlp):
    """A :class:`ConvMlp` with ReLU before the convolution, of PVTv2's linear variant, where it steadies training."""

    rectified = True


class LayerScale(nn.Module):
    """Scale each channel by a learned factor (CaiT, arXiv 2103.17239, equation 8)."""

    def __init__(self, dim: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), start))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        return x * self.gamma


class ClassificationHead(nn.Module):
    """Normalise the last stage's tokens, average them, classify."""

    def __init__(self, channels: int, num_classes: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = LayerNorm(channels, eps)
        self.fc = Linear(channels, num_classes)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Map four (B, H_i, W_i, C_i) to logits (B, num_classes)."""
        logits: Tensor = self.fc(self.norm(maps[-1]).mean((1, 2)))
        return logits

    def macs(self) -> int:
        """Return the MACs of one image: the classifier's."""
        return self.fc.in_features * self.fc.out_features


class ClassTokenHead(ClassificationHead):
    """Normalise the class token and classify it (ViT, arXiv 2010.11929, equation 4)."""

    def forward_token(self, token: Tensor) -> Tensor:
        """Map (B, 1, C) to logits (B, num_classes)."""
        logits: Tensor = self.fc(self.norm(token[:, 0]))
        return logits


def pad_to_multiple(x: Tensor, step: int) -> Tensor:
    """Zero-pad (B, H, W, C) at the bottom and right to multiples of ``step``."""
    bottom, right = -x.shape[1] % step, -x.shape[2] % step
    return F.pad(x, (0, 0, 0, right, 0, bottom)) if bottom or right else x
