"""The classification task on data of every kind: the same batches whatever the number of workers."""

import importlib
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attnbench.recipe import Recipe
from attnbench.registry import TASKS
from attnbench.task_contract import Batch, Loading

# By string: a type checker cannot see that tasks/ is installed as attnbench.tasks.
opening: Any = importlib.import_module("attnbench.tasks._open")

RESOLUTION = (32, 32)


def png(number: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 50, 3), np.uint8)).save(stream, "png")
    return stream.getvalue()


NAMES = [(split, name, number) for split in ("train", "val") for name in ("cat", "dog") for number in range(4)]


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """Return words that name the same images as a folder, as tars and as a webdataset."""
    for position, (split, name, number) in enumerate(NAMES):
        path = tmp_path / "folder" / split / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(position))
    for kind in ("tar", "wds"):
        (tmp_path / kind).mkdir()
        for split in ("train", "val"):
            with tarfile.open(tmp_path / kind / f"{split}.tar", "w") as tar:
                for position, (other, name, number) in enumerate(NAMES):
                    if other == split:
                        add(tar, f"{name}/{number}.png", png(position))
                        if kind == "wds":
                            add(tar, f"{name}/{number}.cls", str(int(name == "dog")).encode())
    return {"folder": str(tmp_path / "folder"), "tar": f"tar:{tmp_path / 'tar'}", "wds": f"wds:{tmp_path / 'wds'}"}


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def batches(word: str, split: Any, workers: int = 0) -> list[Batch]:
    loading = Loading(batch_size=4, seed=3, workers=workers)
    return list(TASKS["classification"](word).batches(split, RESOLUTION, loading, Recipe()))


def equal(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) > 0 and all(
        torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("kind", ["tar", "wds"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_packed_images_make_the_batches_of_the_folder(kind: str, split: str, places: dict[str, str]) -> None:
    assert equal(batches(places[kind], split), batches(places["folder"], split))


@pytest.mark.parametrize("kind", ["tar", "wds"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # Python 3.12 on threads; workers only read
def test_workers_change_nothing(kind: str, places: dict[str, str]) -> None:
    assert equal(batches(places[kind], "train", workers=2), batches(places[kind], "train"))


def test_the_identities_of_the_kinds_differ_for_their_classes_have_other_names(places: dict[str, str]) -> None:
    assert len({opening.open_source(word).identity for word in places.values()}) == len(places)
