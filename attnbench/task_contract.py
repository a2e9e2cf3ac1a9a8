"""What a task promises: data, a head, a loss and a score. Not ``task.py``, which would hide the public decorator."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

Split = Literal["train", "val"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Images (B, 3, H, W), float32, normalised, with the task's own targets."""

    images: "Tensor"
    targets: Any


class Score(Protocol):
    """Collects outputs and says how good they were."""

    def update(self, outputs: Any, targets: Any) -> None:
        """Take one batch of the model's outputs."""

    def compute(self) -> dict[str, float]:
        """Return metrics by name (see ``METRICS``), the task's headline among them."""


class Task(Protocol):
    """One way to try a backbone. Changed data has a new identity, so that old results stay comparable."""

    headline: str  # a key of METRICS
    identity: str  # of the data: name and version, or a hash of the folder's content
    num_classes: int
    train_images: int  # how many there are

    def __init__(self, data: str | None) -> None:
        """Open the data at ``data``, or the embedded data; what is missing or malformed is a ``UserError``."""

    @staticmethod
    def head(channels: tuple[int, ...], num_classes: int) -> "nn.Module":
        """Return the module that turns four (B, H_i, W_i, C_i) maps into outputs; costs need it without any data."""

    def batches(
        self,
        split: Split,
        resolution: tuple[int, int],
        batch_size: int,
        seed: int,
        *,
        samples: int | None = None,
        scale: float = 1.0,
        workers: int = 0,
    ) -> Iterator[Batch]:
        """Yield batches at ``resolution`` (H, W), the same for the same arguments, whatever ``workers`` is.

        Training draws ``samples`` images, shuffled and augmented, cropped to no less than ``scale`` of their area,
        the last batch full; validation goes once through the split in order.
        """

    def loss(self, outputs: Any, targets: Any, label_smoothing: float) -> "Tensor":
        """Return the scalar training loss."""

    def score(self) -> Score:
        """Return an empty score."""
