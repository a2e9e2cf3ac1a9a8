"""Images by a word: which data set a prefix opens, tar files, webdatasets and what is refused."""

import importlib
import io
import json
import multiprocessing
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attnbench.errors import UserError

# By string: a type checker cannot see that tasks/ is installed as attnbench.tasks.
opening: Any = importlib.import_module("attnbench.tasks._open_images")
folder: Any = importlib.import_module("attnbench.tasks._folder")

COLOURS = {"cat": 40, "dog": 90, "eel": 140}


def png(value: int, size: tuple[int, int] = (6, 5)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (value, 2, 3)).save(stream, "png")
    return stream.getvalue()


def pack(path: Path, items: list[tuple[str, bytes]], mode: Any = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in items:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def class_items(prefix: str = "", extra: int = 0) -> list[tuple[str, bytes]]:
    return [(f"{prefix}{name}/{n}.png", png(value + n + extra)) for name, value in COLOURS.items() for n in range(2)]


def refusal(data: Any) -> str:
    with pytest.raises(UserError) as caught:
        opening.open_images(str(data))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def contents(images: Any) -> list[tuple[str, int, int]]:
    """Return (split, red, label) of every image."""
    found = []
    for split in ("train", "val"):
        for index in range(images.count(split)):
            image, label = images.image(split, index)
            assert image.mode == "RGB"
            found.append((split, image.getpixel((0, 0))[0], label))
    return found


EXPECTED = [
    (split, value + n + extra, label)
    for split, extra in (("train", 0), ("val", 10))
    for label, value in enumerate(COLOURS.values())
    for n in range(2)
]


@pytest.fixture
def tarred(tmp_path: Path) -> Path:
    pack(tmp_path / "data/train.tar", class_items()[::-1])
    pack(tmp_path / "data/val.tar", class_items(extra=10))
    return tmp_path / "data"


def test_class_folders_in_a_tar_are_read_in_the_order_of_a_folder(tarred: Path) -> None:
    images = opening.open_images(f"tar:{tarred}")
    assert images.classes == ("cat", "dog", "eel")
    assert contents(images) == EXPECTED


def test_a_tar_has_the_images_and_labels_that_timms_reader_finds(tarred: Path) -> None:
    from timm.data.readers.reader_image_in_tar import ReaderImageInTar

    reader = ReaderImageInTar(str(tarred / "train.tar"))
    theirs = [
        (int(np.asarray(Image.open(file))[0, 0, 0]), int(label)) for file, label in map(reader.__getitem__, range(6))
    ]
    reader.tar_state.tf.close()
    images = opening.open_images(f"tar:{tarred}")
    assert sorted(theirs) == sorted((red, label) for split, red, label in contents(images) if split == "train")


def test_a_tar_of_a_tar_per_class_is_read_like_imagenets_archive(tarred: Path) -> None:
    pack(
        tarred / "train.tar",
        [
            (f"{name}.tar", pack(tarred / "x", [(f"{n}.png", png(value + n)) for n in range(2)]).read_bytes())
            for name, value in COLOURS.items()
        ],
    )
    (tarred / "x").unlink()
    assert contents(opening.open_images(f"tar:{tarred}")) == EXPECTED


def test_a_folder_of_a_tar_per_class_takes_their_names(tarred: Path) -> None:
    (tarred / "train.tar").unlink()
    for name, value in COLOURS.items():
        pack(tarred / f"train/{name}.tar", [(f"{n}.png", png(value + n)) for n in range(2)])
    assert contents(opening.open_images(f"tar:{tarred}")) == EXPECTED


def test_the_identity_is_the_content_and_not_the_place_or_the_order(tarred: Path, tmp_path: Path) -> None:
    first = opening.open_images(f"tar:{tarred}").identity
    pack(tmp_path / "a.tar", class_items())
    pack(tmp_path / "b.tar", class_items(extra=10)[::-1])
    assert opening.open_images(f"tar:{tmp_path / 'a.tar'},{tmp_path / 'b.tar'}").identity == first
    pack(tmp_path / "b.tar", [*class_items(extra=10), ("cat/9.png", png(1))])
    assert opening.open_images(f"tar:{tmp_path / 'a.tar'},{tmp_path / 'b.tar'}").identity != first


def _red(images: Any, index: int) -> int:
    return int(np.asarray(images.image("train", index)[0])[0, 0, 0])


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # threads of torch; the children only read files
def test_images_travel_to_processes_that_are_forked_or_spawned(start: str, tarred: Path) -> None:
    images = opening.open_images(f"tar:{tarred}")
    _red(images, 0)  # opened here before
    with multiprocessing.get_context(start).Pool(2) as pool:
        reds = pool.starmap(images.image, [("train", index) for index in range(6)])
    assert [image.getpixel((0, 0))[0] for image, _ in reds] == [red for split, red, _ in EXPECTED if split == "train"]


def test_names_in_a_tar_are_never_paths(tarred: Path, tmp_path: Path) -> None:
    pack(tarred / "train.tar", [("../../cat/0.png", png(1)), ("/etc/dog/0.png", png(2)), ("cat/._0.png", b"x")])
    pack(tarred / "val.tar", [("cat/0.png", png(3))])
    images = opening.open_images(f"tar:{tarred}")
    assert contents(images) == [("train", 1, 0), ("train", 2, 1), ("val", 3, 0)]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["data", "train.tar", "val.tar"]


def test_links_in_a_tar_are_passed_over(tarred: Path) -> None:
    with tarfile.open(tarred / "train.tar", "a") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            info = tarfile.TarInfo("cat/link.png")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    assert contents(opening.open_images(f"tar:{tarred}")) == EXPECTED


def test_what_is_wrong_with_tars_is_said(tarred: Path, tmp_path: Path) -> None:
    assert "does not exist" in refusal(f"tar:{tmp_path / 'a.tar'},{tarred / 'val.tar'}")
    assert "is no folder of tar files" in refusal(f"tar:{tmp_path / 'nowhere'}")
    assert "for training and for validation" in refusal(f"tar:{tarred / 'val.tar'},{tarred / 'val.tar'}")
    assert "expected train.tar, train/*.tar" in refusal(f"tar:{tmp_path}")
    whole = (tarred / "train.tar").read_bytes()
    (tarred / "train.tar").write_bytes(whole[:700])
    assert "without compression" in refusal(f"tar:{tarred}")
    pack(tarred / "train.tar", class_items(), "w:gz")
    assert "without compression" in refusal(f"tar:{tarred}")
    pack(tarred / "train.tar", [("0.png", png(1))])
    assert "expected <class>/<image>" in refusal(f"tar:{tarred}")
    pack(tarred / "train.tar", class_items()[:4])
    assert "class 'eel'" in refusal(f"tar:{tarred}")
    assert "not among those of training" in refusal(f"tar:{tarred}")
    pack(tarred / "train.tar", [("cat/readme.txt", b"")])
    assert "holds no image" in refusal(f"tar:{tarred}")


def test_a_broken_image_in_a_tar_is_named(tarred: Path) -> None:
    pack(tarred / "train.tar", [*class_items(), ("cat/bad.png", png(1)[:50])])
    images = opening.open_images(f"tar:{tarred}")
    with pytest.raises(UserError, match=r"'cat/bad.png' in '.*train.tar'"):
        images.image("train", 2)
    (tarred / "train.tar").write_bytes(b"")
    with pytest.raises(UserError, match="the tar ends before it"):
        images.image("train", 0)


def sample(key: str, value: int, label: object, kind: str = "cls") -> list[tuple[str, bytes]]:
    return [(f"{key}.png", png(value)), (f"{key}.{kind}", str(label).encode())]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    root = tmp_path / "shards"
    for shard in range(2):
        items = [item for n in range(3) for item in sample(f"s{shard}{n}", 10 * shard + n, n)]
        pack(root / f"x-train-{shard:06}.tar", items)
    pack(root / "x-validation-000000.tar", sample("v0", 99, 2) + sample("v1", 98, 0))
    return root


WANTED = [*[("train", 10 * s + n, n) for s in range(2) for n in range(3)], ("val", 99, 2), ("val", 98, 0)]


@pytest.mark.parametrize("word", ["wds:{}", "wds/{}", "WDS/{}"])
def test_a_webdataset_is_read_by_position_in_the_order_of_its_shards(word: str, shards: Path) -> None:
    images = opening.open_images(word.format(shards))
    assert contents(images) == WANTED
    assert images.classes == ("0", "1", "2")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # that library leaves files open
def test_a_webdataset_is_what_the_library_webdataset_streams(shards: Path) -> None:
    wds = pytest.importorskip("webdataset")
    images = opening.open_images(f"wds:{shards}")
    stream = wds.WebDataset([str(path) for path in sorted(shards.glob("*train*"))], shardshuffle=False)
    theirs = [(int(np.asarray(Image.open(io.BytesIO(item["png"])))[0, 0, 0]), int(item["cls"])) for item in stream]
    assert theirs == [(red, label) for split, red, label in contents(images) if split == "train"]


def test_shards_may_be_counted_in_braces_or_marked_with_a_star(shards: Path) -> None:
    place = f"wds:{shards}/x-train-{{000000..000001}}.tar,{shards}/x-val*.tar"
    assert contents(opening.open_images(place)) == WANTED
    assert "x-train-000002.tar' does not exist" in refusal(place.replace("01}", "02}"))


def test_a_description_of_the_shards_is_followed_and_never_outside(shards: Path) -> None:
    info = {
        "splits": {
            "train": {"filenames": ["x-train-000001.tar"]},
            "validation": {"filenames": ["x-validation-000000.tar"]},
        }
    }
    (shards / "_info.json").write_text(json.dumps(info))
    assert contents(opening.open_images(f"wds:{shards}")) == [item for item in WANTED if item not in WANTED[:3]]
    for name in ("../x.tar", "/etc/x.tar", "pipe://id", "http://host/x.tar"):
        info["splits"]["train"]["filenames"] = [name]
        (shards / "_info.json").write_text(json.dumps(info))
        assert "lies outside" in refusal(f"wds:{shards}")
    (shards / "_info.json").write_text('{"splits": 3}')
    assert "no description" in refusal(f"wds:{shards}")
    (shards / "_info.json").write_text('{"splits": {"train": {"filenames": ["x-train-000001.tar"]}}}')
    assert "no split val" in refusal(f"wds:{shards}")


def test_labels_may_be_in_json_under_the_described_key(shards: Path) -> None:
    pack(shards / "t.tar", sample("a", 1, '{"label": 0}', "json") + sample("b", 2, '{"label": 1}', "json"))
    pack(shards / "v.tar", sample("a", 3, '{"label": 1}', "json") + sample("b", 4, '{"label": -1}', "json"))
    images = opening.open_images(f"wds:{shards / 't.tar'},{shards / 'v.tar'}")
    assert contents(images) == [("train", 1, 0), ("train", 2, 1), ("val", 3, 1)]  # -1: left out, as by timm


class Trap:
    """Writes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.path,)


def test_pickles_in_a_webdataset_are_never_loaded(shards: Path, tmp_path: Path) -> None:
    content = pickle.dumps(Trap(tmp_path / "sprung"))
    pickle.loads(content)
    (tmp_path / "sprung").unlink()
    bad = [(f"a.{kind}", content) for kind in ("pyd", "pickle", "pkl", "pth", "npy")]
    pack(shards / "x-train-000000.tar", [("a.png", png(7)), ("a.cls", b"1"), *bad])
    assert ("train", 7, 1) in contents(opening.open_images(f"wds:{shards}"))
    assert not (tmp_path / "sprung").exists()


def test_names_of_classes_come_from_a_file_beside_the_shards(shards: Path) -> None:
    (shards / "classes.txt").write_text("cat\ndog\neel\n")
    assert opening.open_images(f"wds:{shards}").classes == ("cat", "dog", "eel")
    (shards / "classes.txt").write_text("cat\n")
    assert "names 1 classes, but labels go up to 2" in refusal(f"wds:{shards}")


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([("a.png", png(1))], "has no label"),
        (sample("a", 1, "cat"), "no whole number"),
        (sample("a", 1, "-2"), "has the label -2"),
        (sample("a", 1, "9" * 7), "has the label 9999999"),
        (sample("a", 1, "[" * 100_000, "json"), "no whole number"),
        (sample("a", 1, '{"label": true}', "json"), "no whole number"),
        ([*sample("a", 1, 0), ("a.png", png(1))], "is there twice"),
        ([("a.txt", b"1")], "holds no image for val"),
        (sample("a", 1, 3), "beyond the labels 0..2"),
    ],
)
def test_a_malformed_example_is_named(items: list[tuple[str, bytes]], said: str, shards: Path) -> None:
    pack(shards / "x-validation-000000.tar", items)
    assert said in refusal(f"wds:{shards}")


def test_other_words_are_folders_or_refused(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in COLOURS:
            path = tmp_path / "wds" / split / name / "0.png"
            path.parent.mkdir(parents=True)
            path.write_bytes(png(1))
    assert opening.open_images(str(tmp_path / "wds")).count("val") == 3
    assert opening.open_images(f"folder:{tmp_path / 'wds'}").count("val") == 3
    assert "hfds/" in refusal("hfids/imagenet-1k")
    assert "webdataset or a folder" in refusal("tfds/imagenette")
    assert "torchvision:NAME:ROOT" in refusal("torchvision:CIFAR10")
    assert "says no place" in refusal("tar:")
    assert "does not exist" in refusal(tmp_path / "nowhere")


def test_a_tar_decodes_images_as_a_folder_does(tarred: Path, tmp_path: Path) -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    clear.save(tmp_path / "a.png")
    pack(tarred / "train.tar", [*class_items(), ("cat/00.png", (tmp_path / "a.png").read_bytes())])
    image, _ = opening.open_images(f"tar:{tarred}").image("train", 1)
    assert np.array_equal(image, folder.load(tmp_path / "a.png"))
