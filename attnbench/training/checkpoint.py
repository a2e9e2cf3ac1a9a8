"""The file that a training goes on from: written whole or not at all, read without running anything in it."""

import errno
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from attnbench.errors import UserError

FORMAT = 1
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass
class State:
    """What a training has come to.

    There is no generator in it: the random numbers of a step derive from the seed and the step, and the position in the
    data is the step.
    """

    step: int = 0  # optimiser steps done
    losses: list[float] = field(default_factory=list)
    curve: list[tuple[int, dict[str, float]]] = field(default_factory=list)  # images seen, metrics
    seconds: float = 0.0
    waiting: float = 0.0
    kept: int | None = None  # the step of the last checkpoint


def write(path: Path, state: State, tensors: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> None:
    """Put a checkpoint in the place of an older one, at once: whoever looks finds the older or this.

    ``tensors`` and ``fingerprint`` are tensors and plain values in plain containers.

    Raises:
        UserError: a disk that is full, or a file that cannot be written; the older checkpoint is still there.
    """
    content = {
        "format": FORMAT,
        "fingerprint": dict(fingerprint),
        "step": state.step,
        "losses": torch.tensor(state.losses, dtype=torch.float64),
        "curve": [[images, metrics] for images, metrics in state.curve],
        "seconds": state.seconds,
        "waiting": state.waiting,
        "tensors": dict(tensors),
    }
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            _save(content, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync(path.parent)
        state.kept = state.step
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise _unwritten(path, state, error) from error


def read(path: Path, fingerprint: Mapping[str, Any]) -> tuple[State, dict[str, Any]] | None:
    """Return the state and the tensors, on the CPU, of a checkpoint of this training; None if there is no file.

    Raises:
        UserError: a file that is damaged, of another version, or of another training: the first difference is named.
    """
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        version, found = content["format"], content["fingerprint"]
    except OSError as error:
        raise UserError(f"checkpoint {str(path)!r}: {error.strerror or error}") from error
    except Exception as error:  # a damaged file makes an unpickler raise anything
        raise UserError(f"checkpoint {str(path)!r} is damaged; delete it to train from the start") from error
    if version != FORMAT:
        raise UserError(f"checkpoint {str(path)!r} is of format {version}, not {FORMAT}; delete it to train anew")
    difference = _difference(found, fingerprint)
    if difference:
        raise UserError(f"checkpoint {str(path)!r} is of another training: {difference}; delete it to train anew")
    curve = [(images, metrics) for images, metrics in content["curve"]]
    step, losses = content["step"], content["losses"].tolist()
    return State(step, losses, curve, content["seconds"], content["waiting"], kept=step), content["tensors"]


def shapes(named: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the shape of every tensor, in words."""
    return {name: "x".join(map(str, tensor.shape)) for name, tensor in named.items()}


class _Watched:
    """A file that remembers the system's error: ``torch.save`` tells of it in words of its own."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write, and keep what goes wrong."""
        try:
            written: int = self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        return written

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()


def _save(content: Mapping[str, Any], file: Any) -> None:
    watched = _Watched(file)
    try:
        torch.save(content, cast(IO[bytes], watched))
    except RuntimeError:
        if watched.error is not None:
            raise watched.error from None
        raise


def _sync(folder: Path) -> None:
    """Make the folder's new entry last through a loss of power; Windows has no such call."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _unwritten(path: Path, state: State, error: OSError) -> UserError:
    why = "no space left on the device" if error.errno in _FULL else error.strerror or str(error)
    kept = "none was written before" if state.kept is None else f"the checkpoint of step {state.kept} is kept"
    return UserError(f"the checkpoint of step {state.step} cannot be written to {str(path)!r}: {why}; {kept}")


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> str:
    """Return the first entry that differs, in words; empty where none does."""
    for name in {**wanted, **found}:
        old, new = found.get(name), wanted.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            inner = _difference(old, new, f"{prefix}{name}.")
            if inner:
                return inner
        elif old != new:
            return f"{prefix}{name} was {old}, not {new}"
    return ""
