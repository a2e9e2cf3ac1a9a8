"""Files that are there whole or not at all."""

import os
from pathlib import Path

from attnbench.errors import UserError


def replace(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path`` and move it there; a folder that cannot be written is a :class:`UserError`."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r}: {error.strerror or error}") from error


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    try:
        path.unlink(missing_ok=True)
    except NotADirectoryError:
        return  # nor is anything under a file
    except OSError as error:
        raise UserError(f"cannot remove {str(path)!r}: {error.strerror or error}") from error
