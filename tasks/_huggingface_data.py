"""A data set of the library ``datasets`` (Hugging Face): saved on disk, a local folder, or one in its cache.

Nothing is downloaded. Read by position, without its image decoding, so that images are read as everywhere here. The
library is optional. Labels are the column ``label``, or the only column of class labels; images likewise.
"""

import hashlib
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from attnbench.errors import UserError
from attnbench.task_contract import Split

from ._decoded import decoded, unreadable
from ._packed import NAMES

OLDEST: Final = 4  # the first version of the library without loading scripts


class HuggingFaceImages:
    """Labelled images of a ``DatasetDict`` with a split for training and one for validation."""

    def __init__(self, name: str) -> None:
        loaded = _load(name)
        chosen = {split: next((known for known in names if known in loaded), None) for split, names in NAMES.items()}
        for split, found in chosen.items():
            if found is None:
                there = ", ".join(map(repr, loaded)) or "none"
                raise UserError(f"{name!r} has no split {' or '.join(NAMES[split])}; it has {there}")
        self._name = name
        self._roots = _roots(name)
        self._images, self._labels = _columns(name, loaded[chosen["train"]].features)
        self._data: dict[Split, Any] = {
            split: _undecoded(name, loaded[found], self._images, self._labels) for split, found in chosen.items()
        }
        self._targets: dict[Split, Any] = {
            split: _integers(name, data, self._labels) for split, data in self._data.items()
        }
        self.classes = _classes(name, self._data["train"].features[self._labels], self._targets["train"])
        for split, labels in self._targets.items():
            if not len(labels) or labels.min() < 0 or labels.max() >= len(self.classes):
                extent = f"labels {labels.min()}..{labels.max()}" if len(labels) else "no images"
                raise UserError(f"{name!r} has {extent} in {split}; expected labels 0..{len(self.classes) - 1}")
        self.identity = f"hfds:{self._manifest()}"

    def count(self, split: Split) -> int:
        """Return the number of images."""
        return len(self._targets[split])

    def image(self, split: Split, index: int) -> tuple[Image.Image, int]:
        """Return an image in RGB and its label; one that cannot be read is a ``UserError`` that names it."""
        where = f"image {index} of {split} in {self._name!r}"
        found = self._data[split][index][self._images]
        content = None if found is None else found["bytes"] or self._file(found["path"], where)
        if not content:
            raise UserError(f"{where} is empty")
        return decoded(content, where), int(self._targets[split][index])

    def _file(self, path: str | None, where: str) -> bytes | None:
        """Return the content of a file beside the data; those elsewhere are not a data set's business."""
        if not path:
            return None
        try:
            real = Path(path).resolve()
            if not any(real.is_relative_to(root) for root in self._roots) or not real.is_file():
                raise UserError(f"{where} is said to be {path!r}, which is no file of the data set")
            return real.read_bytes()
        except OSError as error:
            raise unreadable(where, error) from error

    def _manifest(self) -> str:
        """Return the hash of class names, labels, and lengths of the images' bytes (or the names of their files)."""
        digest = hashlib.sha256("\0".join(self.classes).encode("utf-8", "surrogateescape"))
        for split, data in self._data.items():
            digest.update(f"\n{split}\0".encode() + self._targets[split].tobytes())
            lengths, names = hashlib.sha256(), hashlib.sha256()  # apart: how the data are cut must not matter
            for batch in data.select_columns([self._images]).with_format("arrow").iter(1000):
                for images in batch.column(0).chunks:
                    lengths.update(_lengths(images).tobytes())
                    text = "".join(f"{Path(path or '').name}\n" for path in images.field("path").to_pylist())
                    names.update(text.encode("utf-8", "surrogateescape"))
            digest.update(lengths.digest() + names.digest())
        return digest.hexdigest()[:16]


def _lengths(images: Any) -> Any:
    """Return the sizes of the images in bytes, without reading the images."""
    compute: Any = importlib.import_module("pyarrow.compute")  # comes with datasets
    return np.asarray(compute.binary_length(images.field("bytes")).fill_null(0), dtype=np.int64)


def _library() -> Any:
    try:
        library = importlib.import_module("datasets")
    except ImportError as error:
        raise UserError("hfds is read by the library datasets; install it: pip install 'datasets>=4'") from error
    if int(library.__version__.split(".")[0]) < OLDEST:
        raise UserError(f"datasets {library.__version__} may run code that comes with data; install 'datasets>=4'")
    return library


def _load(name: str) -> Any:
    """Return the ``DatasetDict`` called ``name``, from what is on this machine."""
    datasets = _library()
    saved = Path(name, "dataset_dict.json").is_file()
    try:
        with _offline():
            loaded = datasets.load_from_disk(name) if saved else datasets.load_dataset(name)
    except Exception as error:  # what pyarrow, fsspec, yaml and the library itself raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(f"cannot open {name!r} without the network: {reason}") from error
    if not isinstance(loaded, datasets.DatasetDict):
        raise UserError(f"{name!r} holds no splits; save a DatasetDict of train and validation")
    return loaded


@contextmanager
def _offline() -> Iterator[None]:
    """Keep the library from the network, whatever the environment says, and from drawing progress bars."""
    datasets, constants = _library(), importlib.import_module("huggingface_hub.constants")
    places = [
        (datasets.config, "HF_HUB_OFFLINE"),
        (datasets.config, "HF_DATASETS_OFFLINE"),
        (constants, "HF_HUB_OFFLINE"),
    ]
    before = [(place, name, getattr(place, name)) for place, name in places if hasattr(place, name)]
    bars = datasets.are_progress_bars_disabled()
    try:
        for place, name, _ in before:
            setattr(place, name, True)
        datasets.disable_progress_bars()
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)
        if not bars:
            datasets.enable_progress_bars()


def _roots(name: str) -> list[Path]:
    datasets = _library()
    caches = [Path(datasets.config.HF_CACHE_HOME), Path(datasets.config.HF_DATASETS_CACHE)]
    return [path.expanduser().resolve() for path in ([Path(name)] if Path(name).is_dir() else caches)]


def _columns(name: str, features: Any) -> tuple[str, str]:
    """Return the names of the columns of images and labels."""
    datasets = _library()
    images = [key for key, feature in features.items() if isinstance(feature, datasets.Image)]
    labels = [key for key, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    image = "image" if "image" in images else images[0] if len(images) == 1 else None
    label = "label" if "label" in features else labels[0] if len(labels) == 1 else None
    if image is None or label is None:
        there = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in features.items())
        raise UserError(f"{name!r} has the columns {there}; expected an image column and a column 'label'")
    return image, label


def _undecoded(name: str, data: Any, images: str, labels: str) -> Any:
    datasets = _library()
    if images not in data.features or labels not in data.features:
        raise UserError(f"{name!r} lacks {images!r} or {labels!r} in one of its splits")
    return data.select_columns([images, labels]).cast_column(images, datasets.Image(decode=False))


def _integers(name: str, data: Any, labels: str) -> Any:
    try:
        return np.asarray(data.select_columns([labels])[:][labels], dtype=np.int64)
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{name!r} has labels in {labels!r} that are no whole numbers") from error


def _classes(name: str, feature: Any, labels: Any) -> tuple[str, ...]:
    names = getattr(feature, "names", None)
    found = tuple(names) if names else tuple(str(number) for number in range(int(labels.max(initial=0)) + 1))
    if len(found) < 2:
        raise UserError(f"{name!r} has one class; a classification needs two")
    return found
