"""UperNet: pyramid pooling on the last stage, a feature pyramid, one fusion (Xiao et al., arXiv 1807.10221, section 3).

The decoder is segmentation-models-pytorch's. The auxiliary head on stage 3 and its widths are those that Swin and Focal
train with (arXiv 2103.14030, appendix A2.3; mmsegmentation's configuration of UperNet).
"""

from torch import Tensor, nn

from attnbench.errors import UnsupportedError

WIDE = 64  # channels of the first stage from which on a backbone counts as tiny or larger
AUXILIARY_STAGE = 2


class UperNet(nn.Module):
    """Decoder, classifier and auxiliary head, behind one norm per stage map."""

    def __init__(self, channels: tuple[int, ...], num_classes: int) -> None:
        from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder  # takes seconds

        super().__init__()
        width, auxiliary = (512, 256) if channels[0] >= WIDE else (128, 64)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for dim in channels)
        # The library counts maps from the image on: it skips the first two, at strides 1 and 2.
        self.decoder = UPerNetDecoder((0, 0, *channels), encoder_depth=5, decoder_channels=width)
        self.decoder.feature_norms = nn.ModuleList(nn.Identity() for _ in channels)  # its own are ours
        self.classifier = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(width, num_classes, 1))
        self.auxiliary = nn.Sequential(
            nn.Conv2d(channels[AUXILIARY_STAGE], auxiliary, 3, padding=1, bias=False),
            nn.BatchNorm2d(auxiliary),
            nn.ReLU(),
            nn.Dropout2d(0.1),
            nn.Conv2d(auxiliary, num_classes, 1),
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Map four (B, H_i, W_i, C_i) to logits (B, num_classes, H_0, W_0), without the auxiliary head.

        Raises:
            UnsupportedError: one image in training mode.
        """
        return self._decoded(self._normalised(maps))

    def train_logits(self, maps: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return the logits of :meth:`forward` and the auxiliary head's (B, num_classes, H_2, W_2)."""
        features = self._normalised(maps)
        return self._decoded(features), self.auxiliary(features[AUXILIARY_STAGE])

    def _normalised(self, maps: list[Tensor]) -> list[Tensor]:
        return [norm(x).permute(0, 3, 1, 2) for norm, x in zip(self.norms, maps, strict=True)]

    def _decoded(self, features: list[Tensor]) -> Tensor:
        if self.training and len(features[0]) == 1:
            # Batch norm on the map pooled to 1 x 1 has one value per channel then, and no variance.
            raise UnsupportedError("upernet cannot train on batches of one image; take two or more, or semantic_fpn")
        logits: Tensor = self.classifier(self.decoder([features[0], features[0], *features]))
        return logits
