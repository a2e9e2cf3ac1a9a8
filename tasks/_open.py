"""The classification data that a word names."""

from pathlib import Path

from ._folder import Folder
from ._photographs import Photographs
from ._shapes import Shapes


def open_source(data: str | None) -> Shapes | Photographs:
    """Return the embedded scenes for None, or the images of the folder at ``data``."""
    return Shapes() if data is None else Photographs(Folder(Path(data)))
