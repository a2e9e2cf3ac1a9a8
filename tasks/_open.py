"""The classification data that a word names."""

from ._open_images import open_images
from ._photographs import Photographs
from ._shapes import Shapes


def open_source(data: str | None) -> Shapes | Photographs:
    """Return the embedded scenes for None, or pictures of the images that ``data`` names (see ``_open_images``)."""
    return Shapes() if data is None else Photographs(open_images(data))
