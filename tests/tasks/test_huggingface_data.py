"""Data sets of the library ``datasets``: read by position, from this machine only."""

import importlib
import io
import pickle
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from attnbench.errors import UserError

opening: Any = importlib.import_module("attnbench.tasks._open_images")
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (6, 5), (value, 2, 3)).save(stream, "png")
    return stream.getvalue()


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Yield the library with an empty cache and a network that must not be asked for."""
    datasets: Any = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    asked = []

    def refuse(*address: object, **_: object) -> None:
        asked.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield datasets
    assert not asked, "the network was asked for"


def save(datasets: Any, path: Path, labels: dict[str, list[int]], names: list[str] | None) -> Path:
    """Save splits of images whose red is ten times the position."""
    label = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    features = datasets.Features({"image": datasets.Image(), "label": label})
    splits = {
        split: datasets.Dataset.from_dict(
            {"image": [{"bytes": png(10 * n), "path": None} for n in range(len(found))], "label": found}, features
        )
        for split, found in labels.items()
    }
    datasets.DatasetDict(splits).save_to_disk(str(path))
    return path


LABELS = {"train": [0, 1, 1, 0], "validation": [1, 0], "test": [0]}


def refusal(data: str) -> str:
    with pytest.raises(UserError) as caught:
        opening.open_images(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_saved_data_set_is_read_by_position(library: Any, tmp_path: Path) -> None:
    images = opening.open_images(f"hfds:{save(library, tmp_path / 'a', LABELS, ['cat', 'dog'])}")
    assert images.classes == ("cat", "dog")
    assert (images.count("train"), images.count("val")) == (4, 2)
    found = [images.image("train", index) for index in (3, 1, 0)]
    assert [(image.mode, image.getpixel((0, 0)), label) for image, label in found] == [
        ("RGB", (30, 2, 3), 0),
        ("RGB", (10, 2, 3), 1),
        ("RGB", (0, 2, 3), 0),
    ]


def test_it_can_be_pickled_for_the_loaders_workers(library: Any, tmp_path: Path) -> None:
    images = opening.open_images(f"hfds:{save(library, tmp_path / 'a', LABELS, ['cat', 'dog'])}")
    again = pickle.loads(pickle.dumps(images))
    assert again.image("val", 1)[0].getpixel((0, 0)) == (10, 2, 3)


def test_the_identity_is_the_content_and_not_the_place(library: Any, tmp_path: Path) -> None:
    def identity(name: str, labels: dict[str, list[int]]) -> str:
        found: str = opening.open_images(f"hfds:{save(library, tmp_path / name, labels, ['a', 'b'])}").identity
        return found

    first = identity("a", LABELS)
    assert identity("b", LABELS) == first
    library.load_from_disk(str(tmp_path / "a")).save_to_disk(
        str(tmp_path / "d"), num_shards={"train": 3, "validation": 2, "test": 1}
    )
    assert opening.open_images(f"hfds:{tmp_path / 'd'}").identity == first
    assert identity("c", {**LABELS, "train": [0, 1, 1, 1]}) != first


def test_a_local_folder_of_parquet_files_is_opened_as_timm_opens_it(library: Any, tmp_path: Path) -> None:
    saved = library.load_from_disk(str(save(library, tmp_path / "a", LABELS, ["cat", "dog"])))
    for split in ("train", "validation"):
        (tmp_path / "p").mkdir(exist_ok=True)
        saved[split].to_parquet(str(tmp_path / "p" / f"{split}-00000-of-00001.parquet"))
    images = opening.open_images(f"hfds:{tmp_path / 'p'}")
    assert (images.classes, images.count("train"), images.count("val")) == (("cat", "dog"), 4, 2)
    assert images.identity == opening.open_images(f"hfds:{tmp_path / 'a'}").identity
    assert images.image("val", 1)[0].getpixel((0, 0)) == (10, 2, 3)


def test_a_local_folder_of_class_folders_is_opened(library: Any, tmp_path: Path) -> None:
    for split in ("train", "validation"):
        for value, name in enumerate(("cat", "dog")):
            path = tmp_path / "f" / split / name / "0.png"
            path.parent.mkdir(parents=True)
            path.write_bytes(png(value))
    images = opening.open_images(f"hfds:{tmp_path / 'f'}")
    assert images.classes == ("cat", "dog")
    assert [images.image("val", n)[1] for n in range(2)] == [0, 1]


def test_nothing_is_downloaded(library: Any, tmp_path: Path) -> None:
    assert "without the network" in refusal("hfds/some/name")
    card = '---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: "https://host.test/x.parquet"\n---\n'
    (tmp_path / "remote").mkdir()
    (tmp_path / "remote/README.md").write_text(card)
    assert "without the network" in refusal(f"hfds:{tmp_path / 'remote'}")


def test_files_elsewhere_are_not_followed(library: Any, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(1))
    parquet: Any = importlib.import_module("pyarrow.parquet")
    features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=["a", "b"])})
    rows = {"image": [{"bytes": None, "path": str(tmp_path / "secret.png")}] * 2, "label": [0, 1]}
    (tmp_path / "d").mkdir()
    for split in ("train", "test"):  # by pyarrow: the library itself would put the file's content in
        table = library.Dataset.from_dict(rows, features).data.table
        parquet.write_table(table, tmp_path / "d" / f"{split}.parquet")
    images = opening.open_images(f"hfds:{tmp_path / 'd'}")
    with pytest.raises(UserError, match="no file of the data set"):
        images.image("train", 0)


def test_what_is_wrong_is_said(library: Any, tmp_path: Path) -> None:
    only = save(library, tmp_path / "a", {"train": [0, 1]}, ["cat", "dog"])
    assert "has no split val or validation" in refusal(f"hfds:{only}")
    unlabelled = save(library, tmp_path / "b", {"train": [0, 1], "test": [-1, -1]}, None)
    assert "has labels -1..-1 in val; expected labels 0..1" in refusal(f"hfds:{unlabelled}")
    text = library.DatasetDict({"train": library.Dataset.from_dict({"text": ["a"]})})
    text.save_to_disk(str(tmp_path / "c"))
    text["test"] = text["train"]
    text.save_to_disk(str(tmp_path / "c"))
    assert "expected an image column" in refusal(f"hfds:{tmp_path / 'c'}")


def test_without_the_library_the_way_to_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'datasets>=4'" in refusal("hfds:anything")


def test_a_version_that_runs_the_code_of_data_sets_is_refused(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "__version__", "3.6.0")
    assert "datasets 3.6.0 may run code" in refusal("hfds:anything")
