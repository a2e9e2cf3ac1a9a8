"""Detection data of COCO's format: ``PATH/annotations/instances_{train,val}*.json`` and the images that they name.

Images lie in ``images/train``, ``images/train2017`` or ``train2017`` (the ending is that of the annotation file), and
likewise for ``val``. The classes are the categories of training, by ascending id. Training leaves out images without an
object to learn from, as torchvision's and Detectron2's trainings do; validation keeps every image. As COCO's tools do,
images are taken as they are stored: their EXIF orientation says nothing of where the boxes are.
"""

import hashlib
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attnbench.errors import UserError
from attnbench.task_contract import Split

from ._coco_file import AnnotationFile, ImageEntry, parse
from ._examples import Example, Truth
from ._framing import fitted
from ._image_files import UNREADABLE, folder_at, rgb, unreadable
from ._run_lengths import decoded

LAYOUT = "expected annotations/instances_train*.json and annotations/instances_val*.json"


class Coco:
    """The images and annotations under a path; ``masks`` asks for masks of every object."""

    def __init__(self, path: Path, masks: bool) -> None:
        folder_at(path, LAYOUT)
        self._masks = masks
        digest = hashlib.sha256()
        files: dict[Split, AnnotationFile] = {}
        self._folders: dict[Split, Path] = {}
        sources: dict[Split, Path] = {split: _annotations(path, split) for split in get_args(Split)}
        for split, source in sources.items():
            content = _content(source)
            digest.update(hashlib.sha256(content).digest())
            files[split] = parse(source, content, masks)
            self._folders[split] = image_files(path, source, split)
        categories = files["train"].categories
        if files["val"].categories != categories:
            raise UserError(f"{str(sources['val'])!r} has other categories than {str(sources['train'])!r}")
        self.category_ids = tuple(categories)
        self.classes = tuple(categories.values())
        self._labels = {category: label for label, category in enumerate(categories)}
        for split, file in files.items():
            digest.update(self._sizes(split, file))
        self.identity = f"coco:{digest.hexdigest()[:16]}"
        self._entries: dict[Split, tuple[ImageEntry, ...]] = {
            "train": tuple(entry for entry in files["train"].images if any(map(_learnable, entry.annotations))),
            "val": files["val"].images,
        }
        for split, entries in self._entries.items():
            if not any(not item["iscrowd"] for entry in entries for item in entry.annotations):
                raise UserError(f"{str(sources[split])!r} has no object: every box is a crowd or has no area")

    def count(self, split: Split) -> int:
        """Return the number of images, of training those with an object to learn from."""
        return len(self._entries[split])

    def example(self, split: Split, index: int, canvas: tuple[int, int], factor: float = 1.0) -> Example:
        """Return the image at ``index``, a JPEG at a half, quarter or eighth of its size where that is enough."""
        entry = self._entries[split][index]
        picture = _load(self._folders[split] / entry.file_name, entry.size, fitted(entry.size, canvas, factor))
        objects = [item for item in entry.annotations if _learnable(item)] if split == "train" else []
        corners = np.array([item["bbox"] for item in objects], dtype=np.float64).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        labels = np.array([self._labels[item["category_id"]] for item in objects], dtype=np.int64)
        masks = _masks(objects, entry.size) if self._masks else None
        return Example(
            picture, entry.size, corners, labels, masks, Truth(entry.image_id, entry.size, entry.annotations)
        )

    def _sizes(self, split: Split, file: AnnotationFile) -> bytes:
        """Return names and sizes of the images on disk as bytes to hash; every image must be there."""
        lines = []
        for entry in file.images:
            image = self._folders[split] / entry.file_name
            try:
                if not image.is_file():
                    raise UserError(f"image {entry.image_id} of the {split} annotations is missing: {str(image)!r}")
                lines.append(f"{split}\0{entry.file_name}\0{image.stat().st_size}\n")
            except (OSError, ValueError) as error:
                if isinstance(error, UserError):
                    raise
                raise unreadable(image, error) from error
        return "".join(sorted(lines)).encode("utf-8", "surrogatepass")


def _learnable(annotation: dict[str, Any]) -> bool:
    return not annotation["iscrowd"] and min(annotation["bbox"][2:]) > 0


def _annotations(path: Path, split: Split) -> Path:
    """Return the annotation file of ``split``: exactly one."""
    folder = path / "annotations"
    try:
        found = sorted(folder.glob(f"instances_{split}*.json"))
    except OSError as error:
        raise unreadable(folder, error) from error
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise UserError(f"{str(folder)!r} needs one instances_{split}*.json, and has {names}; {LAYOUT}")
    return found[0]


def _content(file: Path) -> bytes:
    if not file.is_file():  # reading a pipe would wait for ever
        raise UserError(f"{str(file)!r} is no regular file")
    try:
        return file.read_bytes()
    except OSError as error:
        raise unreadable(file, error) from error


def image_files(path: Path, source: Path, split: Split) -> Path:
    """Return the folder of the images of ``split``."""
    name = source.stem.removeprefix("instances_")  # train, train2017
    places = [path / "images" / name, path / name, path / "images" / split, path / split]
    for place in places:
        if place.is_dir():
            return place
    known = ", ".join(dict.fromkeys(place.relative_to(path).as_posix() for place in places))
    raise UserError(f"data path {str(path)!r} has no folder of {split} images; expected one of {known}")


def _load(path: Path, size: tuple[int, int], least: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the image (h, w, 3) in RGB, as stored: of ``size``, or a JPEG of less that is still at least ``least``."""
    try:
        with Image.open(path) as image:
            if image.size != size[::-1]:
                width, height = image.size
                raise UserError(
                    f"{str(path)!r} is {width} x {height} pixels, and annotated as one of {size[1]} x {size[0]}"
                )
            image.draft(None, least[::-1])  # only for JPEG; a whole part of the size, never below ``least``
            return np.array(rgb(image))
    except UserError:
        raise
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise unreadable(path, error) from error


def _masks(objects: list[dict[str, Any]], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the masks of ``objects`` (N, H, W)."""
    found = np.zeros((len(objects), *size), dtype=np.uint8)
    for mask, item in zip(found, objects, strict=True):
        mask[:] = decoded(item["segmentation"], size)
    return found
