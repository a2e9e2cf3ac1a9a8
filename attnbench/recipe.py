"""How a model is trained: every value that decides its weights, and the defaults. Standard library only."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """One training. The budget is a number of samples, never seconds."""

    samples: int = 1536  # training images seen, all epochs together
    batch_size: int = 16  # images of one optimiser step, all processes and accumulated parts together
    accumulate: int = 1  # parts that a batch is taken in, one after the other
    # AdamW and its schedule
    learning_rate: float = 1e-3  # the peak
    weight_decay: float = 0.05  # not on norms, biases and position tables
    schedule: str = "cosine"  # cosine, linear, steps or constant, after a linear warm-up
    milestones: tuple[float, ...] = ()  # of steps: shares of the training from which on the rate is a tenth of before
    warmup: float = 0.1  # share of the steps
    warmup_start: float = 0.0  # first learning rate, of the peak
    final: float = 0.0  # last learning rate of cosine and linear, of the peak
    clip: float = 1.0  # norm of the gradient; 0: not clipped
    layer_decay: float = 1.0  # factor of the learning rate from each block to the one before it
    # regularisation
    drop_path: float = 0.0  # stochastic depth: rate of the last block
    label_smoothing: float = 0.0  # of classes; dense tasks have none
    ema: float = 0.0  # decay of the moving average of the weights, which is then what is scored and kept; 0: none
    # augmentation
    scale: float = 0.2  # classification: least share of the image's area that a training crop keeps
    scales: tuple[float, float] = (1.0, 1.0)  # dense tasks: range of the random size, of what fits the resolution
    flip: float = 0.5  # probability that an image is mirrored
    rand_augment: str = ""  # timm's word for RandAugment, such as rand-m9-mstd0.5-inc1; empty: none
    color_jitter: float = 0.0  # strength; 0: none
    mixup: float = 0.0  # alpha; 0: none
    cutmix: float = 0.0  # alpha; 0: none
    erasing: float = 0.0  # probability of random erasing
    repeats: int = 1  # repeated augmentation: how often an image comes in one epoch, of fewer images
    # what is computed, not what is learnt
    checkpointing: bool = False  # recompute activations in the backward pass instead of keeping them
    evaluations: int = 0  # how often validation is scored during training, evenly spread: the curve
    # test
    test_scales: tuple[float, ...] = (1.0,)  # segmentation: sizes whose predictions are averaged
    test_flip: bool = False  # segmentation: each size mirrored besides
    slide: bool = False  # segmentation: windows of the resolution instead of the whole image

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Recipe":
        """Rebuild a recipe from a cell's."""
        values: dict[str, Any] = {name: tuple(item) if isinstance(item, list) else item for name, item in data.items()}
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Return every value, as a cell keeps it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
