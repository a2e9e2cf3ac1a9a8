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


def lay_out_dtd(root: Path) -> None:
    for split in ("train", "val"):
        write_text(root / f"dtd/dtd/labels/{split}1.txt", "dots/a.jpg", "lines/b.jpg")
    write_image(root / "dtd/dtd/images/dots/a.jpg")
    write_image(root / "dtd/dtd/images/lines/b.jpg")


def lay_out_food101(root: Path) -> None:
    for split in ("train", "test"):
        write_text(root / f"food-101/meta/{split}.json", '{"apple": ["apple/1"], "bread": ["bread/1"]}')
    write_image(root / "food-101/images/apple/1.jpg")
    write_image(root / "food-101/images/bread/1.jpg")


def lay_out_fgvcaircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b/data"
    write_text(data / "variants.txt", "A", "B")
    for split in ("train", "val"):
        write_text(data / f"images_variant_{split}.txt", "1 A", "2 B")
    write_image(data / "images/1.jpg")
    write_image(data / "images/2.jpg")


def lay_out_gtsrb(root: Path) -> None:
    for number in (0, 1):
        write_image(root / f"gtsrb/GTSRB/Training/{number:05}/a.ppm")
        write_image(root / f"gtsrb/GTSRB/Final_Test/Images/{number}.ppm")
    write_text(root / "gtsrb/GT-final_test.csv", "Filename;ClassId", "0.ppm;0", "1.ppm;1")


def lay_out_renderedsst2(root: Path) -> None:
    for split in ("train", "valid"):
        for name in ("negative", "positive"):
            write_image(root / f"rendered-sst2/{split}/{name}/1.png")


def lay_out_oxfordiiitpet(root: Path) -> None:
    for split in ("trainval", "test"):
        write_text(root / f"oxford-iiit-pet/annotations/{split}.txt", "Cat_1 1 1 1", "Dog_1 2 2 1")
    write_image(root / "oxford-iiit-pet/images/Cat_1.jpg")
    write_image(root / "oxford-iiit-pet/images/Dog_1.jpg")


def write_text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("name", ["DTD", "Food101", "FGVCAircraft", "GTSRB", "RenderedSST2", "OxfordIIITPet"])
def test_files_laid_out_as_torchvision_looks_for_them_are_read(name: str, tmp_path: Path) -> None:
    globals()[f"lay_out_{name.lower()}"](tmp_path)
    data = opening.open_images(f"torchvision:{name}:{tmp_path}")
    for split in ("train", "val"):
        assert [data.image(split, index)[1] for index in range(data.count(split))] == [0, 1]
        assert np.abs(np.asarray(data.image(split, 0)[0], dtype=int) - (7, 8, 9)).max() <= 1  # by JPEG
    assert len(data.classes) == (43 if name == "GTSRB" else 2)


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
    assert "is not split into training and validation" in refusal(f"torchvision:EuroSAT:{tmp_path}")
    assert "did you mean 'CIFAR10'?" in refusal(f"torchvision:CIFAR1O:{tmp_path}")


def test_the_table_names_classes_and_arguments_that_torchvision_has() -> None:
    import inspect

    from torchvision import datasets

    for name, known in source._KNOWN.items():
        accepted = inspect.signature(getattr(datasets, name).__init__).parameters
        assert set(known.train) | set(known.val) <= set(accepted)
        assert set(known.train) == set(known.val)
