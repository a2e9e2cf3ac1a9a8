"""Classes of images in a folder: ``PATH/train/<class>/*`` and ``PATH/val/<class>/*``, at any depth below the class.

Classes are the folders of ``train``, sorted. Whatever PIL opens becomes RGB: transparency over white, 16-bit grey by
its upper byte, EXIF orientation applied, of several frames the first. An image that cannot be read is an error, never
another image. Hidden files and files without an image's extension are passed over.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from PIL import Image

from attnbench.errors import UserError
from attnbench.task_contract import Split

from ._image_files import extensions, folder_at, image_files, load, unreadable

LAYOUT = "expected train/<class>/* and val/<class>/*"


class Folder:
    """The images under a path."""

    def __init__(self, path: Path) -> None:
        folder_at(path, LAYOUT)
        self.classes = tuple(sorted(folder.name for folder in _subfolders(path, "train")))
        if len(self.classes) < 2:
            raise UserError(f"{str(path / 'train')!r} holds one class; a classification needs two")
        self._files: dict[Split, tuple[tuple[Path, int], ...]] = {
            split: tuple(self._labelled(path, split)) for split in get_args(Split)
        }
        self.identity = f"folder:{self._manifest(path)}"

    def count(self, split: Split) -> int:
        """Return the number of images."""
        return len(self._files[split])

    def image(self, split: Split, index: int) -> tuple[Image.Image, int]:
        """Return an image and its label."""
        path, label = self._files[split][index]
        return load(path), label

    def _labelled(self, path: Path, split: Split) -> Iterator[tuple[Path, int]]:
        for folder in _subfolders(path, split):
            if folder.name not in self.classes:
                raise UserError(f"class {folder.name!r} of {str(path / split)!r} is not among those of train")
            files = sorted(image_files(folder))
            if not files:
                raise UserError(f"class folder {str(folder)!r} holds no image; known are {', '.join(extensions())}")
            label = self.classes.index(folder.name)
            yield from ((file, label) for file in files)

    def _manifest(self, path: Path) -> str:
        """Return the hash of every image's relative name and size: 16 hex digits."""
        lines = []
        for file, _ in self._files["train"] + self._files["val"]:
            try:
                lines.append(os.fsencode(f"{file.relative_to(path).as_posix()}\0{file.stat().st_size}\n"))
            except OSError as error:
                raise unreadable(file, error) from error
        return hashlib.sha256(b"".join(sorted(lines))).hexdigest()[:16]


def _subfolders(path: Path, split: Split) -> list[Path]:
    """Return the class folders of ``split``, sorted; at least one."""
    parent = path / split
    if not parent.is_dir():
        raise UserError(f"data path {str(path)!r} has no folder {split!r}; {LAYOUT}")
    try:
        found = sorted(item for item in parent.iterdir() if item.is_dir() and not item.name.startswith("."))
    except OSError as error:
        raise unreadable(parent, error) from error
    if not found:
        raise UserError(f"{str(parent)!r} holds no class folder; {LAYOUT}")
    return found
