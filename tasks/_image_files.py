"""Image files: which there are in a folder, and how one is read, whatever it holds.

Whatever PIL opens becomes RGB: transparency over white, 16-bit grey by its upper byte, of several frames the first. An
image that cannot be read is an error, never another image.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from attnbench.errors import UserError

# torchvision, which takes two seconds to import, is imported where it is used: the embedded data do without it.
UNREADABLE = (OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, struct.error, zlib.error)


def load(path: Path) -> Image.Image:
    """Return the image at ``path``, upright and in RGB; one that cannot be read is a ``UserError`` that names it."""
    try:
        with Image.open(path) as image:
            return rgb(ImageOps.exif_transpose(image))
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise unreadable(path, error) from error


def rgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode in RGB."""
    if image.mode.startswith("I"):  # 16 bits; PIL would clip them to 8
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info or image.mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        straight = image.convert("LA") if image.mode == "La" else image  # premultiplied; no direct way from it
        clear = straight.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    return image.convert("RGB")


def folder_at(path: str | Path, layout: str) -> Path:
    """Return ``path``, which is a folder.

    Raises:
        UserError: it is not; the message says what was expected there.
    """
    try:
        root = Path(path)
        missing = None if root.is_dir() else "is a file" if root.exists() else "does not exist"
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if missing:
        raise UserError(f"data path {str(path)!r} {missing}; {layout}")
    return root


def image_files(folder: Path) -> Iterator[Path]:
    """Yield the images at any depth; linked folders are followed, each once."""
    known = extensions()
    for file in files_below(folder):
        if file.name.lower().endswith(known):
            if file.exists() and not file.is_file():  # reading a pipe would wait for ever
                raise UserError(f"{str(file)!r} is no regular file")
            yield file


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files at any depth that are not hidden; linked folders are followed, each once."""
    seen = {folder.resolve()}
    for parent, folders, files in os.walk(folder, onerror=stop, followlinks=True):
        places = {Path(parent, name).resolve(): name for name in sorted(folders) if not name.startswith(".")}
        folders[:] = [name for place, name in places.items() if place not in seen]
        seen.update(places)
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def extensions() -> tuple[str, ...]:
    """Return the extensions of image files, lower case."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    found: tuple[str, ...] = IMG_EXTENSIONS
    return found


def stop(error: OSError) -> None:
    """Raise what ``os.walk`` would pass over."""
    raise unreadable(Path(error.filename), error)


def unreadable(path: str | Path, error: Exception) -> UserError:
    """Return the error of a file that cannot be read, in one line."""
    reason = " ".join((error.strerror if isinstance(error, OSError) and error.strerror else str(error)).split())
    return UserError(f"cannot read {str(path)!r}: {reason or type(error).__name__}")
