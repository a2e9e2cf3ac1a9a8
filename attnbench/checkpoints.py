"""Tensors out of a weight file, and nothing else: no code that a file names is ever run.

Files of ``torch.save`` are read by torch's unpickler for weights, which knows tensors and plain containers only. The
authors' files also hold the options of their training, objects of classes that it refuses. For the few classes in
``OPTIONS`` it is given a class of ours that keeps nothing; an object of any other class ends the reading.
"""

import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from attnbench.errors import UserError

# Envelopes: under which keys a file holds its weights, in order of preference.
PLAIN = ("model", "state_dict", "model_state_dict", "module")
EMA = ("model_ema", "state_dict_ema", "ema", "ema_state_dict")  # the moving average of training's weights
WRAPPERS = re.compile(r"(module\.|_orig_mod\.)+")  # before the keys of a model in DataParallel, or compiled
AVERAGED = "n_averaged"  # the count of torch.optim.swa_utils.AveragedModel, which is no weight
# Classes of training options and logs in published checkpoints. They are not imported, let alone called.
OPTIONS = (
    "yacs.config.CfgNode",
    "argparse.Namespace",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
)
_SHOWN = 5  # entries that an error lists


def read(path: Path, ema: bool = False) -> dict[str, Tensor]:
    """Return the weights in a file of ``torch.save`` or a ``.safetensors`` file, on the CPU, by key.

    Envelopes are opened and what else they hold is ignored. Where both are there, ``ema`` takes the moving average and
    not the model; a file that has the average only is read without it.

    Raises:
        UserError: a file that is missing, damaged, no weight file, without weights or without the average that was
            asked for, or that holds objects of unknown classes.
    """
    if not path.is_file():
        raise UserError(f"weights {str(path)!r}: {'that is a folder' if path.is_dir() else 'there is no such file'}")
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError(f"weights {str(path)!r}: {error.strerror}") from error
    if not start:
        raise UserError(f"weights {str(path)!r}: the file is empty")
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch(path, start)
    return _tensors(path, _unwrapped(path, content, ema))


class _Nothing:
    """Stands in for a class of ``OPTIONS``: takes what the file gives it and keeps none."""

    def __new__(cls, *arguments: object) -> Any:
        # Made without arguments, it may be filled like a mapping, which torch allows for its own types only.
        return super().__new__(cls) if arguments else OrderedDict()

    def __init__(self, *arguments: object) -> None:
        del arguments

    def __setstate__(self, state: object) -> None:
        del state


def _stand_ins() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Return a class per name of ``OPTIONS``, which torch's unpickler finds by its module and name."""
    split = [name.rpartition(".") for name in OPTIONS]
    return [type(name, (_Nothing,), {"__module__": module, "__qualname__": name}) for module, _, name in split]


def _safetensors(path: Path) -> Mapping[str, Any]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"weights {str(path)!r}: truncated, damaged or no safetensors file ({error})") from error
    return tensors


def _torch(path: Path, start: bytes) -> object:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_stand_ins()):
            warnings.simplefilter("ignore")  # of unusual pickles, which then load or end in an error
            mapped = zipfile.is_zipfile(path)  # the format before torch 1.6 cannot be mapped
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged file makes an unpickler raise anything
        raise _refused(path, start, error) from error


def _refused(path: Path, start: bytes, error: Exception) -> UserError:
    """Return what is wrong with a file that torch does not read."""
    where, text = f"weights {str(path)!r}", str(error)
    named = re.search(r"GLOBAL (\S+)", text) if isinstance(error, pickle.UnpicklingError) else None
    if named:
        return UserError(
            f"{where}: the file holds more than tensors, {named[1]} among it, and only weights are read, "
            "since unpickling anything else can run code; save the state dict alone"
        )
    if start.isascii() and "".join(start.decode("ascii").split()).isprintable():
        return UserError(f"{where}: text, not weights; it begins with {start.decode('ascii').strip()[:20]!r}")
    told = text.partition("WeightsUnpickler error:")[2] or text
    reason = next((line.strip() for line in told.splitlines() if line.strip()), type(error).__name__)
    return UserError(f"{where}: truncated, damaged or no checkpoint ({reason.partition('. This')[0]})")


def _unwrapped(path: Path, content: object, ema: bool) -> dict[object, object]:
    """Return the innermost state dict of ``content``."""
    if not isinstance(content, dict):
        raise UserError(f"weights {str(path)!r}: the file holds a {type(content).__name__}, not weights by name")
    entries = dict(dict.items(content))
    average, plain = (
        next((entries[key] for key in keys if isinstance(entries.get(key), dict)), None) for keys in (EMA, PLAIN)
    )
    if ema and average is None:
        raise UserError(f"weights {str(path)!r}: no moving average in it; it holds {_listed(entries)}")
    chosen = average if ema or plain is None else plain
    return entries if chosen is None else _unwrapped(path, chosen, ema=False)


def _tensors(path: Path, entries: dict[object, object]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for key, value in entries.items():
        if key == AVERAGED:
            continue
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(f"weights {str(path)!r}: {key!r} is no tensor; the file holds {_listed(entries)}")
        found[WRAPPERS.sub("", key, count=1) if WRAPPERS.match(key) else key] = value
    if not found:
        raise UserError(f"weights {str(path)!r}: the file holds no tensors")
    return found


def _listed(entries: Mapping[Any, object]) -> str:
    names = [str(key) for key in entries]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "nothing") + more
