"""Bytes to an upright RGB image, as files in a folder are read."""

import io

from PIL import Image, ImageOps

from attnbench.errors import UserError

from ._image_files import UNREADABLE, rgb


def decoded(content: bytes, where: str) -> Image.Image:
    """Return the image in ``content``; one that cannot be read is a ``UserError`` that says ``where``."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return rgb(ImageOps.exif_transpose(image))
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise unreadable(where, error) from error


def unreadable(where: str, error: Exception) -> UserError:
    """Make the error for something that cannot be read, on one line."""
    reason = " ".join((error.strerror if isinstance(error, OSError) and error.strerror else str(error)).split())
    return UserError(f"cannot read {where}: {reason or type(error).__name__}")
