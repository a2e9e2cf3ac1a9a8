"""Semantic FPN: a feature pyramid whose levels are brought to stride 4 and added (Kirillov et al., arXiv 1901.02446).

The decoder is segmentation-models-pytorch's. It leaves out the 3 x 3 convolution that a feature pyramid ends each level
with (Lin et al., arXiv 1612.03144, section 3), which the published counts (PVT, arXiv 2102.12122, table 5) include; it
is added here.
"""

import torch.nn.functional as F
from torch import Tensor, nn

WIDE = 64  # channels of the first stage from which on a backbone counts as tiny or larger


class SemanticFpn(nn.Module):
    """Decoder and classifier, behind one norm per stage map."""

    def __init__(self, channels: tuple[int, ...], num_classes: int) -> None:
        from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder  # takes seconds

        super().__init__()
        pyramid = 256 if channels[0] >= WIDE else 64
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for dim in channels)
        self.decoder = FPNDecoder(
            list(channels), encoder_depth=4, pyramid_channels=pyramid, segmentation_channels=128, dropout=0.1
        )
        self.decoder.seg_blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(pyramid, pyramid, 3, padding=1), block) for block in self.decoder.seg_blocks
        )
        self.classifier = nn.Conv2d(self.decoder.out_channels, num_classes, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Map four (B, H_i, W_i, C_i) to logits (B, num_classes, H_0, W_0)."""
        rows, columns = (8 * side for side in maps[-1].shape[1:3])
        features = []
        for stage, (norm, x) in enumerate(zip(self.norms, maps, strict=True)):
            feature = norm(x).permute(0, 3, 1, 2)
            # The decoder doubles each level exactly; maps of odd images are zero-padded to that.
            bottom, right = (rows >> stage) - x.shape[1], (columns >> stage) - x.shape[2]
            features.append(F.pad(feature, (0, right, 0, bottom)) if bottom or right else feature)
        logits: Tensor = self.classifier(self.decoder(features))
        return logits[:, :, : maps[0].shape[1], : maps[0].shape[2]]

    def train_logits(self, maps: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return the logits of :meth:`forward`; there is no auxiliary head."""
        return self(maps), None
