"""torchvision's data sets: what its own readers read from small files of each layout, and what is refused."""

import hashlib
import importlib
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attnbench.errors import UserError

opening: Any = importlib.import_module("attnbench.tasks._open_images")
source: Any = importlib.import_module("attnbench.tasks._torchvision_data")


def refusal(data: str) -> str:
    with pytest.raises(UserError) as caught:
        opening.open_images(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_mnist(root: Path, name: str = "MNIST", seed: int = 0) -> dict[str, Any]:
    """Write raw IDX files (LeCun's format: big-endian sizes, then bytes); return what was written."""
    random, raw, written = np.random.default_rng(seed), root / name / "raw", {}
    raw.mkdir(parents=True)
    for split, stem, count in (("train", "train", 12), ("val", "t10k", 5)):
        images, labels = random.integers(0, 256, (count, 28, 28), np.uint8), (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, count, 28, 28) + images.tobytes())
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, count) + labels.tobytes())
        written[split] = (images, labels)
    return written


@pytest.mark.parametrize("word", ["torchvision:MNIST", "torchvision:mnist", "torch/mnist"])
def test_mnist_is_what_its_files_say(word: str, tmp_path: Path) -> None:
    written = write_mnist(tmp_path)
    data = opening.open_images(f"{word}:{tmp_path}")
    assert (data.count("train"), data.count("val"), len(data.classes)) == (12, 5, 10)
    for split, (images, labels) in written.items():
        for index in range(len(images)):
            image, label = data.image(split, index)
            assert (image.mode, label) == ("RGB", labels[index])
            assert np.array_equal(np.asarray(image), images[index][..., None].repeat(3, axis=2))


def test_timms_spelling_of_a_name_is_torchvisions(tmp_path: Path) -> None:
    write_mnist(tmp_path, "FashionMNIST")
    assert opening.open_images(f"torch/fashion_mnist:{tmp_path}").classes[0] == "T-shirt/top"


def test_the_identity_is_the_content_and_not_the_place(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_mnist(tmp_path / name, seed=seed)
    first, same, other = (opening.open_images(f"torchvision:MNIST:{tmp_path / name}").identity for name in "abc")
    assert first == same != other


def test_it_can_be_pickled_for_the_loaders_workers(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    data = opening.open_images(f"torchvision:MNIST:{tmp_path}")
    assert pickle.loads(pickle.dumps(data)).image("val", 3)[0].tobytes() == data.image("val", 3)[0].tobytes()


def test_cifar_is_read_by_torchvision_which_checks_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    random, folder, sums = np.random.default_rng(0), tmp_path / "cifar-10-batches-py", {}
    folder.mkdir()
    pixels = {name: random.integers(0, 256, (4, 3072), np.uint8) for name, _ in CIFAR10.train_list + CIFAR10.test_list}
    names = [*"abcdefghij"]
    for name, data in pixels.items():
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": [0, 3, 9, 1]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    assert "not found or corrupted" in refusal(f"torchvision:CIFAR10:{tmp_path}")  # the sums are not CIFAR's
    for file in folder.iterdir():
        sums[file.name] = hashlib.md5(file.read_bytes()).hexdigest()
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(CIFAR10, attribute, [[name, sums[name]] for name, _ in getattr(CIFAR10, attribute)])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
    data = opening.open_images(f"torchvision:CIFAR10:{tmp_path}")
    assert (data.count("train"), data.count("val"), data.classes) == (20, 4, tuple(names))
    image, label = data.image("val", 1)
    assert np.array_equal(np.asarray(image), pixels["test_batch"][1].reshape(3, 32, 32).transpose(1, 2, 0))
    assert label == 3


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 8), (7, 8, 9)).save(path)


def test_validation_is_the_data_sets_own_where_there_is_one(tmp_path: Path) -> None:
    for folder, count in (("train", 3), ("valid", 2), ("test", 1)):
        for name in ("AD", "BE"):
            for number in range(count):
                write_image(tmp_path / "country211" / folder / name / f"{number}.png")
    data = opening.open_images(f"torchvision:Country211:{tmp_path}")
    assert (data.count("train"), data.count("val"), data.classes) == (6, 4, ("AD", "BE"))
    before = data.identity
    write_image(tmp_path / "country211/train/AD/9.png")
    assert opening.open_images(f"torchvision:Country211:{tmp_path}").identity != before


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        for name in ("AD", "BE"):
            write_image(tmp_path / "country211" / split / name / "0.png")
    (tmp_path / "country211/valid/BE/0.png").write_bytes(b"no image")
    data = opening.open_images(f"torchvision:Country211:{tmp_path}")
    with pytest.raises(UserError, match="cannot read image 1 of val in Country211"):
        data.image("val", 1)


def test_missing_files_are_told_with_where_they_are_looked_for(tmp_path: Path) -> None:
    for name, known in source._KNOWN.items():
        said = refusal(f"torchvision:{name}:{tmp_path}")
        assert str(tmp_path / known.files[0]) in said
        assert f"torchvision.datasets.{name}" in said


def test_files_of_the_wrong_form_are_one_line(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "MNIST/raw/train-images-idx3-ubyte").write_bytes(b"\0" * 100)
    assert "cannot read torchvision.datasets.MNIST" in refusal(f"torchvision:MNIST:{tmp_path}")


def test_an_unknown_name_gets_the_nearest(tmp_path: Path) -> None:
    assert "did you mean 'CIFAR10'?" in refusal(f"torchvision:CIFAR1O:{tmp_path}")


def test_the_table_names_classes_and_arguments_that_torchvision_has() -> None:
    import inspect

    from torchvision import datasets

    for name, known in source._KNOWN.items():
        accepted = inspect.signature(getattr(datasets, name).__init__).parameters
        assert set(known.train) | set(known.val) <= set(accepted)
        assert set(known.train) == set(known.val)
