"""Channels-last building blocks of the backbone: stem, patch merging, MLP, classification head."""

import torch.nn.functional as F
from torch import Tensor, nn

STEM = 4  # pixels to a token's side in stage 0
MLP_RATIO = 4


class Stem(nn.Module):
    """Embed patches of 4 x 4 pixels, then normalise them (Swin Transformer, arXiv 2103.14030, section 3.1)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, STEM, stride=STEM)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, ceil(H / 4), ceil(W / 4), C); the image is zero-padded at the bottom and right."""
        bottom, right = -images.shape[2] % STEM, -images.shape[3] % STEM
        padded = F.pad(images, (0, right, 0, bottom)) if bottom or right else images
        tokens: Tensor = self.norm(self.proj(padded).permute(0, 2, 3, 1))
        return tokens


class PatchMerging(nn.Module):
    """Join 2 x 2 tokens into one of twice the width (Swin Transformer, arXiv 2103.14030, section 3.1)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, ceil(H / 2), ceil(W / 2), 2C); an odd map is zero-padded at the bottom and right."""
        bottom, right = x.shape[1] % 2, x.shape[2] % 2
        padded = F.pad(x, (0, 0, 0, right, 0, bottom)) if bottom or right else x
        batch, height, width, dim = padded.shape
        quads = padded.reshape(batch, height // 2, 2, width // 2, 2, dim)
        # The published order of the four: columns outside, rows inside.
        joined = quads.permute(0, 1, 3, 4, 2, 5).flatten(3)  # (B, H/2, W/2, 4C)
        merged: Tensor = self.reduction(self.norm(joined))
        return merged


class Mlp(nn.Module):
    """Two linear layers with GELU between, four times as wide inside."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim)
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class ClassificationHead(nn.Module):
    """Normalise the last stage's tokens, average them, classify."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Map four (B, H_i, W_i, C_i) to logits (B, num_classes)."""
        logits: Tensor = self.fc(self.norm(maps[-1]).mean((1, 2)))
        return logits

    def macs(self) -> int:
        """Return the MACs of one image: the classifier's."""
        return self.fc.in_features * self.fc.out_features
