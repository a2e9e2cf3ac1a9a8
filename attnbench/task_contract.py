"""What a task promises: data, a head, a loss and a score. Not ``task.py``, which would hide the public decorator."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from attnbench.recipe import Recipe

Split = Literal["train", "val"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Images (B, 3, H, W), float32, normalised, with the task's own targets: tensors in any nest of containers."""

    images: "Tensor"
    targets: Any

    def to(self, device: "torch.device") -> "Batch":
        """Return the batch with every tensor on ``device``."""
        import torch
        from torch.utils._pytree import tree_map_only

        def move(tensor: "Tensor") -> "Tensor":
            return tensor.to(device, non_blocking=True)

        return Batch(move(self.images), tree_map_only(torch.Tensor, move, self.targets))


@dataclass(frozen=True, slots=True)
class Loading:
    """How a pass over a split is cut into batches.

    Batch ``n`` of process ``rank`` holds the draws ``(n * ranks + rank) * batch_size`` and following: the processes'
    ``n``-th batches are together what one process would see as one batch of ``ranks`` times the size.
    """

    batch_size: int  # images of one batch of one process
    seed: int = 0  # of order and augmentation; never of the model
    samples: int | None = None  # training images to draw, all processes together; None: each once
    workers: int = 0  # processes that load data; changes nothing that is loaded
    skip: int = 0  # batches of this process to leave out at the start, at no cost
    rank: int = 0
    ranks: int = 1


class Score(Protocol):
    """Collects predictions and says how good they were.

    One that scores classes too has ``by_class``: metric, then class, to value; classes without a value are left out.
    """

    @property
    def outcomes(self) -> list[float]:
        """Return what each image came to, in order, for paired tests: 0..1, the definition is the task's."""

    def update(self, predictions: Any, targets: Any) -> None:
        """Take one batch of :meth:`Task.predict`."""

    def compute(self) -> dict[str, float]:
        """Return metrics by name (see ``METRICS``), the task's headline among them."""


class Task(Protocol):
    """One way to try a backbone. Changed data has a new identity, so that old results stay comparable."""

    headline: ClassVar[str]  # a key of METRICS
    heads: ClassVar[tuple[str, ...]]  # names of its heads, the first where none is named; empty: one without a name
    identity: str  # of the data: name and version, or a hash of the folder's content
    num_classes: int
    train_images: int  # how many there are

    def __init__(self, data: str | None, head: str | None = None) -> None:
        """Open the data at ``data``, or the embedded data, for one of ``heads``.

        Raises:
            UserError: data that are missing or malformed, or that lack what the head learns from.
        """

    @staticmethod
    def head(channels: tuple[int, ...], num_classes: int, name: str | None = None) -> "nn.Module":
        """Return the module behind the four stages; costs need it without any data.

        Called with four (B, H_i, W_i, C_i) maps it does the work that costs are counted and timed by, and returns
        tensors. It runs on ``meta``; what depends on the data (proposals, say) is replaced by a fixed amount.
        """

    def batches(self, split: Split, resolution: tuple[int, int], loading: Loading, recipe: "Recipe") -> Iterator[Batch]:
        """Yield batches at ``resolution`` (H, W), the same for the same arguments whatever ``loading.workers`` is.

        Training is shuffled anew each epoch and augmented by ``recipe``; every random number of an image derives from
        (seed, epoch, index), and no generator of the caller is touched. All batches are full. Validation goes once
        through the split in order; its last batch may be smaller.

        Raises:
            UserError: fewer training samples than one batch; data that cannot be read, named.
        """

    def loss(self, model: "nn.Module", batch: Batch, recipe: "Recipe") -> "Tensor":
        """Return the scalar training loss of ``model``, in training mode, on ``batch``, which is on its device.

        It is a mean over images, so that the mean over equal parts of a batch is the loss of the batch.
        """

    def predict(self, model: "nn.Module", batch: Batch, recipe: "Recipe") -> Any:
        """Return what :meth:`score` takes, of ``model`` in ``eval()`` on ``batch``."""

    def score(self) -> Score:
        """Return an empty score."""
