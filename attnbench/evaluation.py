"""Accuracy of given weights on a folder of images, by the papers' own evaluation.

An image is read as the authors' loaders read it: RGB, transparency dropped, EXIF orientation ignored. Its shorter side
is resized to resolution / 0.875 (floored, bicubic) and the centre cut out; from 384 pixels up the whole image is
resized to the resolution, as Swin's authors do at 384. Models of timm bring their own numbers.
"""

import math
import struct
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from attnbench.errors import UserError

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB
STD = (0.229, 0.224, 0.225)
CROP = 0.875  # of the resized image's shorter side
WHOLE = 384  # pixels from which on nothing is cropped
UNREADABLE = (OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, struct.error, zlib.error)
LAYOUT = "expected val/<class>/* or <class>/*"
_Item = tuple[Tensor, int] | UserError  # an error travels as a value: the loader would bury it in a traceback
_Batch = tuple[Tensor, Tensor] | UserError


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """From an image to a model's input."""

    resolution: tuple[int, int]  # (H, W), pixels
    crop: float | None  # side of the cut over side of the resized image; None: the whole image, whatever its shape
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    interpolation: str = "bicubic"

    def apply(self, image: Image.Image) -> Tensor:
        """Return the input (3, H, W) of an RGB image."""
        mode = InterpolationMode(self.interpolation)
        resized = functional.resize(image, list(self.size(image.height, image.width)), interpolation=mode)
        cut = functional.to_image(functional.center_crop(resized, list(self.resolution)))
        scaled = functional.to_dtype(cut, torch.float32, scale=True)
        pixels: Tensor = functional.normalize(scaled, list(self.mean), list(self.std)).as_subclass(Tensor)
        return pixels

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return to what (H, W) an image of ``height`` x ``width`` is resized: the least that holds the cut."""
        if self.crop is None:
            return self.resolution
        rows, columns = (math.floor(side / self.crop) for side in self.resolution)
        if rows * width >= columns * height:
            return rows, width * rows // height
        return height * columns // width, columns


@dataclass(frozen=True, slots=True)
class Images:
    """The labelled images of a folder; labels number the classes by name, as torchvision's ImageFolder does."""

    files: tuple[tuple[Path, int], ...]
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """What a model reached."""

    images: int
    top1: float  # fraction
    top5: float | None  # fraction; None where there are fewer than five classes
    throughput: float  # img/s of the model alone, first batch left out where there are more


def preprocessing_of(model: nn.Module, resolution: tuple[int, int]) -> Preprocessing:
    """Return the papers' preprocessing at a resolution (H, W), or for a model of timm what it was evaluated with."""
    if not hasattr(model, "pretrained_cfg"):
        return Preprocessing(resolution, CROP if min(resolution) < WHOLE else None)
    from timm.data import resolve_model_data_config

    own = resolve_model_data_config(model)
    crop = None if own["crop_mode"] == "squash" else own["crop_pct"]
    return Preprocessing(resolution, crop, tuple(own["mean"]), tuple(own["std"]), own["interpolation"])


def find_images(path: Path, limit: int | None = None) -> Images:
    """Return the images of ``path/val`` if there is such a folder, or else of ``path``.

    ``limit`` takes that many of them, evenly spread.

    Raises:
        UserError: no folder, no classes in it, or a class without images.
    """
    if not path.is_dir():
        raise UserError(f"data path {str(path)!r} {'is a file' if path.exists() else 'does not exist'}; {LAYOUT}")
    root = path / "val" if (path / "val").is_dir() else path
    if root == path and (path / "train").is_dir():
        raise UserError(f"data path {str(path)!r} has a folder 'train' and none 'val'; {LAYOUT}")
    try:
        classes = sorted(item.name for item in root.iterdir() if item.is_dir() and not item.name.startswith("."))
        if not classes:
            raise UserError(f"{str(root)!r} holds no class folder; {LAYOUT}")
        found = make_dataset(str(root), {name: label for label, name in enumerate(classes)}, IMG_EXTENSIONS)
    except FileNotFoundError as error:  # torchvision's word for a class without images
        raise UserError(f"{str(root)!r}: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise UserError(f"cannot read {str(error.filename)!r}: {error.strerror}") from error
    files = tuple((Path(file), label) for file, label in found)
    if limit is not None and limit < len(files):
        files = tuple(files[index * len(files) // limit] for index in range(limit))
    return Images(files, tuple(classes))


def evaluate(
    model: nn.Module,
    images: Images,
    preprocessing: Preprocessing,
    device: torch.device,
    batch_size: int,
    workers: int,
    progress: Callable[[int], None],
) -> Accuracy:
    """Score ``model``, in ``eval()``, on ``images``; ``progress`` is told after each batch how many are done.

    Raises:
        UserError: an image that cannot be read, named, or a batch that does not fit the device's memory.
    """
    model.to(device).eval()
    done = first = fifth = 0
    seconds: list[tuple[int, float]] = []
    for pixels, labels in _batches(images, preprocessing, batch_size, workers, pinned=device.type == "cuda"):
        logits, spent = _timed(model, pixels.to(device), batch_size)
        if logits.isnan().all():
            raise UserError("the model puts out nothing but NaN with these weights: there is no accuracy to tell")
        seconds.append((len(labels), spent))
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices.cpu()
        right = (best == labels[:, None]) & ~logits.isnan().any(dim=1, keepdim=True).cpu()
        first, fifth = first + int(right[:, 0].sum()), fifth + int(right.sum())
        done += len(labels)
        progress(done)
    counted = seconds[1:] or seconds
    throughput = sum(count for count, _ in counted) / sum(spent for _, spent in counted)
    return Accuracy(done, first / done, fifth / done if len(images.classes) >= 5 else None, throughput)


class _Examples(Dataset[_Item]):
    """Model inputs and labels by number."""

    def __init__(self, images: Images, preprocessing: Preprocessing) -> None:
        self.images, self.preprocessing = images, preprocessing

    def __len__(self) -> int:
        return len(self.images.files)

    def __getitem__(self, index: int) -> _Item:
        path, label = self.images.files[index]
        try:
            return self.preprocessing.apply(_image(path)), label
        except UserError as error:
            return error


def _batches(
    images: Images, preprocessing: Preprocessing, size: int, workers: int, pinned: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    examples = _Examples(images, preprocessing)
    loader = DataLoader(examples, size, num_workers=workers, collate_fn=_collate, pin_memory=pinned)
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        pixels, labels = batch
        yield pixels, labels


def _collate(items: list[_Item]) -> _Batch:
    good: list[tuple[Tensor, int]] = []
    for item in items:
        if isinstance(item, UserError):
            return item
        good.append(item)
    pixels, labels = zip(*good, strict=True)
    return torch.stack(pixels), torch.tensor(labels)


def _image(path: Path) -> Image.Image:
    """Return the image at ``path`` in RGB; one that cannot be read is a ``UserError`` that names it."""
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")  # of damaged EXIF data, which ImageNet has some of and nobody reads
            return image.convert("RGB")
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        reason = " ".join((error.strerror if isinstance(error, OSError) and error.strerror else str(error)).split())
        raise UserError(f"cannot read {str(path)!r}: {reason or type(error).__name__}") from error


def _timed(model: nn.Module, pixels: Tensor, batch_size: int) -> tuple[Tensor, float]:
    """Return logits (B, classes) in float32 and the seconds they took."""
    _wait(pixels)
    start = time.perf_counter()
    try:
        with torch.inference_mode():
            logits: Tensor = model(pixels).float()
    except torch.OutOfMemoryError as error:
        raise UserError(f"{batch_size} images do not fit the memory of {pixels.device}; lower --batch-size") from error
    _wait(pixels)
    return logits, time.perf_counter() - start


def _wait(pixels: Tensor) -> None:
    if pixels.is_cuda:
        torch.cuda.synchronize(pixels.device)
