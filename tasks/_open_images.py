"""Labelled images by one word: a folder, or a kind of data set with its place.

=======================================  ===========================================================================
``PATH``                                 ImageNet layout: ``train/<class>/*`` and ``val/<class>/*``
``torchvision:CIFAR10:ROOT``             a data set of torchvision below ROOT; also timm's ``torch/cifar10:ROOT``
``tar:ROOT``, ``tar:TRAIN,VAL``          class folders in tar files: ``ROOT/train.tar`` and ``ROOT/val.tar``
``wds:ROOT``, ``wds:TRAIN,VAL``          a webdataset, its shards by ``_info.json`` or by name; also ``wds/ROOT``
``hfds:PATH``, ``hfds/USER/NAME``        a data set of the library ``datasets``, on disk or in its cache
=======================================  ===========================================================================

The prefixes before a stroke are timm's. A folder that happens to begin like one is written ``./wds/x``.
"""

import re
from pathlib import Path
from typing import Final

from attnbench.errors import UserError

from ._folder import Folder
from ._huggingface_data import HuggingFaceImages
from ._packed import Packed
from ._tar_data import open_tar
from ._torchvision_data import TorchvisionImages
from ._webdataset_data import open_webdataset

_REFUSED: Final = {
    "hfids": "streams, and images are read by position here; write hfds/... for the same data set",
    "tfds": "streams TFRecord files, and images are read by position here; save it as a webdataset or a folder",
}
_PREFIX: Final = re.compile(r"(?i)(?:(torchvision|tar|folder):|(torch|wds|hfds|hfids|tfds)[:/])(.*)", re.DOTALL)


def open_images(data: str) -> Folder | TorchvisionImages | Packed | HuggingFaceImages:
    """Return the images that ``data`` names.

    Raises:
        UserError: nothing there, broken, or of a kind that cannot be read by position.
    """
    match = _PREFIX.fullmatch(data)
    kind, place = ("folder", data) if match is None else ((match[1] or match[2]).lower(), match[3])
    if kind in _REFUSED:
        raise UserError(f"{data!r}: {kind} {_REFUSED[kind]}")
    if not place:
        raise UserError(f"{data!r} says no place; write {kind}:PATH")
    if kind in ("torchvision", "torch"):
        name, colon, root = place.partition(":")
        if not colon or not root:
            raise UserError(f"{data!r}: write torchvision:NAME:ROOT, such as torchvision:CIFAR10:/data")
        return TorchvisionImages(name, Path(root))
    if kind == "hfds":
        return HuggingFaceImages(place)
    if kind == "folder":
        return Folder(Path(place))
    return open_tar(place) if kind == "tar" else open_webdataset(place)
