"""Folders of images with label maps, in the layout of ADE20K or of Pascal VOC, told apart by their folders.

ADE20K: ``images/{training,validation}`` and ``annotations/{training,validation}/*.png``; 0 is ignored, 1 is the first
class. Names: ``classes.txt``, a line each, or ``objectInfo150.txt``; without, as many classes as the largest label.
Pascal VOC: ``JPEGImages``, ``SegmentationClass/*.png`` and ``ImageSets/Segmentation/{train,val}.txt``; 0 is the first
class, the background, and 255 is ignored. Names: ``classes.txt`` or ``labels.txt``; without, VOC's 21, or as many as
there are labels. An image and its label map have one stem and one size; EXIF orientation is not applied to either.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attnbench.errors import UserError
from attnbench.task_contract import Split

from ._image_files import UNREADABLE, folder_at, image_files, rgb, unreadable
from ._iou import IGNORE

LAYOUT = (
    "expected ADE20K's images/{training,validation} and annotations/{training,validation}, "
    "or Pascal VOC's JPEGImages, SegmentationClass and ImageSets/Segmentation/{train,val}.txt"
)
# fmt: off
VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus",
    "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
LARGEST = 2**15 - 1  # classes: labels are kept in 16 bits
BAD = -2
GREY = ("L", "P", "1", "I", "I;16", "I;16L", "I;16B", "I;16N")  # modes that hold one whole number a pixel

Pair = tuple[Path, Path]  # an image and its label map


@dataclass(frozen=True)
class Layout:
    """How files write labels down."""

    name: str
    first: int  # the label of the first class
    ignore: int
    names: tuple[str, ...]  # files that may name the classes


ADE20K = Layout("ade20k", 1, 0, ("classes.txt", "objectInfo150.txt"))
PASCAL = Layout("voc", 0, 255, ("classes.txt", "labels.txt"))


class LabelMaps:
    """The images and label maps under a path."""

    def __init__(self, path: Path) -> None:
        self.layout = _layout(path)
        pairs = _ade20k if self.layout is ADE20K else _pascal
        self._pairs: dict[Split, tuple[Pair, ...]] = {split: tuple(pairs(path, split)) for split in get_args(Split)}
        self.classes = self._named(path) or self._counted()
        limit = LARGEST if self.layout is ADE20K else self.layout.ignore
        if not 2 <= len(self.classes) <= limit:
            raise UserError(f"{str(path)!r} has {len(self.classes)} classes; a segmentation needs 2 to {limit}")
        self._table = np.full(2**16, BAD, dtype=np.int16)  # from a file's label to ours
        self._table[self.layout.first :][: len(self.classes)] = np.arange(len(self.classes))
        self._table[self.layout.ignore] = IGNORE
        self.identity = f"{self.layout.name}:{self._manifest(path)}"

    def count(self, split: Split) -> int:
        """Return the number of images."""
        return len(self._pairs[split])

    def example(
        self, split: Split, index: int, resolution: tuple[int, int], scale: float
    ) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
        """Return the picture (H, W, 3) and its label map (h, w).

        The picture may be smaller than the label map: a JPEG is decoded at the lowest size that still covers ``scale``
        times the resolution.

        Raises:
            UserError: a file that cannot be read, two sizes that differ, a label that is no class's.
        """
        image, annotation = self._pairs[split][index]
        labels = self._labels(annotation)
        rows, columns = (max(round(scale * side), 1) for side in resolution)
        try:
            with Image.open(image) as opened:
                if opened.size != labels.shape[::-1]:
                    sizes = f"{opened.width} x {opened.height} and {labels.shape[1]} x {labels.shape[0]} pixels"
                    raise UserError(f"image {str(image)!r} and label map {str(annotation)!r} must be equal: {sizes}")
                opened.draft(None, (columns, rows))  # None keeps the mode
                return np.asarray(rgb(opened)), labels
        except UserError:
            raise
        except (*UNREADABLE, Image.DecompressionBombError) as error:
            raise unreadable(image, error) from error

    def _labels(self, path: Path) -> NDArray[np.int16]:
        raw = _read(path)
        labels: NDArray[np.int16] = self._table[raw]
        if labels.min() == BAD:
            first, last = self.layout.first, self.layout.first + len(self.classes) - 1
            raise UserError(
                f"label map {str(path)!r} holds {int(raw[labels == BAD][0])}; "
                f"known are {first} to {last}, and {self.layout.ignore} for ignored pixels"
            )
        return labels

    def _named(self, path: Path) -> tuple[str, ...]:
        """Return the names that a file gives, or none without such a file."""
        for name in self.layout.names:
            if (path / name).is_file():
                return _names(path / name, self.layout.first)
        return ()

    def _counted(self) -> tuple[str, ...]:
        """Return a name for each label up to the largest."""
        largest = 0
        for _, annotation in self._pairs["train"] + self._pairs["val"]:
            raw = _read(annotation)
            largest = max(largest, int(raw.max(where=raw != self.layout.ignore, initial=0)))
        if self.layout is PASCAL and largest < len(VOC):
            return VOC
        return tuple(f"class {label}" for label in range(self.layout.first, largest + 1))

    def _manifest(self, path: Path) -> str:
        """Return the hash of the classes, and of every file's split, relative name and size: 16 hex digits."""
        lines = ["\0".join(self.classes).encode()]
        for split, pairs in self._pairs.items():
            for file in (file for pair in pairs for file in pair):
                try:
                    line = f"{split}\0{file.relative_to(path).as_posix()}\0{file.stat().st_size}"
                except OSError as error:
                    raise unreadable(file, error) from error
                lines.append(os.fsencode(line))
        return hashlib.sha256(b"\n".join(lines)).hexdigest()[:16]


def _layout(path: Path) -> Layout:
    folder_at(path, LAYOUT)
    try:
        if (path / "images").is_dir() and (path / "annotations").is_dir():
            return ADE20K
        if all((path / name).is_dir() for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation")):
            return PASCAL
    except OSError as error:
        raise unreadable(path, error) from error
    raise UserError(f"data path {str(path)!r} is of no known layout; {LAYOUT}")


def _ade20k(path: Path, split: Split) -> Iterator[Pair]:
    folder = {"train": "training", "val": "validation"}[split]
    images = _by_stem(path / "images" / folder)
    annotations = _by_stem(path / "annotations" / folder, ".png")
    for stem, image in images.items():
        if stem not in annotations:
            raise UserError(
                f"image {str(image)!r} has no label map {stem}.png in {str(path / 'annotations' / folder)!r}"
            )
        yield image, annotations[stem]
    for stem in sorted(annotations.keys() - images.keys()):
        raise UserError(f"label map {str(annotations[stem])!r} has no image in {str(path / 'images' / folder)!r}")


def _pascal(path: Path, split: Split) -> Iterator[Pair]:
    listing = path / "ImageSets" / "Segmentation" / f"{split}.txt"
    images, annotations = _by_stem(path / "JPEGImages"), _by_stem(path / "SegmentationClass", ".png")
    stems = [line for line in map(str.strip, _lines(listing)) if line]
    if not stems:
        raise UserError(f"{str(listing)!r} lists no image; expected a file name without its extension on each line")
    for stem in stems:  # looked up among the files that are there: a name leads nowhere else
        if stem not in images:
            raise UserError(f"{str(listing)!r} lists {stem!r}, which is no image of {str(path / 'JPEGImages')!r}")
        if stem not in annotations:
            raise UserError(
                f"image {str(images[stem])!r} has no label map {stem}.png in {str(path / 'SegmentationClass')!r}"
            )
        yield images[stem], annotations[stem]


def _by_stem(folder: Path, extension: str = "") -> dict[str, Path]:
    """Return the images of ``folder`` by their relative name without extension, sorted; at least one."""
    if not folder.is_dir():
        raise UserError(f"folder {str(folder)!r} is missing; {LAYOUT}")
    found: dict[str, Path] = {}
    for file in sorted(image_files(folder)):
        if not file.name.lower().endswith(extension):
            continue
        stem = file.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise UserError(f"{str(found[stem])!r} and {str(file)!r} have one stem; a label map could be either's")
        found[stem] = file
    if not found:
        raise UserError(f"{str(folder)!r} holds no {extension or 'image'} file; {LAYOUT}")
    return found


def _read(path: Path) -> NDArray[np.uint16]:
    """Return the whole numbers (h, w) of a label map as its file holds them."""
    try:
        with Image.open(path) as image:
            if image.mode not in GREY:
                raise UserError(
                    f"label map {str(path)!r} is of mode {image.mode}; expected one whole number a pixel: a grey or "
                    "palette PNG"
                )
            raw = np.asarray(image)
    except UserError:
        raise
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise unreadable(path, error) from error
    if raw.min() < 0 or raw.max() >= 2**16:
        raise UserError(f"label map {str(path)!r} holds labels beyond 16 bits")
    return raw.astype(np.uint16)


def _names(path: Path, first: int) -> tuple[str, ...]:
    """Return the class names of a text file; a number before each, if they count up, is not part of them."""
    lines = [line.strip() for line in _lines(path)]
    while lines and not lines[-1]:
        lines.pop()
    if "" in lines or not lines:
        raise UserError(f"{str(path)!r} must hold one class name on each line, and no empty line")
    if path.name == "objectInfo150.txt":
        lines = [f"{row[0]} {row[-1]}" for row in (line.split("\t") for line in lines[1:])]
    numbered = [re.fullmatch(r"(\d+)[\s:.,]+(.+)", line) for line in lines]
    numbers = [int(match[1]) for match in numbered if match]
    if numbers in ([*range(len(lines))], [*range(1, len(lines) + 1)]):
        lines = [match[2] for match in numbered if match]
        lines = lines[1:] if numbers[0] < first else lines  # a name for what is ignored
    repeated = {name for name in lines if lines.count(name) > 1}  # names are keys
    return tuple(f"{name} ({first + index})" if name in repeated else name for index, name in enumerate(lines))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
