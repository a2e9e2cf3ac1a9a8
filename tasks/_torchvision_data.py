"""Classification data sets of torchvision that are on this machine already; nothing is downloaded.

``_KNOWN`` says how each is split: validation is the data set's own validation split where it has one, else its test
split. Its files are torchvision's business: where they must lie, their checksums, how they are decoded.
"""

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from attnbench.errors import UserError, unknown
from attnbench.task_contract import Split

from ._decoded import unreadable
from ._image_files import UNREADABLE, rgb


@dataclass(frozen=True, slots=True)
class _Known:
    """How torchvision calls the splits, what must lie below the root, and how many classes there are."""

    train: Mapping[str, Any]
    val: Mapping[str, Any]
    files: tuple[str, ...]
    classes: int = 0  # how many, where torchvision (or an older one) does not name them


def _split(train: str, val: str, *files: str, classes: int = 0) -> _Known:
    return _Known({"split": train}, {"split": val}, files, classes)


def _flag(*files: str, classes: int = 0) -> _Known:
    return _Known({"train": True}, {"train": False}, files, classes)


_KNOWN: Final[dict[str, _Known]] = {
    "CIFAR10": _flag("cifar-10-batches-py"),
    "CIFAR100": _flag("cifar-100-python"),
    "Country211": _split("train", "valid", "country211"),
    "DTD": _split("train", "val", "dtd"),
    "FER2013": _split("train", "test", "fer2013", classes=7),
    "FGVCAircraft": _split("train", "val", "fgvc-aircraft-2013b"),
    "FashionMNIST": _flag("FashionMNIST/raw"),
    "Flowers102": _split("train", "val", "flowers-102", classes=102),
    "Food101": _split("train", "test", "food-101"),
    "GTSRB": _split("train", "test", "gtsrb", classes=43),
    "INaturalist": _Known({"version": "2021_train"}, {"version": "2021_valid"}, ("2021_train", "2021_valid"), 10_000),
    "ImageNet": _split("train", "val", "meta.bin", "train", "val"),
    "Imagenette": _split("train", "val", "imagenette2"),
    "KMNIST": _flag("KMNIST/raw"),
    "MNIST": _flag("MNIST/raw"),
    "OxfordIIITPet": _split("trainval", "test", "oxford-iiit-pet"),
    "PCAM": _split("train", "val", "pcam", classes=2),
    "Places365": _split("train-standard", "val", "categories_places365.txt", "data_large_standard", "val_large"),
    "QMNIST": _Known({"what": "train"}, {"what": "test10k"}, ("QMNIST/raw",)),
    "RenderedSST2": _split("train", "val", "rendered-sst2"),
    "STL10": _split("train", "test", "stl10_binary", classes=10),
    "SVHN": _split("train", "test", "train_32x32.mat", "test_32x32.mat", classes=10),
    "StanfordCars": _split("train", "test", "stanford_cars"),
    "USPS": _flag("usps.bz2", "usps.t.bz2", classes=10),
}
_BROKEN: Final = (*UNREADABLE, RuntimeError, AssertionError, ImportError, pickle.UnpicklingError)


class TorchvisionImages:
    """One of torchvision's data sets."""

    def __init__(self, name: str, root: Path) -> None:
        self._name = _canonical(name)
        known = _KNOWN[self._name]
        self._require(root, known.files)
        self._data: dict[Split, Any] = {
            "train": self._open(root, known.train),
            "val": self._open(root, known.val),
        }
        names = getattr(self._data["train"], "classes", None) or range(known.classes)
        self.classes = tuple(map(_text, names))
        self.identity = f"torchvision:{self._name}:{self._manifest(root, known.files)}"

    def count(self, split: Split) -> int:
        """Return the number of images."""
        return len(self._data[split])

    def image(self, split: Split, index: int) -> tuple[Image.Image, int]:
        """Return an image in RGB and its label; one that cannot be read is a ``UserError`` that names it."""
        where = f"image {index} of {split} in {self._name}"
        try:
            image, label = self._data[split][index]
        except (*_BROKEN, Image.DecompressionBombError) as error:
            raise unreadable(where, error) from error
        if not 0 <= int(label) < len(self.classes):
            raise UserError(f"{where} has the label {label}; expected 0..{len(self.classes) - 1}")
        return rgb(image), int(label)

    def _require(self, root: Path, files: tuple[str, ...]) -> None:
        try:
            missing = next((root / file for file in files if not (root / file).exists()), None)
        except OSError as error:
            raise unreadable(repr(str(root)), error) from error
        if missing is not None:
            hint = f"torchvision.datasets.{self._name} looks there, and nothing is downloaded"
            raise UserError(f"{str(missing)!r} does not exist: {hint}")

    def _open(self, root: Path, how: Mapping[str, Any]) -> Any:
        from torchvision import datasets

        try:
            return getattr(datasets, self._name)(str(root), **how)
        except _BROKEN as error:
            given = ", ".join(f"{key}={value!r}" for key, value in how.items())
            place = f"torchvision.datasets.{self._name}({str(root)!r}, {given})"
            raise unreadable(place, error) from error

    def _manifest(self, root: Path, files: tuple[str, ...]) -> str:
        """Return a hash, 16 hex digits: of pictures and labels where they are in memory, else of names and sizes."""
        digest = hashlib.sha256()
        if all(isinstance(getattr(data, "data", None), np.ndarray) or _is_tensor(data) for data in self._data.values()):
            for data in self._data.values():
                labels = next(getattr(data, name) for name in ("targets", "labels") if hasattr(data, name))
                digest.update(np.ascontiguousarray(data.data).tobytes())
                digest.update(np.asarray(labels, dtype=np.int64).tobytes())
            return digest.hexdigest()[:16]
        found = [path for file in files for path in ([root / file] if (root / file).is_file() else _below(root / file))]
        for path in sorted(found):
            digest.update(
                f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\n".encode("utf-8", "surrogateescape")
            )
        return digest.hexdigest()[:16]


def _below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _is_tensor(data: Any) -> bool:
    import torch

    return isinstance(getattr(data, "data", None), torch.Tensor)


def _text(name: Any) -> str:
    return ", ".join(map(str, name)) if isinstance(name, tuple) else str(name)  # ImageNet has synonyms


def _canonical(name: str) -> str:
    """Return torchvision's spelling of ``name``, which may be timm's: fashion_mnist."""
    plain = {"".join(filter(str.isalnum, known)).lower(): known for known in (*_KNOWN, *_SHORT)}
    found = plain.get("".join(filter(str.isalnum, name)).lower())
    if found is None:
        from torchvision import datasets

        if name in datasets.__all__:
            what = "is not split into training and validation images of one label each"
            raise UserError(f"torchvision's {name} {what}; save it as a folder or a tar and give that")
        raise unknown("torchvision data set", name, _KNOWN)
    return _SHORT.get(found, found)


_SHORT: Final = {"inat": "INaturalist"}  # timm's
